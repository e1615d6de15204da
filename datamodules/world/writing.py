"""Words written on a scene, before the camera takes it."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from datamodules.errors import DataError
from datamodules.lettering.fonts import font_path
from datamodules.text_spans import PictureText, Span
from datamodules.world.scene import Writing

WRITTEN = "written"  # the engine of a picture's text, where nobody had to read it
_INKS = {"black": (20.0, 250.0), "white": (250.0, 20.0)}  # grey levels of letters and of their edge
_SCALE = 4  # letters are drawn larger and averaged, as things are
_WIDEST = 0.94

Mask = npt.NDArray[np.float32]


def written_on(image: npt.NDArray[np.float32], writing: Writing) -> npt.NDArray[np.float32]:
    """Write on a scene.

    Args:
        image: float32 [S, S, 3], grey levels 0..255.
        writing: What, and where.

    Returns:
        float32 [S, S, 3].

    Raises:
        DataError: For an ink other than black and white.
    """
    if writing.ink not in _INKS:
        raise DataError(f"world: the ink {writing.ink!r} is none of {', '.join(_INKS)}")
    letters, edge = _masks(writing.word, writing.height, image.shape[0])
    ink, around = _INKS[writing.ink]
    left, top = _corner(writing, letters.shape, image.shape[0])
    height, width = letters.shape
    out = image.copy()
    part = out[top : top + height, left : left + width]
    for cover, level in ((edge, around), (letters, ink)):
        part *= 1 - cover[:, :, None]
        part += np.float32(level) * cover[:, :, None]
    return out


def text_of(writing: Writing | None, size: int) -> PictureText:
    """What a picture of a scene says, and where, as a sample's meta tells it.

    Args:
        writing: Of the scene.
        size: Side of the picture in pixels.
    """
    if writing is None:
        return PictureText((size, size), (), WRITTEN)
    letters, _ = _masks(writing.word, writing.height, size)
    left, top = _corner(writing, letters.shape, size)
    height, width = letters.shape
    x, y, right, bottom = float(left), float(top), float(left + width), float(top + height)
    return PictureText((size, size), (Span(writing.word, ((x, y), (right, y), (right, bottom), (x, bottom))),), WRITTEN)


def _corner(writing: Writing, shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Left and top of the writing, moved as little as needed for all of it to be in the picture."""
    height, width = shape
    left, top = round(writing.x * size - width / 2), round(writing.y * size - height / 2)
    return min(max(left, 0), size - width), min(max(top, 0), size - height)


@lru_cache(maxsize=1024)
def _masks(word: str, height: float, size: int) -> tuple[Mask, Mask]:
    """How much of each pixel the letters cover, and the letters with their edge: float32 [h, w] each, in [0, 1]."""
    points = height * size * _SCALE
    font = ImageFont.truetype(font_path("dejavu-sans-bold"), points)
    stroke = max(1, round(points / 12))
    left, top, right, bottom = font.getbbox(word, stroke_width=stroke)
    if (right - left) > _WIDEST * size * _SCALE:  # shrunk, to fit
        points *= _WIDEST * size * _SCALE / (right - left)
        font, stroke = font.font_variant(size=points), max(1, round(points / 12))
        left, top, right, bottom = font.getbbox(word, stroke_width=stroke)
    shape = (int(-(-(right - left) // _SCALE)), int(-(-(bottom - top) // _SCALE)))

    def mask(width: int) -> Mask:
        canvas = PillowImage.new("L", (shape[0] * _SCALE, shape[1] * _SCALE))
        ImageDraw.Draw(canvas).text((-left, -top), word, fill=255, font=font, stroke_width=width)
        small = cv2.resize(np.asarray(canvas), shape, interpolation=cv2.INTER_AREA)
        return small.astype(np.float32) / np.float32(255)

    return mask(0), mask(stroke)
