"""What is there: things of a kind, a colour and a size, arranged on a place. No pixels and no words here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datamodules.errors import DataError

# What the everyday scenes are made of. `draw.KINDS`, `draw.COLOURS` and `draw.PLACES` hold the looks; those tables may
# grow with other axes without moving the everyday scenes, because these tuples are what is drawn from.
EVERYDAY_KINDS = ("ball", "box", "cone", "cross", "cup", "heart", "house", "ring", "star", "umbrella")
EVERYDAY_COLOURS = ("black", "blue", "green", "orange", "pink", "purple", "red", "turquoise", "white", "yellow")
EVERYDAY_PLACES = ("brick", "grass", "night", "sand", "sky", "snow", "stone", "sunset", "water", "wood")

# Colours that would drown in the place, so that no caption names a thing that nobody can see.
CAMOUFLAGE: Mapping[str, frozenset[str]] = {
    "brick": frozenset({"red", "orange"}),
    "grass": frozenset({"green"}),
    "night": frozenset({"black", "blue"}),
    "sand": frozenset({"yellow", "orange"}),
    "sky": frozenset({"blue", "turquoise", "white"}),
    "snow": frozenset({"white"}),
    "stone": frozenset(),
    "sunset": frozenset({"orange", "pink", "purple"}),
    "water": frozenset({"blue", "turquoise"}),
    "wood": frozenset({"orange"}),
}

# Radius in units of the picture's side.
SIZES: Mapping[str, float] = {"small": 0.135, "medium": 0.185, "large": 0.25}
# Three in a row have room for one size only.
ROW_OF_THREE_RADIUS = 0.16

ARRANGEMENTS = ("left", "centre", "right", "row", "column")


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        kind: Key of `draw.KINDS`; also the noun.
        colour: Key of `draw.COLOURS`; also the adjective.
        size: Key of `SIZES`. "medium" is what nobody mentions.
        x: Centre, in units of the picture's side from the left.
        y: Centre, in units of the picture's side from the top.
        radius: Half the extent, in units of the picture's side.
        angle: Tilt in degrees, clockwise.
        shade: Brightness of this thing relative to its named colour, about 1.
    """

    kind: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float = 0.0
    shade: float = 1.0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box (x0, y0, x1, y1) in units of the picture's side, clipped to the picture."""
        return (
            max(0.0, self.x - self.radius),
            max(0.0, self.y - self.radius),
            min(1.0, self.x + self.radius),
            min(1.0, self.y + self.radius),
        )


@dataclass(frozen=True)
class Writing:
    """A word that somebody has written on what the camera sees, in front of everything else.

    Attributes:
        word: What is written.
        x: Centre, in units of the picture's side from the left.
        y: Centre, in units of the picture's side from the top.
        height: Of the letters' line, in units of the picture's side; long words are written smaller, to fit.
        ink: "black" or "white"; the letters' edge is the other.
    """

    word: str
    x: float
    y: float
    height: float
    ink: str


