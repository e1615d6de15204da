"""Small drawn pictures with annotated objects: discs and squares on a smooth background."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from datamodules.index import ShardIndex
from datamodules.reencode import ImageFormat
from datamodules.sample import Sample
from datamodules.writer import ShardWriter

WIDTH, HEIGHT = 160, 120
COLOURS = {"dog": (220, 30, 30), "frisbee": (30, 200, 30), "person": (30, 30, 220), "vase": (230, 200, 20)}
PLACES = {"dog": (20, 60, 36, 30), "frisbee": (100, 20, 24, 24), "person": (70, 50, 24, 50), "vase": (120, 80, 24, 30)}


def box(left: float, top: float, width: float, height: float) -> list[float]:
    """The polygon of a rectangle."""
    return [left, top, left + width, top, left + width, top + height, left, top + height]


def thing(category: str, *, crowd: bool = False) -> dict[str, Any]:
    """The annotation of an object at its place."""
    place = PLACES[category]
    return {"category": category, "box": list(place), "polygons": [box(*place)], "crowd": crowd}


def draw(categories: tuple[str, ...], seed: int = 0) -> npt.NDArray[np.uint8]:
    """[HEIGHT, WIDTH, 3] grey noise with one coloured rectangle an object."""
    noise = np.random.default_rng(seed).integers(105, 115, (HEIGHT, WIDTH, 1), dtype=np.uint8).repeat(3, axis=2)
    image = Image.fromarray(noise)
    for category in categories:
        left, top, width, height = PLACES[category]
        ImageDraw.Draw(image).rectangle((left, top, left + width - 1, top + height - 1), fill=COLOURS[category])
    return np.asarray(image)


SCENES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("dog", "frisbee"), ("A dog catching a frisbee in a park.", "A frisbee and a dog on the grass", "A green park")),
    (("dog", "frisbee", "person"), ("A man throws a frisbee to a dog", "A person with a dog and a frisbee")),
    (("person",), ("A man in a field",)),
    (("vase",), ("A vase on a shelf",)),
    (("dog", "frisbee"), ("A dog next to a frisbee",)),
    (("person", "vase"), ("A woman with a vase", "A vase next to a woman in a room")),
]


def write_scenes(folder: Path, *, objects: bool = True, samples_per_shard: int = 2) -> ShardIndex:
    """Write the scenes as shards, without loss."""
    with ShardWriter(
        folder, samples_per_shard=samples_per_shard, image_format=ImageFormat(keep_original=True)
    ) as writer:
        for number, (categories, captions) in enumerate(SCENES):
            meta = {"objects": [thing(category) for category in categories]} if objects else {}
            buffer = io.BytesIO()
            Image.fromarray(draw(categories, number)).save(buffer, "PNG")
            writer.write(Sample(f"scene-{number}", captions, meta=meta), buffer.getvalue())
    assert writer.index is not None
    return writer.index
