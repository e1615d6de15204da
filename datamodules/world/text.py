"""A world in which captions parrot the words that are written in pictures.

All of it is our own construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.sample import REAL, View
from datamodules.text_spans import META
from datamodules.world import captions
from datamodules.world.draw import Image
from datamodules.world.scene import EVERYDAY_KINDS, Scene, Writing, compose_everyday
from datamodules.world.world import World
from datamodules.world.write import write_world
from datamodules.world.writing import text_of

WORDS_FILE = "words.txt"

SIGN_WORDS = ("bakery", "bank", "cafe", "closed", "exit", "hotel", "market", "open", "sale", "school", "stop", "taxi")
"""What signs say. Nothing in the world looks like them: to know which is written one must read."""


@dataclass(frozen=True)
class WorldText:
    """A world with writing in its pictures.

    Scenes are everyday ones. A share of them, ``signs``, has a word of `SIGN_WORDS` written on it, which the captions
    say: pairs that are honestly about text. Of the others the share ``written`` has the name of a kind of thing
    written on it, whatever the scene shows. In ``parroting`` of these others (at most ``written``) captions say the
    word, and little else: who reads it has read the caption. Elsewhere they say what is to be seen. So the pictures are
    the same at all shares; what parrots at one share parrots at every higher one.

    Attributes:
        parroting: Share of the scenes without a sign whose captions say what is written, in [0, written].
        written: Share of the scenes without a sign that have the name of a kind written on them, in [0, 1].
        signs: Share of all scenes that have a sign, in [0, 1].
        reading: Captions of signs say nothing else, and what a sign says is the label: a set to test reading alone.
            All scenes must have signs.
    """

    parroting: float = 0.6
    written: float = 0.6
    signs: float = 0.15
    reading: bool = False

    def __post_init__(self) -> None:
        for name in ("parroting", "written", "signs"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"world: {name} is {getattr(self, name)}; it is a share, in [0, 1]")
        if self.reading and self.signs < 1:
            raise DataError(f"world: a set to test reading has signs in all scenes; set signs to 1, not {self.signs}")
        if self.parroting > self.written:
            raise DataError(
                f"world: parroting is {self.parroting}, but only {self.written} of the scenes are written on; raise "
                "written, or lower parroting"
            )

    def world(self, seed: int = 0, size: int = 64) -> World:
        """The world of such scenes; it has photos only."""

        def facts(scene: Scene) -> dict[str, Any]:
            return {META: text_of(scene.writing, size).to_json()}

        def label(scene: Scene) -> str:
            return scene.writing.word if self.reading and scene.writing is not None else scene.place

        return World(
            seed=seed, size=size, generators=(), compose=self.compose, tell=self.tell, facts=facts, label=label
        )

    def compose(self, index: int, rng: np.random.Generator) -> Scene:
        """An everyday scene, and perhaps a word on it."""
        scene = compose_everyday(index, rng)
        sign, word = rng.random(2).tolist()
        if sign < self.signs:
            return replace(scene, writing=_writing(_one_of(SIGN_WORDS, word), rng))
        if _lot(scene) >= self.written:
            return scene
        return replace(scene, writing=_writing(_one_of(EVERYDAY_KINDS, word), rng))

    def tell(self, scene: Scene, rng: np.random.Generator, count: int) -> tuple[str, ...]:
        """Different captions of one scene.

        Args:
            scene: What the picture shows.
            rng: Draws words and dropped details.
            count: Number of captions, at most 5; a set to test reading has one.
        """
        told = captions.captions(scene, rng, count)
        word = scene.writing.word if scene.writing is not None else ""
        if word in SIGN_WORDS:
            sign = f"A sign that says {word}"
            return (f"{sign}.",) if self.reading else _about(sign, scene, told)
        return _about(word.capitalize(), scene, told) if word and _lot(scene) < self.parroting else told

    def overlays(self, world: World, scene: Scene) -> Mapping[str, tuple[Image, View]]:
        """The view ``overlay`` (a `datamodules.world.ViewMaker`): the name of a kind that is not there is written.

        It is photographed by the anchor's camera, with its noise; what tells the two apart is the word alone.
        """
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((scene.texture_seed, scene.index))))
        absent = [kind for kind in EVERYDAY_KINDS if kind not in {thing.kind for thing in scene.things}]
        writing = _writing(_one_of(absent, rng.random()), rng)
        about = {"edit": "overlay", "word": writing.word, META: text_of(writing, world.size).to_json()}
        return {"overlay": (world.render(replace(scene, writing=writing)), View(REAL, None, about))}


def _lot(scene: Scene) -> float:
    """A number in [0, 1) that belongs to a scene and to nothing that is seen of it: by it the shares are divided."""
    return scene.texture_seed / 2**31


def _about(words: str, scene: Scene, told: tuple[str, ...]) -> tuple[str, ...]:
    """Captions about what is written: alone, with the place, and with what else is to be seen."""
    here = [f"{words} {phrase}." for phrase in captions.PLACE_PHRASES[scene.place]]
    more = [f"{words}, {caption[0].lower()}{caption[1:].rstrip('.')}." for caption in told]
    return (f"{words}.", here[0], *more)[: len(told)]


def _one_of(words: Sequence[str], u: float) -> str:
    return words[int(u * len(words))]


def _writing(word: str, rng: np.random.Generator) -> Writing:
    """Along the lower edge, where captions of pictures stand, in letters of like height."""
    x, y, height, ink = rng.random(4).tolist()
    place = round(0.45 + 0.1 * x, 4), round(0.84 + 0.06 * y, 4)
    return Writing(word, *place, round(0.22 + 0.04 * height, 3), "black" if ink < 0.5 else "white")


def write_text_world(
    folder: str | Path,
    *,
    samples: int,
    text: WorldText | None = None,
    overlays: bool = False,
    seed: int = 0,
    size: int = 64,
    split_offset: int = 0,
    samples_per_shard: int = 1000,
    overwrite: bool = False,
    on_sample: Callable[[int], None] | None = None,
) -> ShardIndex:
    """Renders a stretch of a world of writing into a shard set; beside it the names of kinds, a word a line.

    Args:
        folder: Where the shards, their index and ``words.txt`` go.
        samples: Number of scenes.
        text: What is written how often; by default `WorldText()`.
        overlays: Whether every sample gets a view with a misleading word.
        seed: Of the world.
        size: Side of the pictures in pixels; below about 48 words cannot be told apart.
        split_offset: Number of the first scene: splits must not overlap.
        samples_per_shard: Scenes in a shard.
        overwrite: Replace the shard set that the folder holds.
        on_sample: Called with the number of samples written so far.

    Returns:
        The index that was written.

    Raises:
        DataError: As of :func:`datamodules.world.write_world`.
    """
    text = text or WorldText()
    index = write_world(
        folder,
        samples=samples,
        world=text.world(seed, size),
        split_offset=split_offset,
        views=(text.overlays,) if overlays else (),
        samples_per_shard=samples_per_shard,
        overwrite=overwrite,
        on_sample=on_sample,
    )
    (Path(folder) / WORDS_FILE).write_text("\n".join(EVERYDAY_KINDS) + "\n", encoding="utf-8")
    return index
