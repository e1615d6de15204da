"""OCR and blur at query time: the remedy without training that every other one is compared with."""

from __future__ import annotations

from collections.abc import Callable

from datamodules.decode import Picture
from datamodules.objects.masks import Mask
from datamodules.ocr.engine import TextReader
from datamodules.ocr.fill import BlurFill
from datamodules.ocr.polygons import quads_mask

DILATION = 4.0
"""Pixels, in a picture whose longer side has 640, by which text is widened: letters reach over what engines outline."""


def read_and_blur(
    image: Picture,
    reader: TextReader,
    *,
    fill: Callable[[Picture, Mask, int], Picture] | None = None,
    dilation: float = DILATION,
) -> Picture:
    """Blur all text that an OCR engine finds.

    Args:
        image: [H, W, 3] uint8, RGB.
        reader: the engine; a :class:`datamodules.ocr.cache.CachedReader` reads no picture twice.
        fill: what is done within the polygons; None blurs (:class:`datamodules.ocr.fill.BlurFill`).
        dilation: see ``DILATION``.

    Returns:
        [H, W, 3] uint8: a new picture; the same pixels outside of the polygons, and everywhere where nothing is found.
    """
    spans = reader.read(image)
    if not spans:
        return image.copy()
    mask = quads_mask([span.quad for span in spans], image.shape[0], image.shape[1], dilation)
    return (fill or BlurFill())(image, mask, 0)
