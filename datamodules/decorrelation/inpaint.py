"""Fills masks with what lies around them: by OpenCV, or by anything that keeps the same contract."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import cv2
import numpy as np

from datamodules.decode import Picture
from datamodules.errors import DataError
from datamodules.objects.masks import Mask

Method = Literal["telea", "ns"]
_METHODS = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}
_MARGIN = 16  # pixels around a mask that are looked at, beside the radius


class Inpainter(Protocol):
    """Fills masks. Whatever it does inside, pixels outside the mask stay as they are."""

    def describe(self) -> dict[str, Any]:
        """What the record of each picture says of it."""

    def __call__(self, picture: Picture, mask: Mask, seed: int) -> Picture:
        """Fill the mask.

        Args:
            picture: [H, W, 3] uint8, RGB.
            mask: [H, W].
            seed: of its noise, if it has any.

        Returns:
            A new picture.
        """


class OpenCvInpainter:
    """Fills from the edge inwards, without weights.

    "telea" is the fast marching method (Telea, "An Image Inpainting Technique Based on the Fast Marching Method",
    Journal of Graphics Tools 9(1), 2004), "ns" the one by Bertalmio, Bertozzi and Sapiro ("Navier-Stokes, Fluid
    Dynamics, and Image and Video Inpainting", CVPR 2001). Both blur: large masks become smooth, which is why every
    picture with an object removed comes with one that was blurred elsewhere.

    Args:
        method: which of the two.
        radius: pixels around each one that it is filled from.

    Raises:
        DataError: for an unknown method or a radius below 1.
    """

    def __init__(self, method: Method = "telea", radius: int = 3) -> None:
        if method not in _METHODS:
            raise DataError(f"inpainting method {method!r}: choose {' or '.join(_METHODS)}")
        if radius < 1:
            raise DataError(f"inpainting radius {radius}: must be 1 or more")
        self.method, self.radius = method, radius

    def describe(self) -> dict[str, Any]:
        """Name, method and radius."""
        return {"name": "opencv", "method": self.method, "radius": self.radius, "version": cv2.__version__}

    def __call__(self, picture: Picture, mask: Mask, seed: int = 0) -> Picture:
        """Fill the mask, see :class:`Inpainter`."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        filled = picture.copy()
        if not len(rows):
            return filled
        # Time goes with the pixels that are looked at, so only those around the mask are.
        around = _MARGIN + self.radius
        part = (
            slice(max(int(rows[0]) - around, 0), int(rows[-1]) + 1 + around),
            slice(max(int(columns[0]) - around, 0), int(columns[-1]) + 1 + around),
        )
        its = mask[part]
        made = cv2.inpaint(
            np.ascontiguousarray(picture[part]), its.astype(np.uint8), self.radius, _METHODS[self.method]
        )
        filled[part][its] = made[its]
        return filled
