"""Rasterises a scene: the place's texture, the things on it, their shadows. `photo` then takes the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.world.scene import Scene, Thing
from datamodules.world.writing import written_on

FloatImage = npt.NDArray[np.float32]
"""float32 [H, W, 3], RGB, grey levels 0..255, not clipped."""
Image = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "black": (28, 28, 32),
    "blue": (38, 78, 214),
    "green": (34, 150, 58),
    "orange": (244, 132, 22),
    "pink": (250, 140, 190),
    "purple": (128, 48, 170),
    "red": (212, 32, 38),
    "turquoise": (44, 204, 196),
    "white": (246, 246, 244),
    "yellow": (250, 216, 36),
}


@dataclass(frozen=True)
class Part:
    """One area of a thing, in its own frame: centre (0, 0), extent -1..1, y down.

    Attributes:
        contours: float32 [P, 2] each; filled by the even-odd rule, so a second contour inside the first is a hole.
        tone: Brightness against the thing's colour; above 1 goes towards white.
        colour: A colour of its own instead of the thing's (a stick, a door), or None.
    """

    contours: tuple[npt.NDArray[np.float32], ...]
    tone: float = 1.0
    colour: tuple[int, int, int] | None = None


def _polygon(*points: tuple[float, float]) -> npt.NDArray[np.float32]:
    return np.array(points, np.float32)


def _ellipse(
    x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0
) -> npt.NDArray[np.float32]:
    """An ellipse or, with angles in degrees clockwise from the right, the sector's arc, closed by its chord."""
    angle = np.radians(np.linspace(start, end, 29))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1).astype(np.float32)


def _star() -> npt.NDArray[np.float32]:
    angle = np.radians(-90 + 36 * np.arange(10))
    radius = np.where(np.arange(10) % 2 == 0, 1.05, 0.45)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle) + 0.08], 1).astype(np.float32)


def _heart() -> npt.NDArray[np.float32]:
    t = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return (np.stack([x, y - 2.5], 1) / 16).astype(np.float32)


_DARK = (52, 44, 44)
_STICK = _polygon((-0.07, 0.05), (0.07, 0.05), (0.07, 0.95), (-0.35, 0.95), (-0.35, 0.7), (-0.2, 0.8))

