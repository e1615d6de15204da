"""Fills masks by any inpainting pipeline of diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules.decode import Picture
from datamodules.decorrelation.inpaint import Inpainter
from datamodules.errors import DataError
from datamodules.objects.masks import Mask
from datamodules.synthesis.extra import one_line
from datamodules.synthesis.pipelines import Generator, inpainting
from datamodules.synthesis.settings import GeneratorSettings

PROMPT = "background"


class DiffusionInpainter(Inpainter):
    """A diffusion pipeline that fills masks.

    The picture is brought to the pipeline's size at its own aspect, and what was drawn back to the picture's; only
    pixels of the mask are taken over.

    Args:
        settings: which pipeline, and how it is called.
        prompt: what it is told to draw; naming the object would draw it again.
        device: where it runs.

    Raises:
        DataError: if the extra is missing, or the pipeline cannot be loaded or has no form that inpaints.
    """

    def __init__(self, settings: GeneratorSettings, prompt: str = PROMPT, device: str = "cpu") -> None:
        self.settings, self.prompt = settings, prompt
        self._generator = Generator(settings, device=device)
        self._pipeline = inpainting(self._generator)

    def describe(self) -> dict[str, Any]:
        """The pipeline, its revision and how it is called."""
        about = self._generator.describe()
        return {"name": "diffusion", **about, "pipeline": type(self._pipeline).__name__, "prompt": self.prompt}

    @torch.inference_mode()
    def __call__(self, picture: Picture, mask: Mask, seed: int) -> Picture:
        """Fill the mask, see :class:`Inpainter`.

        Raises:
            DataError: if the pipeline fails.
        """
        if not mask.any():
            return picture.copy()
        height, width = picture.shape[:2]
        size = self._generator.size_for((width, height))
        call: dict[str, Any] = {
            "prompt": self.prompt,
            "image": Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC),
            "mask_image": Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST),
            "width": size[0],
            "height": size[1],
            "generator": torch.Generator("cpu").manual_seed(seed % 2**63),
            "output_type": "pil",
        }
        optional = {
            "num_inference_steps": self.settings.steps,
            "guidance_scale": self.settings.guidance,
            "negative_prompt": self.settings.negative_prompt,
        }
        call |= {name: value for name, value in optional.items() if value is not None}
        try:
            drawn = self._pipeline(**call).images[0]
        except Exception as error:  # whatever a pipeline raises for a picture
            raise DataError(f"--inpainter {self.settings.model}: failed ({one_line(error)})") from error
        back = np.asarray(drawn.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
        filled = picture.copy()
        filled[mask] = back[mask]
        return filled
