"""Reads the text that stands in pictures, by engines behind one interface, and takes it out.

Names are imported when they are first used: what only knows the interface must not cost the import of an engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.ocr.engine import ReaderOptions as ReaderOptions
    from datamodules.ocr.engine import TextReader as TextReader
    from datamodules.ocr.engine import reader_of as reader_of

_HOME = {
    "ReaderOptions": "datamodules.ocr.engine",
    "TextReader": "datamodules.ocr.engine",
    "reader_of": "datamodules.ocr.engine",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