@dataclass(frozen=True)
class Scene:
    """What a picture shows, however it is taken or generated.

    Attributes:
        index: Number of the scene in its world.
        place: Key of `draw.PLACES`.
        arrangement: One of `ARRANGEMENTS`: where a single thing stands, or how several are lined up.
        things: In reading order: left to right in a row, top to bottom in a column.
        texture_seed: Seeds the place's texture, so that every rendering of the scene has the same clouds and planks.
        writing: What is written on it, if anything is. Not part of the description.
    """

    index: int
    place: str
    arrangement: str
    things: tuple[Thing, ...]
    texture_seed: int = 0
    writing: Writing | None = None

    @property
    def description(self) -> str:
        """Canonical description: everything a caption could say. Scenes of one description are one `group`."""
        words = [f"{thing.size} {thing.colour} {thing.kind}" for thing in self.things]
        return f"{self.place}: {', '.join(words)} ({self.arrangement})"

    def to_json(self) -> dict[str, Any]:
        """The scene as plain data, for a sample's metadata. `Scene.from_json` reads it back exactly."""
        return {
            "index": self.index,
            "place": self.place,
            "arrangement": self.arrangement,
            "texture_seed": self.texture_seed,
            "objects": [
                {
                    "kind": thing.kind,
                    "colour": thing.colour,
                    "size": thing.size,
                    "position": [thing.x, thing.y],
                    "radius": thing.radius,
                    "angle": thing.angle,
                    "shade": thing.shade,
                    "box": list(thing.box),
                }
                for thing in self.things
            ],
            **({} if self.writing is None else {"writing": asdict(self.writing)}),
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Scene:
        """Reads what `to_json` wrote.

        Raises:
            DataError: If a field is missing, naming it.
        """
        try:
            things = tuple(
                Thing(
                    kind=thing["kind"],
                    colour=thing["colour"],
                    size=thing["size"],
                    x=thing["position"][0],
                    y=thing["position"][1],
                    radius=thing["radius"],
                    angle=thing["angle"],
                    shade=thing["shade"],
                )
                for thing in obj["objects"]
            )
            writing = Writing(**obj["writing"]) if "writing" in obj else None
            return cls(obj["index"], obj["place"], obj["arrangement"], things, obj["texture_seed"], writing)
        except KeyError as error:
            raise DataError(
                f"a scene's metadata lacks {error}: it was not written by datamodules.world.write_world; "
                "render the world again"
            ) from error


Composer = Callable[[int, np.random.Generator], Scene]
"""Draws scene `index` from `rng`. Another axis plants its bias in the scenes' content by bringing its own composer."""


def compose_everyday(index: int, rng: np.random.Generator) -> Scene:
    """One to three different things in random colours on a random place: no association is planted.

    Kinds, colours, places and positions are independent of one another, except that a colour that would drown in the
    place (`CAMOUFLAGE`) is not drawn there.
    """
    place = EVERYDAY_PLACES[rng.integers(len(EVERYDAY_PLACES))]
    visible = [colour for colour in EVERYDAY_COLOURS if colour not in CAMOUFLAGE[place]]
    count = int(rng.choice(3, p=(0.3, 0.45, 0.25))) + 1
    arrangement, centres = _arrange(count, rng)
    kinds = rng.choice(len(EVERYDAY_KINDS), size=count, replace=False)
    colours = rng.choice(len(visible), size=count, replace=False)
    jitter = np.clip(rng.standard_normal((count, 5)), -2, 2).tolist()
    things = []
    for (x, y), kind, colour, (dx, dy, dr, tilt, tone) in zip(centres, kinds, colours, jitter, strict=True):
        size = "medium" if count == 3 else ("small", "medium", "large")[rng.integers(3)]
        radius = ROW_OF_THREE_RADIUS if count == 3 else SIZES[size]
        radius *= 1.0 + 0.04 * dr
        things.append(
            Thing(
                kind=EVERYDAY_KINDS[kind],
                colour=visible[colour],
                size=size,
                x=_inside(x + 0.015 * dx, radius),
                y=_inside(y + 0.03 * dy, radius),
                radius=round(radius, 4),
                angle=round(6.0 * tilt, 2),
                shade=round(1.0 + 0.05 * tone, 3),
            )
        )
    return Scene(index, place, arrangement, tuple(things), int(rng.integers(2**31)))


def _arrange(count: int, rng: np.random.Generator) -> tuple[str, list[tuple[float, float]]]:
    if count == 1:
        position = ("left", "centre", "right")[rng.integers(3)]
        return position, [({"left": 0.26, "centre": 0.5, "right": 0.74}[position], 0.54)]
    if count == 3:
        return "row", [(0.18, 0.54), (0.5, 0.54), (0.82, 0.54)]
    if rng.random() < 0.6:
        return "row", [(0.27, 0.54), (0.73, 0.54)]
    return "column", [(0.5, 0.27), (0.5, 0.74)]


def _inside(position: float, radius: float) -> float:
    """The position, moved as little as needed for the whole thing to be in the picture."""
    return round(min(max(position, radius), 1.0 - radius), 4)
