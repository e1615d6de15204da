"""A vision tower of transformers (DINOv2, a ViT) that measures how alike two pictures are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from datamodules.errors import DataError
from datamodules.synthesis.extra import one_line, require_synthesis


class VisionTower:
    """Pools a vision model's output into one vector a picture.

    Args:
        model: a folder that ``save_pretrained`` wrote, or a name on the hub; safetensors only.
        device: where it runs.

    Raises:
        DataError: if it cannot be loaded.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        require_synthesis()
        from transformers import AutoImageProcessor, AutoModel

        self.device = torch.device(device)
        try:
            self.processor: Any = AutoImageProcessor.from_pretrained(model)
            loaded: Any = AutoModel.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"--select-vision {model}: cannot be loaded as a vision model ({one_line(error)})"
            ) from error
        # A dual encoder has two towers; pictures need one.
        self.model: Any = getattr(loaded, "vision_model", loaded).to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures.

        Returns:
            [n, D] float32: the pooled output, else the first token's last state.
        """
        rgb = [image.convert("RGB") for image in images]
        pixels = self.processor(images=rgb, return_tensors="pt")["pixel_values"].to(self.device)
        output = self.model(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        return (pooled if pooled is not None else output.last_hidden_state[:, 0]).flatten(1).float()