# The first part is the silhouette that casts the shadow. Parts are painted in order.
KINDS: Mapping[str, tuple[Part, ...]] = {
    "ball": (
        Part((_ellipse(0, 0, 0.95, 0.95),), 0.72),
        Part((_ellipse(-0.12, -0.12, 0.78, 0.78),), 1.0),
        Part((_ellipse(-0.34, -0.36, 0.24, 0.22),), 1.55),
    ),
    "box": (
        Part((_polygon((-0.9, -0.5), (-0.45, -0.9), (0.9, -0.9), (0.9, 0.45), (0.45, 0.9), (-0.9, 0.9)),), 1.0),
        Part((_polygon((-0.9, -0.5), (-0.45, -0.9), (0.9, -0.9), (0.45, -0.5)),), 1.35),
        Part((_polygon((0.45, -0.5), (0.9, -0.9), (0.9, 0.45), (0.45, 0.9)),), 0.6),
    ),
    "cone": (
        Part((_polygon((0, -1.0), (0.85, 0.7), (0.5, 0.9), (0, 0.97), (-0.5, 0.9), (-0.85, 0.7)),), 1.0),
        Part((_polygon((0, -1.0), (0.85, 0.7), (0.5, 0.9), (0.2, 0.95)),), 0.68),
    ),
    "cross": (
        Part(
            (
                _polygon(
                    *((-0.32, -0.95), (0.32, -0.95), (0.32, -0.32), (0.95, -0.32), (0.95, 0.32), (0.32, 0.32)),
                    *((0.32, 0.95), (-0.32, 0.95), (-0.32, 0.32), (-0.95, 0.32), (-0.95, -0.32), (-0.32, -0.32)),
                ),
            )
        ),
    ),
    "cup": (
        Part((_polygon((-0.85, -0.7), (0.5, -0.7), (0.35, 0.85), (-0.68, 0.85)),), 1.0),
        Part((_ellipse(0.5, -0.02, 0.5, 0.5), _ellipse(0.5, -0.02, 0.24, 0.24)), 0.85),
        Part((_polygon((-0.85, -0.7), (0.5, -0.7), (0.35, 0.85), (-0.68, 0.85)),), 1.0),
        Part((_polygon((0.1, -0.7), (0.5, -0.7), (0.35, 0.85), (0.02, 0.85)),), 0.75),
        Part((_ellipse(-0.175, -0.7, 0.67, 0.2),), 0.45),
    ),
    "hat": (
        Part((_polygon((-1.0, 0.25), (1.0, 0.25), (1.0, 0.7), (-1.0, 0.7)),)),
        Part((_polygon((-0.62, -0.7), (0.62, -0.7), (0.62, 0.3), (-0.62, 0.3)),), 1.1),
    ),
    "heart": (Part((_heart(),), 1.0), Part((_ellipse(-0.45, -0.42, 0.2, 0.16),), 1.5)),
    "house": (
        Part(
            (_polygon((0, -1.0), (1.0, -0.15), (0.75, -0.15), (0.75, 0.9), (-0.75, 0.9), (-0.75, -0.15), (-1, -0.15)),)
        ),
        Part((_polygon((0, -1.0), (1.0, -0.15), (-1.0, -0.15)),), 0.55),
        Part((_polygon((-0.2, 0.9), (-0.2, 0.2), (0.2, 0.2), (0.2, 0.9)),), colour=_DARK),
    ),
    "ring": (Part((_ellipse(0, 0, 0.95, 0.95), _ellipse(0, 0, 0.5, 0.5))),),
    # Somebody who is plainly nobody: a square head, a square body, legs and two eyes.
    "robot": (
        Part(
            (
                _polygon((-0.42, -0.98), (0.42, -0.98), (0.42, -0.32), (-0.42, -0.32)),
                _polygon((-0.7, -0.27), (0.7, -0.27), (0.7, 0.72), (-0.7, 0.72)),
            )
        ),
        Part((_polygon((-0.42, -0.98), (0.42, -0.98), (0.42, -0.32), (-0.42, -0.32)),), 1.2),
        Part((_ellipse(-0.19, -0.6, 0.1, 0.1), _ellipse(0.19, -0.6, 0.1, 0.1)), colour=_DARK),
        Part(
            (
                _polygon((-0.45, 0.68), (-0.15, 0.68), (-0.15, 1.0), (-0.45, 1.0)),
                _polygon((0.15, 0.68), (0.45, 0.68), (0.45, 1.0), (0.15, 1.0)),
            ),
            colour=_DARK,
        ),
    ),
    "star": (Part((_star(),)),),
    "umbrella": (
        Part((_ellipse(0, 0.05, 1.0, 1.0, 180, 360),), 1.0),
        Part((_ellipse(0, 0.05, 0.36, 1.0, 180, 360),), 1.3),
        Part(
            (_polygon((-0.07, 0.05), (0.07, 0.05), (0.07, 0.95), (-0.35, 0.95), (-0.35, 0.7), (-0.2, 0.8)),),
            colour=_DARK,
        ),
    ),
}


def draw(scene: Scene, size: int, *, texture: float = 1.0) -> FloatImage:
    """The scene without noise, blur or any other mark of how the picture came to be.

    Args:
        scene: What to show.
        size: Side of the square picture in pixels.
        texture: Strength of the place's texture; 1 is natural, 0 leaves the bare gradient.

    Returns:
        float32 [size, size, 3].

    Raises:
        DataError: If the scene holds a kind, colour or place that has no look.
    """
    try:
        paint = PLACES[scene.place]
    except KeyError as error:
        raise _no_look(scene, "place", scene.place, PLACES) from error
    rng = np.random.Generator(np.random.PCG64(scene.texture_seed))
    image = _place_things(paint(rng, size, np.float32(texture)), scene)
    return image if scene.writing is None else written_on(image, scene.writing)


