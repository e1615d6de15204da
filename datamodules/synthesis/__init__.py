"""Makes counterfactual views: a photo's captions become prompts, a diffusion pipeline draws, the best become twins.

Names are imported when they are first used: what only moves samples must not cost the import of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.synthesis.job import Outcome as Outcome
    from datamodules.synthesis.job import TwinJob as TwinJob
    from datamodules.synthesis.part import Part as Part
    from datamodules.synthesis.progress import Progress as Progress
    from datamodules.synthesis.prompts import make_writer as make_writer
    from datamodules.synthesis.settings import GeneratorSettings as GeneratorSettings
    from datamodules.synthesis.settings import PromptSettings as PromptSettings
    from datamodules.synthesis.settings import TwinSettings as TwinSettings

_HOME = {
    "GeneratorSettings": "datamodules.synthesis.settings",
    "Outcome": "datamodules.synthesis.job",
    "Part": "datamodules.synthesis.part",
    "Progress": "datamodules.synthesis.progress",
    "PromptSettings": "datamodules.synthesis.settings",
    "TwinJob": "datamodules.synthesis.job",
    "TwinSettings": "datamodules.synthesis.settings",
    "make_writer": "datamodules.synthesis.prompts",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
