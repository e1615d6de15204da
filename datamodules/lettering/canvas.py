"""Words alone on a blank canvas: the rendered-word probe of the parrot-caption paper (arXiv 2312.14232)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from datamodules.errors import DataError
from datamodules.lettering.fonts import DEFAULT, composed, covering, is_shaped, load_font

Colour = tuple[int, int, int]

_BLACK, _GRAY, _WHITE = (0, 0, 0), (128, 128, 128), (255, 255, 255)

STYLES: dict[str, tuple[Colour, Colour]] = {
    "white/black": (_WHITE, _BLACK),
    "black/white": (_BLACK, _WHITE),
    "gray/white": (_GRAY, _WHITE),
    "gray/black": (_GRAY, _BLACK),
}
"""The paper's four styles: colours of background and ink by name."""

POINTS, SIDE = 32, 224  # of the paper's letters and canvas
_MARGIN = 1 / 28  # of the side, that a word shrunk to fit keeps on the left and on the right: 8 of 224 pixels


@dataclass(frozen=True)
class RenderedWord:
    """A word on a canvas.

    Attributes:
        word: as it is written.
        image: uint8 [size, size, 3].
        overflow: whether ink was cut off at an edge of the canvas.
        points: em of the letters in pixels, after shrinking.
        box: left, top, right and bottom of the ink, as far as it is on the canvas, in pixels.
    """

    word: str
    image: npt.NDArray[np.uint8]
    overflow: bool
    points: float
    box: tuple[float, float, float, float]


def render_word(
    word: str,
    *,
    size: int = SIDE,
    style: str = "white/black",
    font: str = DEFAULT,
    points: float | None = None,
    fit: bool = False,
    y: float = 0.5,
) -> RenderedWord:
    """Write a word in the middle of a blank canvas.

    As in section 5.1 of the paper (224 x 224 pixels, 32 points, one of four styles), except for the font: Arial may not
    be shipped, ``arimo`` has its widths. A long word is drawn clipped there, and here, unless it is to fit (ours).

    Args:
        word: any text; white space becomes single spaces.
        size: side of the canvas in pixels.
        style: one of ``STYLES``, background/ink.
        font: name of a font or path of its file.
        points: em of the letters in pixels; None for 32 of 224 pixels, and in proportion on another canvas.
        fit: shrink a word that is too long, instead of clipping it.
        y: where the middle of its ink stands, as a share of the canvas's height from the top (ours, for retrievers that
            read in one place only).

    Raises:
        DataError: if the style is unknown, the word is blank, the font cannot write it, or a number is out of range.

    Example:
        >>> long = "electroencephalographically"
        >>> render_word("cat").overflow, render_word(long).overflow, render_word(long, fit=True).overflow
        (False, True, False)
    """
    if style not in STYLES:
        raise DataError(f"style {style!r}: is none of {', '.join(STYLES)}")
    if size < 1:
        raise DataError(f"canvas of {size} pixels: must be 1 or more")
    points = POINTS * size / SIDE if points is None else points
    if not points > 0:
        raise DataError(f"letters of {points} points: must be more than 0")
    if not 0 <= y <= 1:
        raise DataError(f"y of {y}: is a share of the canvas's height, in [0, 1]")
    background, ink = STYLES[style]
    text = " ".join(composed(word).split())
    covering((font,), text)

    pixels = max(round(points), 1)
    letters = _letters(text, font, pixels)
    room = size * (1 - 2 * _MARGIN)
    while fit and pixels > 1 and max(letters.size) > room:
        # Widths grow almost in proportion to the em; hinting rounds, so the last steps are single pixels.
        pixels = min(pixels - 1, int(pixels * room / max(letters.size)) + 1)
        letters = _letters(text, font, pixels)
    image = Image.new("RGB", (size, size), background)
    # The box of the ink is centred, not the line box: words without descenders stand in the middle as well.
    left, top = round((size - letters.width) / 2), round(size * y - letters.height / 2)
    image.paste(ink, (left, top), letters)
    right, bottom = left + letters.width, top + letters.height
    overflow = left < 0 or top < 0 or right > size or bottom > size
    box = (float(max(left, 0)), float(max(top, 0)), float(min(right, size)), float(min(bottom, size)))
    return RenderedWord(text, np.array(image), overflow, float(pixels), box)


def _letters(text: str, font: str, pixels: int) -> Image.Image:
    """How much of each pixel a text covers, cut to its ink: the font's own box has the room beside the letters too."""
    face = load_font(font, pixels, is_shaped(text))
    left, top, right, bottom = face.getbbox(text)
    spare = pixels // 4 + 1  # some letters reach out of the font's box
    mask = Image.new("L", (int(right - left) + 2 * spare + 1, int(bottom - top) + 2 * spare + 1))
    ImageDraw.Draw(mask).text((spare - left, spare - top), text, fill=255, font=face)
    return mask.crop(mask.getbbox())