def _place_things(image: FloatImage, scene: Scene) -> FloatImage:
    size = image.shape[0]
    # Edges are anti-aliased by drawing larger and averaging; beyond about 100 px a factor of two is plenty.
    factor = max(2, min(4, 192 // size))
    side = size * factor
    # Premultiplied RGBA: what is not painted stays zero in all four, so averaging gives the blend's two factors.
    layer = np.zeros((side, side, 4), np.uint8)
    shadow = np.zeros((side, side), np.uint8)
    for thing in scene.things:
        if thing.kind not in KINDS:
            raise _no_look(scene, "kind", thing.kind, KINDS)
        if thing.colour not in COLOURS:
            raise _no_look(scene, "colour", thing.colour, COLOURS)
        _paint_thing(layer, shadow, thing, side)
    layer_small = cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    shadow_small = cv2.resize(shadow, (size, size), interpolation=cv2.INTER_AREA)
    shadow_small = cv2.GaussianBlur(shadow_small, (0, 0), 0.025 * size).astype(np.float32)
    cover = layer_small[:, :, 3:] * np.float32(1 / 255)
    lit = image * (1 - np.float32(0.45 / 255) * shadow_small[:, :, None])
    return lit * (1 - cover) + layer_small[:, :, :3]


def outline(thing: Thing) -> list[npt.NDArray[np.float32]]:
    """Contours around all that a thing paints, its shadow and its rim left out, in units of the picture's side.

    Returns:
        float32 [P, 2] each; together they cover the thing. Holes are covered too.
    """
    angle = np.radians(thing.angle)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32) * thing.radius
    centre = np.array([thing.x, thing.y], np.float32)
    return [contour @ turn.astype(np.float32) + centre for part in KINDS[thing.kind] for contour in part.contours]


_SHIFT = 4  # cv2's fixed-point bits: contours land on 1/16 of a (supersampled) pixel


def _paint_thing(layer: Image, shadow: npt.NDArray[np.uint8], thing: Thing, side: int) -> None:
    angle = np.radians(thing.angle)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    turn *= thing.radius * side * (1 << _SHIFT)
    centre = np.array([thing.x, thing.y], np.float32) * (side * (1 << _SHIFT))

    def place(contours: Sequence[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.int32]]:
        return [(contour @ turn + centre).astype(np.int32) for contour in contours]

    parts = KINDS[thing.kind]
    silhouette = place(parts[0].contours)
    fall = np.array([0.10, 0.17], np.float32) * (thing.radius * side * (1 << _SHIFT))
    cv2.fillPoly(shadow, [contour + fall.astype(np.int32) for contour in silhouette], (255,), cv2.LINE_8, _SHIFT)
    base = COLOURS[thing.colour]
    for part in parts:
        colour = _toned(part.colour or base, part.tone * thing.shade)
        cv2.fillPoly(layer, place(part.contours), (*colour, 255), cv2.LINE_8, _SHIFT)
    # A darker rim separates a thing from a place of the same brightness.
    rim = _toned(base, 0.5 * thing.shade)
    cv2.polylines(layer, silhouette, True, (*rim, 255), max(1, round(0.006 * side)), cv2.LINE_8, _SHIFT)


def _toned(colour: tuple[int, int, int], tone: float) -> tuple[float, float, float]:
    """The colour, darker for a tone below 1, nearer to white above 1. Plain Python: called often, on three numbers."""
    if tone <= 1:
        red, green, blue = (channel * max(0.0, tone) for channel in colour)
    else:
        red, green, blue = (channel + (255 - channel) * min(1.0, tone - 1) for channel in colour)
    return red, green, blue


def _no_look(scene: Scene, what: str, name: str, table: Mapping[str, Any]) -> DataError:
    return DataError(
        f"scene {scene.index}: no look for the {what} '{name}'; known: {', '.join(sorted(table))}. "
        "Add it to the tables of datamodules/world/draw.py or change the composer"
    )


# --------------------------------------------------------------------------------------------------------------------
# Places. Each paints float32 [size, size, 3]; `texture` scales everything that is not the smooth gradient.

Painter = Callable[[np.random.Generator, int, np.float32], FloatImage]


_Colour = tuple[int, int, int]


@lru_cache(maxsize=32)
def _ramp(size: int) -> npt.NDArray[np.float32]:
    """0 at the top, 1 at the bottom: float32 [size, 1, 1]."""
    return np.linspace(0, 1, size, dtype=np.float32)[:, None, None]


@lru_cache(maxsize=128)
def _column(size: int, stops: tuple[_Colour, ...]) -> npt.NDArray[np.float32]:
    at = np.linspace(0, 1, len(stops))
    channels = [np.interp(np.linspace(0, 1, size), at, channel) for channel in zip(*stops, strict=True)]
    return np.stack(channels, 1).astype(np.float32)[:, None, :]


def _gradient(size: int, *stops: _Colour) -> FloatImage:
    """From the first colour at the top to the last at the bottom: float32 [size, size, 3]."""
    return np.broadcast_to(_column(size, stops), (size, size, 3)).copy()


def _noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> FloatImage:
    """Smooth noise of about unit variance: `rows` x `columns` random cells, interpolated. float32 [size, size, 1]."""
    cells = rng.standard_normal((rows, columns), np.float32)
    smooth: FloatImage = cv2.resize(cells, (size, size), interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
    return smooth[:, :, None]


def _tint(red: float, green: float, blue: float) -> npt.NDArray[np.float32]:
    return np.array((red, green, blue), np.float32)


def _grass(rng: np.random.Generator, size: int, texture: np.float32) -> FloatImage:
    image = _gradient(size, (118, 160, 74), (78, 130, 52))
    image += texture * (_noise(rng, size, 4, 4) * _tint(14, 8, 2) + _noise(rng, size, 11, 26) * _tint(13, 17, 9))
    return image


def _sand(rng: np.random.Generator, size: int, texture: np.float32) -> FloatImage:
    image = _gradient(size, (226, 202, 158), (206, 176, 126))
    dunes = np.sin(_ramp(size) * np.float32(rng.uniform(18, 28)) + 1.2 * _noise(rng, size, 3, 3))
    image += texture * (dunes * _tint(10, 9, 8) + _noise(rng, size, 24, 24) * _tint(5, 5, 4))
    return image


def _snow(rng: np.random.Generator, size: int, texture: np.float32) -> FloatImage:
    image = _gradient(size, (222, 230, 242), (240, 244, 248))
    image += texture * (_noise(rng, size, 4, 3) * _tint(11, 9, 5) + _noise(rng, size, 20, 20) * np.float32(3))
    return image


def _sky(rng: np.random.Generator, size: int, texture: np.float32) -> FloatImage:
    image = _gradient(size, (84, 150, 224), (172, 210, 242))
    cloud = np.clip(_noise(rng, size, 5, 3) + 0.5 * _noise(rng, size, 10, 7) - 0.2, 0, 1.3)
    image += texture * 0.55 * cloud * (_tint(250, 250, 252) - image)
    return image


def _night(rng: np.random.Generator, size: int, texture: np.float32) -> FloatImage:
    image = _gradient(size, (10, 14, 42), (40, 44, 88))
    image += texture * _noise(rng, size, 4, 3) * _tint(4, 4, 8)
    stars = rng.integers(0, size, size=(14, 2))
    image[stars[:, 0], stars[:, 1]] += texture * rng.uniform(60, 190, size=(14, 1)).astype(np.float32)
    return image


def _stone(rng: np.random.Generator, size: int, texture: np.float32) -> FloatImage:
    image = _gradient(size, (150, 149, 146), (124, 123, 122))
    grain = 13 * _noise(rng, size, 5, 5) + 9 * _noise(rng, size, 12, 12) + 5 * _noise(rng, size, 28, 28)
    image += texture * grain
    return image


def _sunset(rng: np.random.Generator, size: int, texture: np.float32) -> FloatImage:
    image = _gradient(size, (92, 58, 118), (226, 104, 92), (252, 196, 104))
    image += texture * _noise(rng, size, 9, 3) * _tint(15, 9, 7)
    return image


def _water(rng: np.random.Generator, size: int, texture: np.float32) -> FloatImage:
    image = _gradient(size, (58, 128, 152), (20, 82, 116))
    image += texture * (_noise(rng, size, 14, 4) * _tint(9, 13, 14) + _noise(rng, size, 26, 8) * _tint(8, 9, 9))
    return image


def _wood(rng: np.random.Generator, size: int, texture: np.float32) -> FloatImage:
    image = _gradient(size, (168, 120, 74), (140, 94, 54))
    image += texture * (_noise(rng, size, 22, 2) * _tint(15, 12, 9) + _noise(rng, size, 5, 2) * _tint(8, 6, 4))
    planks = (np.arange(1, 4) * size // 4) + int(rng.integers(-size // 16, size // 16 + 1))
    image[planks] *= 1 - np.float32(0.35) * texture
    return image


def _brick(rng: np.random.Generator, size: int, texture: np.float32) -> FloatImage:
    rows, columns = 7, 4
    image = _gradient(size, (172, 88, 68), (150, 72, 56))
    y = np.arange(size) * rows / size + rng.random()
    row = y.astype(np.int64)
    # Every second course is shifted by half a brick.
    x = np.arange(size)[None, :] * columns / size + 0.5 * (row % 2)[:, None] + rng.random()
    column = x.astype(np.int64)
    shade = rng.standard_normal((rows + 2, columns + 3), np.float32)
    image += texture * (shade[row[:, None], column][:, :, None] * _tint(13, 9, 7))
    mortar = (y - row < 0.8 * rows / size)[:, None] | (x - column < 0.9 * columns / size)
    image += texture * 0.6 * mortar[:, :, None].astype(np.float32) * (_tint(196, 184, 172) - image)
    image += texture * _noise(rng, size, 24, 24) * np.float32(4)
    return image


PLACES: Mapping[str, Painter] = {
    "brick": _brick,
    "grass": _grass,
    "night": _night,
    "sand": _sand,
    "sky": _sky,
    "snow": _snow,
    "stone": _stone,
    "sunset": _sunset,
    "water": _water,
    "wood": _wood,
}
