"""A process that reads and edits samples. It imports little, since it is started afresh for every job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2

from datamodules.decorrelation.inpaint import Inpainter
from datamodules.index import ShardIndex
from datamodules.ocr.cache import CachedReader
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.work import Result
from datamodules.text_removal.editing import TextEditor
from datamodules.text_removal.planning import Erasure
from datamodules.text_removal.settings import EraseSettings
from datamodules.text_spans import PictureText

_editor: TextEditor | None = None


def make_editor(
    index: ShardIndex,
    settings: EraseSettings,
    reader: CachedReader | None,
    make_fill: Callable[[], Inpainter],
) -> TextEditor:
    """Make an editor of what can be sent to another process."""
    return TextEditor(Photos(index), settings, reader, make_fill())


def start_worker(*arguments: Any) -> None:
    """Make the editor of this process, by the arguments of :func:`make_editor`."""
    global _editor
    cv2.setNumThreads(1)
    _editor = make_editor(*arguments)


def read(row: int) -> PictureText | None:
    """Read a sample's picture by this process's editor."""
    assert _editor is not None
    return _editor.read(row)


def edit(row: int, text: PictureText, plan: tuple[Erasure, ...]) -> Result:
    """Edit a sample by this process's editor."""
    assert _editor is not None
    return _editor.edit(row, text, plan)
