"""Writes a stretch of a world as a shard set: photos as anchors, their counterfactuals as views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.reencode import ImageFormat
from datamodules.sample import REAL, Sample, View
from datamodules.world.draw import Image
from datamodules.world.generator import WorldGenerator
from datamodules.world.scene import Scene
from datamodules.world.world import World
from datamodules.writer import ShardWriter

ViewMaker = Callable[[World, Scene], Mapping[str, tuple[Image, View]]]
"""Makes counterfactual views of a scene, by view name. Another axis brings its own (`no-<object>`, `overlay`, ...)."""


def twins(world: World, scene: Scene) -> dict[str, tuple[Image, View]]:
    """One view for each of the world's generators: the same scene, under the generator's name, captions still true."""
    return {
        generator.name: (
            world.render(scene, generator.name),
            View(
                source=generator.name,
                captions=None,
                meta={"fingerprint": generator.fingerprint, "cleanliness": generator.cleanliness},
            ),
        )
        for generator in world.generators
    }


def write_world(
    folder: str | Path,
    *,
    samples: int,
    world: World | None = None,
    split_offset: int = 0,
    anchor: str = REAL,
    views: Sequence[ViewMaker] = (twins,),
    samples_per_shard: int = 1000,
    quality: int = 92,
    overwrite: bool = False,
    on_sample: Callable[[int], None] | None = None,
) -> ShardIndex:
    """Renders scenes `split_offset` to `split_offset + samples - 1` into a shard set.

    Two splits of one world are disjoint when their stretches are: a sample's key holds its scene's number. Scenes of
    equal description, in whatever split, carry the same `group`; a sample's label is the world's: by default the
    scene's place, of which every scene has exactly one.

    Args:
        folder: Where the shards and their index go.
        samples: Number of scenes.
        world: What is rendered; by default `World()`.
        split_offset: Number of the first scene.
        anchor: Source of the anchors. With a generator's name and `views=()` this writes a corpus of generated
            pictures alone, for mixing sources without pairs.
        views: Makers of the views written beside each anchor.
        samples_per_shard: Scenes in a shard.
        quality: JPEG quality of every member, whatever its source.
        overwrite: Replace the shard set that the folder holds.
        on_sample: Called with the number of samples written so far; for a progress bar.

    Returns:
        The index that was written.

    Raises:
        DataError: If `samples` is not positive, or the folder cannot be written or holds shards already.
    """
    if samples < 1:
        raise DataError(f"world: samples {samples} must be 1 or more")
    world = world or World()
    image_format = ImageFormat(quality=quality)
    with ShardWriter(
        folder, samples_per_shard=samples_per_shard, image_format=image_format, overwrite=overwrite
    ) as writer:
        for index in range(split_offset, split_offset + samples):
            _write_scene(writer, world, world.scene(index), anchor, views)
            if on_sample is not None:
                on_sample(len(writer))
    assert writer.index is not None  # closed without an error
    return writer.index


def _write_scene(writer: ShardWriter, world: World, scene: Scene, anchor: str, makers: Sequence[ViewMaker]) -> None:
    made: dict[str, tuple[Image, View]] = {}
    for maker in makers:
        made.update(maker(world, scene))
    sample = Sample(
        key=f"scene-{scene.index:09d}",
        captions=world.captions(scene),
        source=anchor,
        label=world.label(scene),
        group=scene.description,
        views={name: view for name, (_, view) in made.items()},
        meta={"world": {"seed": world.seed, "size": world.size}, "scene": scene.to_json(), **world.facts(scene)},
    )
    writer.write(sample, world.render(scene, anchor), {name: image for name, (image, _) in made.items()})


@dataclass(frozen=True)
class WorldTruth:
    """What is known of a written sample: what every picture shows, and how strong each planted cue is.

    Attributes:
        scene: What anchor and twins show.
        seed: The world's seed.
        size: Side of the rendered pictures in pixels.
        generators: Each twin's generator with its planted strengths.
    """

    scene: Scene
    seed: int
    size: int
    generators: tuple[WorldGenerator, ...]

    @classmethod
    def of(cls, sample: Sample) -> WorldTruth:
        """Reads the truth back from a sample's metadata.

        Raises:
            DataError: If the sample does not come from a world.
        """
        if "scene" not in sample.meta or "world" not in sample.meta:
            raise DataError(f"{sample.key}: meta has no 'scene' and 'world': not a sample of the embedded world")
        generators = tuple(
            WorldGenerator(name, view.meta["fingerprint"], view.meta["cleanliness"])
            for name, view in sample.views.items()
            if "fingerprint" in view.meta
        )
        world = sample.meta["world"]
        return cls(Scene.from_json(sample.meta["scene"]), world["seed"], world["size"], generators)
