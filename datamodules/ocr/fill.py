"""Plain fills of text, one colour or a blur, with the contract of inpainters."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from datamodules.decode import Picture
from datamodules.errors import DataError
from datamodules.objects.masks import Mask


class MeanFill:
    """Fills with the mean colour of the rest of the picture."""

    def describe(self) -> dict[str, Any]:
        """Its name."""
        return {"name": "mask"}

    def __call__(self, picture: Picture, mask: Mask, seed: int = 0) -> Picture:
        """Fill the mask, see :class:`datamodules.decorrelation.inpaint.Inpainter`."""
        filled = picture.copy()
        rest = picture[~mask] if not mask.all() else picture.reshape(-1, 3)
        filled[mask] = np.round(rest.mean(axis=0)).astype(np.uint8)
        return filled


class BlurFill:
    """Takes a Gaussian blur of the whole picture within the mask.

    Args:
        sigma: of the Gaussian, as a share of the picture's shorter side.

    Raises:
        DataError: for a sigma that is not positive.
    """

    def __init__(self, sigma: float = 0.05) -> None:
        if not sigma > 0:
            raise DataError(f"blur of {sigma}: give a share of the shorter side, above 0")
        self.sigma = sigma

    def describe(self) -> dict[str, Any]:
        """Its name and width."""
        return {"name": "blur", "sigma": self.sigma}

    def __call__(self, picture: Picture, mask: Mask, seed: int = 0) -> Picture:
        """Fill the mask, see :class:`datamodules.decorrelation.inpaint.Inpainter`."""
        filled = picture.copy()
        if mask.any():
            blurred = cv2.GaussianBlur(
                np.ascontiguousarray(picture), (0, 0), max(self.sigma * min(picture.shape[:2]), 0.5)
            )
            filled[mask] = blurred[mask]
        return filled
