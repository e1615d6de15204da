"""The world itself: an endless, deterministic supply of scenes, their photos, their generated twins and captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.sample import REAL
from datamodules.world import captions as words
from datamodules.world.draw import Image, draw
from datamodules.world.generator import WorldGenerator, generate
from datamodules.world.photo import take
from datamodules.world.scene import Composer, Scene, compose_everyday

# Each purpose has a random stream of its own, so that asking for one thing never moves another.
_SCENE, _CAPTIONS, _PICTURE = range(3)

Teller = Callable[[Scene, np.random.Generator, int], tuple[str, ...]]
"""Writes so many captions of a scene. Another axis plants its bias in the words by bringing its own teller."""


def no_facts(scene: Scene) -> dict[str, Any]:
    """Nothing beyond the scene itself."""
    return {}


def the_place(scene: Scene) -> str:
    """The one of everyday classes that every scene belongs to."""
    return scene.place


@dataclass(frozen=True)
class World:
    """Scenes by number. Everything is a pure function of (seed, index, source), in whatever order it is asked for.

    Attributes:
        seed: Another seed is another world.
        size: Side of the square pictures in pixels.
        generators: The pretended image generators, at most one of a name.
        compose: Draws the scenes' content.
        captions_per_scene: How many captions each scene has, 1 to 6.
        tell: Writes the captions.
        facts: What else a written sample's meta says of a scene, such as the groups of people.
        label: The class of a written sample.

    Example:
        >>> world = World(seed=1)
        >>> scene = world.scene(7)
        >>> world.render(scene, "world-gen").shape, len(world.captions(scene))
        ((32, 32, 3), 5)
    """

    seed: int = 0
    size: int = 32
    generators: Sequence[WorldGenerator] = field(default_factory=lambda: (WorldGenerator(),))
    compose: Composer = compose_everyday
    captions_per_scene: int = 5
    tell: Teller = words.captions
    facts: Callable[[Scene], Mapping[str, Any]] = no_facts
    label: Callable[[Scene], str] = the_place

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise DataError(f"world: seed {self.seed} is negative; use 0 or more")
        if not 16 <= self.size <= 1024:
            raise DataError(f"world: size {self.size} is outside 16..1024 pixels")
        if not 1 <= self.captions_per_scene <= 6:
            raise DataError(f"world: captions_per_scene {self.captions_per_scene} is outside 1..6")
        names = [generator.name for generator in self.generators]
        if len(set(names)) < len(names):
            raise DataError(f"world: two generators of one name among {', '.join(names)}; rename one")

    def scene(self, index: int) -> Scene:
        """Scene number `index`, 0 or more."""
        if index < 0:
            raise DataError(f"world: scene index {index} is negative; scenes are numbered from 0")
        return self.compose(index, self._rng(index, _SCENE))

    def captions(self, scene: Scene) -> tuple[str, ...]:
        """The scene's captions, the fullest first; see `datamodules.world.captions.captions` for everyday scenes."""
        return self.tell(scene, self.caption_rng(scene), self.captions_per_scene)

    def caption_rng(self, scene: Scene) -> np.random.Generator:
        """What the words of a scene's captions are drawn from, for who tells them once more with a change."""
        return self._rng(scene.index, _CAPTIONS)

    def render(self, scene: Scene, source: str = REAL) -> Image:
        """A picture of the scene.

        Args:
            scene: What it shows; need not be one of this world's own, its index seeds the camera.
            source: "real" for a photo, or a generator's name.

        Returns:
            uint8 [size, size, 3], RGB.

        Raises:
            DataError: If the world has no such generator.
        """
        if source == REAL:
            return take(draw(scene, self.size), self._rng(scene.index, _PICTURE))
        for number, generator in enumerate(self.generators):
            if generator.name == source:
                return generate(scene, generator, self.size, self._rng(scene.index, _PICTURE, number + 1))
        known = ", ".join([REAL, *(generator.name for generator in self.generators)])
        raise DataError(f"world: no source '{source}'; it has {known}")

    def _rng(self, index: int, *purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, index, *purpose))))
