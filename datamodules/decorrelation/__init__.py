"""Takes objects out of pictures and captions together, and pastes unrelated ones in: counterfactuals by object.

Names are imported when they are first used, so that worker processes start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.decorrelation.inpaint import Inpainter as Inpainter
    from datamodules.decorrelation.inpaint import OpenCvInpainter as OpenCvInpainter
    from datamodules.decorrelation.job import DecorrelationJob as DecorrelationJob
    from datamodules.decorrelation.job import EditOutcome as EditOutcome
    from datamodules.decorrelation.settings import DecorrelationSettings as DecorrelationSettings
    from datamodules.decorrelation.verify import Scorer as Scorer
    from datamodules.decorrelation.verify import Verifier as Verifier

_HOME = {
    "DecorrelationJob": "datamodules.decorrelation.job",
    "DecorrelationSettings": "datamodules.decorrelation.settings",
    "EditOutcome": "datamodules.decorrelation.job",
    "Inpainter": "datamodules.decorrelation.inpaint",
    "OpenCvInpainter": "datamodules.decorrelation.inpaint",
    "Scorer": "datamodules.decorrelation.verify",
    "Verifier": "datamodules.decorrelation.verify",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
