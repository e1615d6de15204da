"""Makes counterfactual views: a photo's captions become prompts, a diffusion pipeline draws, the best become twins."""

from datamodules.synthesis.drawing import Progress
from datamodules.synthesis.job import Outcome, TwinJob
from datamodules.synthesis.part import Part
from datamodules.synthesis.prompts import make_writer
from datamodules.synthesis.settings import GeneratorSettings, PromptSettings, TwinSettings

__all__ = [
    "GeneratorSettings",
    "Outcome",
    "Part",
    "Progress",
    "PromptSettings",
    "TwinJob",
    "TwinSettings",
    "make_writer",
]
