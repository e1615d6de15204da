"""Writes words on the pictures of a shard set: parroting, neutral and misleading ones, and typographic attacks.

Names are imported when they are first used, so that worker processes start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.overlaying.job import OverlayJob as OverlayJob
    from datamodules.overlaying.job import OverlayOutcome as OverlayOutcome
    from datamodules.overlaying.settings import OverlaySettings as OverlaySettings

_HOME = {
    "OverlayJob": "datamodules.overlaying.job",
    "OverlayOutcome": "datamodules.overlaying.job",
    "OverlaySettings": "datamodules.overlaying.settings",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
