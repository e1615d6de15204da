"""A world in which one object goes with another far too often, and whose pictures can be edited exactly.

All of it is our own construction.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.sample import REAL, View
from datamodules.world.captions import PLACE_PHRASES, noun_phrase
from datamodules.world.draw import Image, outline
from datamodules.world.scene import CAMOUFLAGE, EVERYDAY_COLOURS, EVERYDAY_KINDS, EVERYDAY_PLACES, Scene, Thing
from datamodules.world.world import World
from datamodules.world.write import write_world

VOCABULARY_FILE = "vocabulary.csv"
META = "objects"  # where a sample's meta has its objects, as `bias-train shards import coco` writes them

_CENTRES = ((0.27, 0.28), (0.73, 0.28), (0.27, 0.72), (0.73, 0.72))
_RADIUS = {"small": 0.085, "medium": 0.17, "large": 0.22}
_OPENINGS = ("", "there is", "a picture of", "you can see")
_HOST_SAID, _OTHER_SAID, _COLOUR_SAID, _PLACE_SAID = 0.9, 0.6, 0.7, 0.5
_RETAKEN = 2**40  # added to a scene's number for another camera


@dataclass(frozen=True)
class Said:
    """One caption in parts.

    Attributes:
        opening: "there is" or the like.
        things: kind and noun phrase of what it mentions.
        place: where that is; may be empty.
        stop: what it ends with.
    """

    opening: str
    things: tuple[tuple[str, str], ...]
    place: str
    stop: str

    @property
    def text(self) -> str:
        """The caption."""
        names = [phrase for _, phrase in self.things]
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        caption = " ".join(filter(None, [self.opening, listed, self.place]))
        return f"{caption[0].upper()}{caption[1:]}{self.stop}"

    def without(self, kind: str) -> Said:
        """The caption without the things of a kind."""
        return replace(self, things=tuple(thing for thing in self.things if thing[0] != kind))

    def and_a(self, kind: str, phrase: str) -> Said:
        """The caption with one thing more."""
        return replace(self, things=(*self.things, (kind, phrase)))


@dataclass(frozen=True)
class WorldObjects:
    """A world with a planted co-occurrence.

    Half of the scenes show the ``host``, large. The ``companion``, small, is in the share ``together`` of these, and in
    the share ``1 - together`` of the others: 0.5 plants nothing. One or two things of other kinds stand beside them.
    Captions mention the companion wherever it is.

    Attributes:
        companion: Kind of the thing that goes with the host.
        host: Kind of the thing that it goes with.
        together: Share of the scenes with a host that hold a companion, in [0, 1].
    """

    companion: str = "ball"
    host: str = "house"
    together: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.together <= 1:
            raise DataError(f"world: together is {self.together}; it is a share, in [0, 1]")
        known = ", ".join(EVERYDAY_KINDS)
        for name in ("companion", "host"):
            if getattr(self, name) not in EVERYDAY_KINDS:
                raise DataError(f"world: {name} {getattr(self, name)!r} is no kind of thing; choose one of {known}")
        if self.companion == self.host:
            raise DataError(f"world: companion and host are both {self.host!r}; choose two kinds of {known}")

    def world(self, seed: int = 0, size: int = 32) -> World:
        """The world of such scenes; it has photos only."""
        facts = partial(self.facts, size=size)
        return World(seed=seed, size=size, generators=(), compose=self.compose, tell=self.tell, facts=facts)

    def facts(self, scene: Scene, size: int) -> dict[str, Any]:
        """The things of a scene as annotated objects, where a sample's meta has them, in pixels."""
        return {META: [_object(thing, size) for thing in scene.things]}

    def compose(self, index: int, rng: np.random.Generator) -> Scene:
        """Things in some of four corners: one or two of other kinds, and host and companion as is planted."""
        place = EVERYDAY_PLACES[rng.integers(len(EVERYDAY_PLACES))]
        host = bool(rng.random() < 0.5)
        companion = bool(rng.random() < (self.together if host else 1 - self.together))
        others = [kind for kind in EVERYDAY_KINDS if kind not in (self.host, self.companion)]
        kinds = [others[i] for i in rng.choice(len(others), size=int(rng.integers(1, 3)), replace=False)]
        kinds += [self.host] * host + [self.companion] * companion
        free = [colour for colour in EVERYDAY_COLOURS if colour not in CAMOUFLAGE[place]]
        corners, colours = rng.permutation(len(_CENTRES)), rng.permutation(len(free))
        things = [
            self._thing(kind, free[colour], int(corner), rng)
            for kind, colour, corner in zip(kinds, colours, corners, strict=False)
        ]
        things.sort(key=lambda thing: (thing.y > 0.5, thing.x))
        return Scene(index, place, "row", tuple(things), int(rng.integers(2**31)))

    def _thing(self, kind: str, colour: str, corner: int, rng: np.random.Generator) -> Thing:
        size = {self.host: "large", self.companion: "small"}.get(kind, "medium")
        dx, dy, tilt, tone = np.clip(rng.standard_normal(4), -2, 2).tolist()
        x, y = _CENTRES[corner]
        return Thing(
            kind, colour, size, round(x + 0.015 * dx, 4), round(y + 0.015 * dy, 4), _RADIUS[size],
            round(6 * tilt, 2), round(1 + 0.05 * tone, 3),
        )  # fmt: skip

    def tell(self, scene: Scene, rng: np.random.Generator, count: int) -> tuple[str, ...]:
        """Different captions of one scene, the fullest first.

        Args:
            scene: What the picture shows.
            rng: Draws words and dropped details.
            count: Number of captions.
        """
        return tuple(said.text for said in self.say(scene, rng, count))

    def say(self, scene: Scene, rng: np.random.Generator, count: int) -> tuple[Said, ...]:
        """The captions of :meth:`tell` in parts. Each mentions something beside the companion."""
        told = [self._say(scene, rng, everything=True)]
        for _ in range(200):
            if len(told) == count:
                break
            said = self._say(scene, rng)
            if said.text not in [other.text for other in told]:
                told.append(said)
        return tuple(told)

    def _say(self, scene: Scene, rng: np.random.Generator, *, everything: bool = False) -> Said:
        draws = rng.random(2 * len(scene.things)).reshape(-1, 2)
        chance = {self.companion: 1.0, self.host: _HOST_SAID}
        mentioned = [
            everything or draw < chance.get(thing.kind, _OTHER_SAID)
            for thing, draw in zip(scene.things, draws[:, 0], strict=True)
        ]
        if not any(m and thing.kind != self.companion for m, thing in zip(mentioned, scene.things, strict=True)):
            mentioned[next(i for i, thing in enumerate(scene.things) if thing.kind != self.companion)] = True
        phrases = [
            (thing.kind, noun_phrase(thing, size=False, colour=bool(everything or draw < _COLOUR_SAID)))
            for thing, draw, m in zip(scene.things, draws[:, 1], mentioned, strict=True)
            if m
        ]
        order = rng.permutation(len(phrases)).tolist()
        places, there = PLACE_PHRASES[scene.place], bool(rng.random() < _PLACE_SAID)
        place = places[rng.integers(len(places))] if everything or there else ""
        opening = _OPENINGS[rng.integers(len(_OPENINGS))]
        return Said(opening, tuple(phrases[i] for i in order), place, "." if rng.random() < 0.7 else "")

    def edits(self, world: World, scene: Scene) -> Mapping[str, tuple[Image, View]]:
        """Views of a scene, rendered anew and so exact (a `datamodules.world.ViewMaker`).

        Where the scene holds the companion, ``no-<companion>`` is the scene without it, with captions that do not
        mention it; elsewhere ``with-<companion>`` has it pasted into a free corner, and captions that do. Beside it
        ``control-<companion>`` is the scene as it is. Edit and control are photographed by the same camera, which is
        not the anchor's: what tells them apart is the object alone.
        """
        said = self.say(scene, world.caption_rng(scene), world.captions_per_scene)
        has = any(thing.kind == self.companion for thing in scene.things)
        if has:
            name, edit = f"no-{self.companion}", "removed"
            things = tuple(thing for thing in scene.things if thing.kind != self.companion)
            after = [caption.without(self.companion).text for caption in said]
            area = next(thing for thing in scene.things if thing.kind == self.companion).radius
        else:
            name, edit = f"with-{self.companion}", "added"
            pasted = self._pasted(scene)
            things = (*scene.things, pasted)
            phrase = noun_phrase(pasted, size=False, colour=True)
            after = [caption.and_a(self.companion, phrase).text for caption in said]
            area = pasted.radius
        about: dict[str, Any] = {"object": self.companion, "edited": True, "inpainter": "exact"}
        about["mask"] = {"dilation": 0, "area": round((2 * area) ** 2, 4)}
        control = f"control-{self.companion}"
        mentioned = [one != two.text for one, two in zip(after, said, strict=True)]
        retaken = replace(scene, index=scene.index + _RETAKEN)
        return {
            name: (
                world.render(replace(retaken, things=things)),
                View(REAL, tuple(after), {**about, "edit": edit, "mentioned": mentioned, "control": control}),
            ),
            control: (world.render(retaken), View(REAL, None, {**about, "edit": "control"})),
        }

    def _pasted(self, scene: Scene) -> Thing:
        """A companion for a scene without one, in the free corner, in a colour that no other thing has."""
        rng = np.random.Generator(np.random.PCG64(scene.texture_seed))
        taken = {_corner(thing) for thing in scene.things}
        corners = [corner for corner in range(len(_CENTRES)) if corner not in taken]
        used = {thing.colour for thing in scene.things} | CAMOUFLAGE[scene.place]
        colours = [colour for colour in EVERYDAY_COLOURS if colour not in used]
        colour, corner = colours[rng.integers(len(colours))], corners[rng.integers(len(corners))]
        return self._thing(self.companion, colour, corner, rng)

    @staticmethod
    def vocabulary_file() -> str:
        """The kinds of things as a table for `datamodules.objects.vocabulary.load_vocabulary`."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["category", "synonyms", "hypernym"])
        table.writerows([kind, f"{kind}/{_plural(kind)}", "thing/things"] for kind in EVERYDAY_KINDS)
        return text.getvalue()


def _corner(thing: Thing) -> int:
    return min(range(len(_CENTRES)), key=lambda i: (_CENTRES[i][0] - thing.x) ** 2 + (_CENTRES[i][1] - thing.y) ** 2)


def _object(thing: Thing, size: int) -> dict[str, Any]:
    """A thing as an annotated object, in pixels."""
    polygons = [(contour * size).round(2) for contour in outline(thing)]
    points = np.concatenate(polygons)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return {
        "category": thing.kind,
        "box": [round(v, 2) for v in (left, top, right - left, bottom - top)],
        "polygons": [[round(float(v), 2) for v in polygon.flatten()] for polygon in polygons],
        "crowd": False,
    }


def _plural(kind: str) -> str:
    return f"{kind}es" if kind.endswith(("s", "x")) else f"{kind}s"


def write_objects_world(
    folder: str | Path,
    *,
    samples: int,
    objects: WorldObjects | None = None,
    seed: int = 0,
    size: int = 32,
    split_offset: int = 0,
    samples_per_shard: int = 1000,
    overwrite: bool = False,
    on_sample: Callable[[int], None] | None = None,
) -> ShardIndex:
    """Renders a stretch of a world of objects into a shard set, with edits of every scene; beside it its vocabulary.

    Args:
        folder: Where the shards, their index and ``vocabulary.csv`` go.
        samples: Number of scenes.
        objects: What goes with what; by default `WorldObjects()`.
        seed: Of the world.
        size: Side of the pictures in pixels.
        split_offset: Number of the first scene: splits must not overlap.
        samples_per_shard: Scenes in a shard.
        overwrite: Replace the shard set that the folder holds.
        on_sample: Called with the number of samples written so far.

    Returns:
        The index that was written.

    Raises:
        DataError: As of :func:`datamodules.world.write_world`.
    """
    objects = objects or WorldObjects()
    index = write_world(
        folder,
        samples=samples,
        world=objects.world(seed, size),
        split_offset=split_offset,
        views=(objects.edits,),
        samples_per_shard=samples_per_shard,
        overwrite=overwrite,
        on_sample=on_sample,
    )
    (Path(folder) / VOCABULARY_FILE).write_text(objects.vocabulary_file(), encoding="utf-8")
    return index
