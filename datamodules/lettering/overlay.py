"""Words written on pictures: what a lettering looks like, how one is drawn by lot, and how it gets onto a picture.

The recipe is that of Defense-Prefix (Azuma and Matsui, ICCVW 2023, code): letters of 20 to 40 pixels on a picture of
224, one of eight colours with an edge of another one, one pixel wide, anywhere in the picture. Rotation, slant, wave
and paper, for the look of notes written by hand, are our own construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from datamodules.errors import DataError
from datamodules.lettering.canvas import Colour
from datamodules.lettering.fonts import DEFAULT, composed, covering, is_shaped, load_font
from datamodules.text_spans import Point, Span

UNIFORMS = 14
"""How many uniform numbers :func:`draw_lettering` wants."""

COLOURS: dict[str, Colour] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
    "red": (220, 20, 20),
    "green": (20, 150, 40),
    "blue": (30, 60, 220),
    "yellow": (250, 220, 30),
    "purple": (130, 30, 150),
}
"""Eight colours by name."""

PAPERS: tuple[Colour, ...] = ((250, 248, 240), (255, 240, 130), (255, 205, 215), (200, 230, 255))
"""Of notes: white, and as they are sold."""

Pixels = npt.NDArray[np.uint8]
_DIGITS = 5  # of numbers in a record
_LEADING = 1.1  # from line to line, in ems
_PADDING = 2  # empty pixels around the ink, so that its soft edge stays within the corners that are told


@dataclass(frozen=True)
class Lettering:
    """A piece of text on a picture, whatever the picture's size.

    Attributes:
        text: what is written; a newline begins a new line.
        font: name of a font or path of its file.
        height: em of the letters, as a share of the picture's shorter side, in (0, 1].
        x: where it stands in the width that it leaves free: 0 at the left edge, 0.5 in the middle, 1 at the right edge.
        y: likewise from top to bottom.
        colour: of the letters, RGB in 0..255.
        stroke_colour: of their edge.
        stroke: width of the edge, as a share of the picture's shorter side; at least a pixel wide where it is not 0.
        rotation: in degrees, counter-clockwise.
        slant: of the letters in degrees, to the right.
        wave: how far the line of the letters rises and falls, as a share of their height.
        phase: in [0, 1), where the wave begins.
        paper: colour of a note behind the letters, None without one.
    """

    text: str
    font: str = DEFAULT
    height: float = 0.14
    x: float = 0.5
    y: float = 0.5
    colour: Colour = (0, 0, 0)
    stroke_colour: Colour = (255, 255, 255)
    stroke: float = 1 / 224
    rotation: float = 0.0
    slant: float = 0.0
    wave: float = 0.0
    phase: float = 0.0
    paper: Colour | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError("lettering: there is nothing to write")
        if not 0 < self.height <= 1:
            raise DataError(f"lettering {self.text!r}: height {self.height} is a share of the shorter side, in (0, 1]")
        for name in ("x", "y", "phase"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"lettering {self.text!r}: {name} {getattr(self, name)} must lie in [0, 1]")
        if not 0 <= self.stroke <= 0.1 or not 0 <= self.wave <= 1 or not -60 <= self.slant <= 60:
            raise DataError(
                f"lettering {self.text!r}: stroke must lie in [0, 0.1], wave in [0, 1], slant in [-60, 60]; they are "
                f"{self.stroke}, {self.wave} and {self.slant}"
            )

    def to_json(self) -> dict[str, Any]:
        """The object that stands under ``lettering`` in a view's meta; numbers have 5 digits."""
        return {
            name: list(value)
            if isinstance(value, tuple)
            else round(value, _DIGITS)
            if isinstance(value, float)
            else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Lettering:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: if it is no lettering.
        """
        try:
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()
            }
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise DataError(f"lettering: cannot be read ({error})") from error


@dataclass(frozen=True)
class LetteringOptions:
    """What letterings are drawn from. Pairs are ranges, of which values are drawn evenly.

    Attributes:
        fonts: names or paths; of them those that can write the text are drawn from, evenly.
        height: em of the letters, share of the shorter side. 20 to 40 of 224 pixels by default.
        x: as in `Lettering`; everywhere by default.
        y: likewise.
        colours: of letters and of their edges; an edge never has the letters' colour.
        stroke: width of the edge, share of the shorter side; one of 224 pixels by default.
        rotation: in degrees.
        slant: in degrees.
        wave: share of the letters' height.
        paper: share of the letterings that stand on a note.
        two_lines: break names of several words into two lines of about equal length.
        case: ``as-is``, ``lower``, ``upper`` or ``title``.
    """

    fonts: tuple[str, ...] = ("dejavu-sans", "dejavu-sans-bold", "dejavu-serif")
    height: tuple[float, float] = (20 / 224, 40 / 224)
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    colours: tuple[Colour, ...] = tuple(COLOURS.values())
    stroke: tuple[float, float] = (1 / 224, 1 / 224)
    rotation: tuple[float, float] = (0.0, 0.0)
    slant: tuple[float, float] = (0.0, 0.0)
    wave: tuple[float, float] = (0.0, 0.0)
    paper: float = 0.0
    two_lines: bool = False
    case: str = "as-is"

    def __post_init__(self) -> None:
        bounds = {
            "height": (0.005, 1), "x": (0, 1), "y": (0, 1), "stroke": (0, 0.1), "rotation": (-180, 180),
            "slant": (-60, 60), "wave": (0, 1),
        }  # fmt: skip
        for name, (least, most) in bounds.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise DataError(f"lettering, {name}: {low} to {high} is no range within [{least}, {most}]")
        if not self.fonts:
            raise DataError("lettering, fonts: name one or more")
        if len(set(self.colours)) < (2 if self.stroke[1] > 0 else 1):
            raise DataError(
                "lettering, colours: two or more are needed, for letters and their edge; or set stroke to 0"
            )
        if not 0 <= self.paper <= 1:
            raise DataError(f"lettering, paper: {self.paper} is a share, in [0, 1]")
        if self.case not in _CASES:
            raise DataError(f"lettering, case: {self.case!r} is none of {', '.join(_CASES)}")

    def to_json(self) -> dict[str, Any]:
        """All of it, for the record and for comparing two runs."""
        return {name: _plain(getattr(self, name)) for name in (field.name for field in fields(self))}


_CASES: dict[str, Callable[[str], str]] = {"as-is": str, "lower": str.lower, "upper": str.upper, "title": str.title}


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def hand_written(fonts: Sequence[str], **changes: Any) -> LetteringOptions:
    """Options for the look of notes written by hand: turned, slanted, uneven, without an edge, half of them on paper.

    Args:
        fonts: names of fonts, best of the look ``hand``.
        changes: other options than these.

    Raises:
        DataError: if no font is named.
    """
    inks = tuple(COLOURS[name] for name in ("black", "blue", "red", "green"))
    look = LetteringOptions(
        fonts=tuple(fonts), height=(28 / 224, 60 / 224), colours=inks, stroke=(0.0, 0.0), rotation=(-15.0, 15.0),
        slant=(-8.0, 12.0), wave=(0.0, 0.08), paper=0.5,
    )  # fmt: skip
    return replace(look, **changes)


def draw_lettering(
    text: str, u: Sequence[float] | npt.NDArray[np.floating], options: LetteringOptions | None = None
) -> Lettering:
    """Draw how a text is written: a pure function of its arguments and of which fonts are installed.

    Args:
        text: what is written.
        u: at least ``UNIFORMS`` floats in [0, 1), ``datamodules.hashing.uniform(seed, sample, np.arange(UNIFORMS))``
            say.
        options: what is drawn from; by default `LetteringOptions()`.

    Raises:
        DataError: naming the text, if none of the fonts can write it; if there are too few numbers.

    Example:
        >>> draw_lettering("cat", [0.0] * UNIFORMS).font
        'dejavu-sans'
    """
    options = options or LetteringOptions()
    if len(u) < UNIFORMS:
        raise DataError(f"lettering {text!r}: needs {UNIFORMS} uniform numbers, got {len(u)}")
    draws = iter([float(each) for each in u[:UNIFORMS]])

    def within(bounds: tuple[float, float]) -> float:
        # Rounded, so that what a record says makes the very same picture again.
        return round(bounds[0] + (bounds[1] - bounds[0]) * next(draws), _DIGITS)

    text = _CASES[options.case](" ".join(composed(text).split()))
    fonts = covering(options.fonts, text)
    font = _one_of(fonts, next(draws))
    height, x, y = within(options.height), within(options.x), within(options.y)
    colour = _one_of(options.colours, next(draws))
    others = [each for each in options.colours if each != colour] or [colour]
    stroke_colour = _one_of(others, next(draws))
    stroke, rotation, slant, wave = (
        within(each) for each in (options.stroke, options.rotation, options.slant, options.wave)
    )
    phase, on_paper, paper = within((0.0, 1.0)), next(draws) < options.paper, _one_of(PAPERS, next(draws))
    return Lettering(
        text=in_two_lines(text) if options.two_lines else text,
        font=font,
        height=height,
        x=x,
        y=y,
        colour=colour,
        stroke_colour=stroke_colour,
        stroke=stroke,
        rotation=rotation,
        slant=slant,
        wave=wave,
        phase=phase,
        paper=paper if on_paper else None,
    )


def _one_of(choices: Sequence[Any], u: float) -> Any:
    return choices[min(int(u * len(choices)), len(choices) - 1)]


def in_two_lines(text: str) -> str:
    r"""Break a text at the space that makes two lines most equal; one word stays on one line.

    Example:
        >>> in_two_lines("great white shark")
        'great\nwhite shark'
    """
    words = text.split()
    if len(words) < 2:
        return text
    cuts = [(" ".join(words[:at]), " ".join(words[at:])) for at in range(1, len(words))]
    return "\n".join(min(cuts, key=lambda lines: max(len(line) for line in lines)))


class TooSmallError(DataError):
    """A picture on which the letters would be smaller than they may be."""


def write(image: Pixels, lettering: Lettering, *, least: int = 1) -> tuple[Pixels, Span]:
    """Write on a picture.

    A text that is wider or higher than the picture is shrunk to fit, so that all of it can be read.

    Args:
        image: uint8 [H, W, 3]; stays as it is.
        lettering: what is written, and how.
        least: smallest em that letters may have, in pixels; below about 6 nobody can read them.

    Returns:
        uint8 [H, W, 3], and where the text stands: all changed pixels lie within the corners of the span, whose text
        has spaces instead of newlines.

    Raises:
        TooSmallError: if all of the text fits on the picture in smaller letters only.
        DataError: if the picture is none, or the font cannot write the text.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"picture: must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    side = min(height, width)
    em = max(round(lettering.height * side), 1)
    while True:
        inked = _inked(lettering, em, side)
        cover = inked.cover
        fits = cover.shape[0] <= height and cover.shape[1] <= width
        if em < least or (em == 1 and not fits):
            raise TooSmallError(
                f"picture of {width} x {height} pixels: {lettering.text!r} fits in letters below {least} pixels only"
            )
        if fits:
            break
        em = max(min(em - 1, int(em * min(height / cover.shape[0], width / cover.shape[1]))), 1)
    left = round(lettering.x * (width - cover.shape[1]))
    top = round(lettering.y * (height - cover.shape[0]))
    out = image.copy()
    part = out[top : top + cover.shape[0], left : left + cover.shape[1]]
    # Of each pixel, what shows the picture, and what is put over it: cover is how much, colour is already weighted.
    part[:] = cv2.add(cv2.multiply(part, 255 - cover, scale=1 / 255), inked.colour)
    a, b, c, d = ((x + left, y + top) for x, y in inked.corners)
    return out, Span(" ".join(lettering.text.split()), (a, b, c, d))


@dataclass(frozen=True)
class _Inked:
    """A lettering ready to be put on pictures.

    Attributes:
        cover: uint8 [h, w, 3], how much of each pixel it covers, in 255ths; the three channels are equal.
        colour: uint8 [h, w, 3], what it adds there.
        corners: of the writing in this array.
    """

    cover: Pixels
    colour: Pixels
    corners: tuple[Point, Point, Point, Point]


def _inked(lettering: Lettering, em: int, side: int) -> _Inked:
    stroke = 0 if lettering.stroke == 0 else max(round(lettering.stroke * side), 1)
    letters, edged = _masks(composed(lettering.text), lettering.font, em, stroke)
    layers = [(letters, lettering.colour)]
    if stroke:
        layers.insert(0, (edged, lettering.stroke_colour))
    if lettering.wave or lettering.slant:
        layers = [(_bent(mask, lettering, em), colour) for mask, colour in layers]
    if lettering.paper is not None:
        border = max(em // 4, 1)
        layers = [(np.pad(mask, border), colour) for mask, colour in layers]
        sheet = np.zeros_like(layers[0][0])
        sheet[_PADDING:-_PADDING, _PADDING:-_PADDING] = 255
        layers.insert(0, (sheet, lettering.paper))
    height, width = layers[0][0].shape
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
    if lettering.rotation:
        turn, size = _turn(width, height, lettering.rotation)
        layers = [(_pixels(cv2.warpAffine(mask, turn, size)), colour) for mask, colour in layers]
        # warpAffine maps pixel centres, corners lie half a pixel before the first and behind the last of them.
        corners = (corners - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5
    cover, colour = _merged(layers)
    a, b, c, d = ((float(x), float(y)) for x, y in corners)
    return _Inked(cover, colour, (a, b, c, d))


def _merged(layers: Sequence[tuple[Pixels, Colour]]) -> tuple[Pixels, Pixels]:
    """Put layers over each other: how much they cover together, and their colour weighted by it."""
    shape = layers[0][0].shape
    cover, colour = np.zeros((*shape, 3), dtype=np.uint8), np.zeros((*shape, 3), dtype=np.uint8)
    for mask, ink in layers:
        over = cv2.merge((mask, mask, mask))
        rest = cv2.bitwise_not(over)
        cover = _pixels(cv2.add(over, cv2.multiply(cover, rest, scale=1 / 255)))
        tinted = cv2.merge([cv2.convertScaleAbs(mask, alpha=level / 255) for level in ink])
        colour = _pixels(cv2.add(tinted, cv2.multiply(colour, rest, scale=1 / 255)))
    return cover, colour


@lru_cache(maxsize=512)
def _masks(text: str, font: str, em: int, stroke: int) -> tuple[Pixels, Pixels]:
    """How much of each pixel the letters cover, and the letters with their edge: uint8 [h, w] each."""
    lines = text.split("\n")
    covering((font,), " ".join(lines))
    face = load_font(font, em, is_shaped(text))
    # Line by line, from their baselines: Pillow's own lines lie wider apart where they have an edge.
    boxes = [face.getbbox(line, anchor="ls", stroke_width=stroke) for line in lines]
    widest = max(box[2] - box[0] for box in boxes)
    baselines = [round(number * _LEADING * em) for number in range(len(lines))]
    top = min(box[1] + y for box, y in zip(boxes, baselines, strict=True))
    bottom = max(box[3] + y for box, y in zip(boxes, baselines, strict=True))
    spare = em // 4 + 1 + _PADDING  # some letters reach out of the font's box
    size = (int(widest) + 2 * spare + 1, int(bottom - top) + 2 * spare + 1)
    starts = [
        (round(spare + (widest - (box[2] - box[0])) / 2 - box[0]), round(spare + y - top))
        for box, y in zip(boxes, baselines, strict=True)
    ]

    def mask(edge: int) -> Image.Image:
        image = Image.new("L", size)
        draw = ImageDraw.Draw(image)
        for line, start in zip(lines, starts, strict=True):
            draw.text(start, line, fill=255, font=face, anchor="ls", stroke_width=edge)
        return image

    edged = mask(stroke)
    left, high, right, low = edged.getbbox() or (0, 0, 1, 1)
    ink = (left - _PADDING, high - _PADDING, right + _PADDING, low + _PADDING)
    found = _fixed(edged.crop(ink))
    return (_fixed(mask(0).crop(ink)) if stroke else found), found


def _fixed(image: Image.Image) -> Pixels:
    """The pixels of a picture, not to be changed since others get them too."""
    pixels = np.array(image)
    pixels.setflags(write=False)
    return pixels


def _pixels(found: Any) -> Pixels:
    """What OpenCV returned."""
    return np.asarray(found, dtype=np.uint8)


def _bent(mask: Pixels, lettering: Lettering, em: int) -> Pixels:
    """Slant the letters, and let their line rise and fall once in about five ems."""
    height, width = mask.shape
    rise = lettering.wave * em
    lean = np.tan(np.radians(lettering.slant))
    grow_y, grow_x = int(np.ceil(rise)), int(np.ceil(abs(lean) * height / 2))
    columns = np.arange(width + 2 * grow_x, dtype=np.float32)
    rows = np.arange(height + 2 * grow_y, dtype=np.float32)
    angle = 2 * np.pi * (columns / (5 * em) + lettering.phase)
    from_y = rows[:, None] - grow_y + np.float32(rise) * np.sin(angle, dtype=np.float32)[None]
    from_x = columns[None] - grow_x + np.float32(lean) * (from_y - np.float32(height / 2))
    return _pixels(cv2.remap(mask, from_x.astype(np.float32), from_y.astype(np.float32), cv2.INTER_LINEAR))


def _turn(width: int, height: int, degrees: float) -> tuple[npt.NDArray[np.float64], tuple[int, int]]:
    """The rotation about the middle of an array, and the size of the array that holds all of it."""
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    cosine, sine = abs(turn[0, 0]), abs(turn[0, 1])
    size = int(np.ceil(width * cosine + height * sine)), int(np.ceil(width * sine + height * cosine))
    turn[0, 2] += (size[0] - width) / 2
    turn[1, 2] += (size[1] - height) / 2
    return np.asarray(turn, dtype=np.float64), size
