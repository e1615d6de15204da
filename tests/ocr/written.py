"""Pictures with text at places that are known, drawn by Pillow."""

from __future__ import annotations

import shutil
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from datamodules.decode import Picture
from datamodules.text_spans import Span

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"

needs_rapidocr = pytest.mark.skipif(find_spec("rapidocr") is None, reason="RapidOCR is not installed")
needs_tesseract = pytest.mark.skipif(shutil.which("tesseract") is None, reason="Tesseract is not installed")
ENGINES = [
    pytest.param("rapidocr", marks=needs_rapidocr),
    pytest.param("tesseract", marks=needs_tesseract),
]


@lru_cache
def font(points: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), points)


def box_quad(left: float, top: float, right: float, bottom: float) -> tuple[tuple[float, float], ...]:
    return (left, top), (right, top), (right, bottom), (left, bottom)


def written(
    lines: list[tuple[str, int, int]], *, size: tuple[int, int] = (320, 240), points: int = 30, seed: int = 0
) -> tuple[Picture, tuple[Span, ...]]:
    """Write black lines, each (text, left, top), on a light and slightly uneven ground; and where their ink is."""
    rng = np.random.default_rng(seed)
    small = rng.integers(170, 240, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    spans = []
    for text, left, top in lines:
        draw.text((left, top), text, "black", font(points))
        a, b, c, d = box_quad(*draw.textbbox((left, top), text, font(points)))
        spans.append(Span(text, (a, b, c, d)))
    return np.asarray(image), tuple(spans)
