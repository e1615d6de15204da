"""Sizes of twins: that which a pipeline likes, at the photo's aspect where geometry is matched."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageOps

Size = tuple[int, int]
"""(width, height) in pixels."""


def size_at_aspect(native: Size, photo: Size, multiple: int) -> Size:
    """The size of about the native area whose aspect is the photo's.

    Args:
        native: the size that the pipeline was trained for.
        photo: of the photo.
        multiple: both sides must be divisible by it.

    >>> size_at_aspect((512, 512), (500, 375), 16)
    (592, 448)
    """
    area, aspect = native[0] * native[1], photo[0] / photo[1]
    width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
    return _rounded(width, multiple), _rounded(height, multiple)


def _rounded(side: float, multiple: int) -> int:
    return max(round(side / multiple), 1) * multiple


def common_size(photo: Size, twins: Sequence[Size]) -> Size:
    """The size that a photo and its twins are all cut to: the photo's, made smaller where a twin is smaller.

    Nothing is enlarged, since the blur of it would tell the sources apart.

    >>> common_size((500, 375), [(592, 448)])
    (500, 375)
    >>> common_size((4000, 3000), [(592, 448), (1184, 880)])
    (592, 444)
    """
    scale = min([1.0, *(min(width / photo[0], height / photo[1]) for width, height in twins)])
    return max(round(photo[0] * scale), 1), max(round(photo[1] * scale), 1)


def cut(image: Image.Image, size: Size) -> Image.Image:
    """Resize, antialiased, until the size is covered, and cut around the centre."""
    if image.size == size:
        return image
    return ImageOps.fit(image, size, Image.Resampling.BICUBIC, centering=(0.5, 0.5))
