"""A process that edits samples. It imports little, since it is started afresh for every shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2

from datamodules.decorrelation.editing import SampleEditor
from datamodules.decorrelation.inpaint import Inpainter
from datamodules.decorrelation.planning import EditPlan, ObjectSource
from datamodules.decorrelation.settings import DecorrelationSettings
from datamodules.index import ShardIndex
from datamodules.objects.mentions import Mentions
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.work import Result

_editor: SampleEditor | None = None


def make_editor(
    index: ShardIndex,
    side: Mapping[str, Any] | None,
    mentions: Mentions,
    settings: DecorrelationSettings,
    make_inpainter: Callable[[], Inpainter],
) -> SampleEditor:
    """Make an editor of what can be sent to another process."""
    return SampleEditor(Photos(index), ObjectSource(side), mentions, settings, make_inpainter())


def start_worker(*arguments: Any) -> None:
    """Make the editor of this process, by the arguments of :func:`make_editor`."""
    global _editor
    cv2.setNumThreads(1)
    _editor = make_editor(*arguments)


def edit(row: int, plan: EditPlan) -> Result:
    """Edit a sample by this process's editor."""
    assert _editor is not None
    return _editor(row, plan)
