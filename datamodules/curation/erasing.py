"""Pictures without their text, made on the fly for a score: erased, with a control, and masked.

As in arXiv 2312.14232, section 5: polygons are filled by fast marching (Telea), and the control fills polygons that
were borrowed from other pictures. Masking, for a T-MARS-style score (Maini et al., ICLR 2024), paints each polygon in
the mean colour of what lies around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datamodules.decode import Picture
from datamodules.decorrelation.inpaint import OpenCvInpainter
from datamodules.objects.masks import dilate
from datamodules.ocr.polygons import Quad, quads_mask
from datamodules.text_spans import PictureText

DILATION = 3.0  # pixels that polygons are widened by at a longer side of 640: those of engines cut off serifs
_RING = 5.0  # pixels around a polygon whose mean colour it is masked with, likewise

# What decides the pictures, for keys of a cache.
ABOUT = {"erasing": "telea", "dilation": DILATION, "masking": "mean colour around", "ring": _RING, "rules": 1}


def erase(picture: Picture, text: PictureText, quads: Sequence[Quad]) -> Picture:
    """Fill polygons with what lies around them.

    Args:
        picture: [H, W, 3] uint8.
        text: of the picture, to whose size the corners refer; that may be another than the picture's.
        quads: what to fill; none gives the picture itself.
    """
    if not quads:
        return picture
    return OpenCvInpainter("telea")(picture, _mask(picture, text, quads), 0)


def mask_text(picture: Picture, text: PictureText) -> Picture:
    """Paint every polygon of text in the mean colour of its surroundings."""
    if not text.spans:
        return picture
    every = _mask(picture, text, [span.quad for span in text.spans])
    painted = picture.copy()
    for span in text.spans:
        own = _mask(picture, text, [span.quad])
        around = dilate(own, _RING) & ~every
        if not around.any():
            around = ~every if not every.all() else every
        painted[own] = picture[around].mean(axis=0)
    return painted


def _mask(picture: Picture, text: PictureText, quads: Sequence[Quad]) -> npt.NDArray[np.bool_]:
    height, width = picture.shape[:2]
    across, down = width / text.size[0], height / text.size[1]
    scaled: list[Quad] = []
    for quad in quads:
        a, b, c, d = ((x * across, y * down) for x, y in quad)
        scaled.append((a, b, c, d))
    return quads_mask(scaled, height, width, DILATION)
