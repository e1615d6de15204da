"""Takes text out of pictures: all of it, what captions say of it, and as much elsewhere for comparison.

Names are imported when they are first used, so that worker processes start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.text_removal.job import EraseJob as EraseJob
    from datamodules.text_removal.job import EraseOutcome as EraseOutcome
    from datamodules.text_removal.settings import VIEWS as VIEWS
    from datamodules.text_removal.settings import EraseSettings as EraseSettings

_HOME = {
    "VIEWS": "datamodules.text_removal.settings",
    "EraseJob": "datamodules.text_removal.job",
    "EraseOutcome": "datamodules.text_removal.job",
    "EraseSettings": "datamodules.text_removal.settings",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
