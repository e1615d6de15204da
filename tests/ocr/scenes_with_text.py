"""A small shard set of pictures with text, whose meta knows where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from written import written

from datamodules.decode import Picture
from datamodules.index import ShardIndex
from datamodules.reencode import ImageFormat
from datamodules.sample import Sample, View
from datamodules.text_spans import META, PictureText, Span
from datamodules.writer import ShardWriter

LINES: list[list[tuple[str, int, int]]] = [
    [("stop sign", 20, 30), ("window", 150, 180)],
    [("bicycle", 40, 100)],
    [],
    [("orange", 10, 10), ("guitar", 180, 60), ("lantern", 60, 180)],
    [("pepper", 100, 120)],
]
CAPTIONS = [("a STOP sign.", "a street"), ("a man",), ("a field",), ("an orange and a lantern",), ("food",)]
SIZE = (320, 240)


def write_scenes(folder: Path, *, known: bool = True, broken: int | None = None) -> ShardIndex:
    """Write the pictures as PNG would keep them, three in a shard; one of them broken where asked."""
    with ShardWriter(folder, samples_per_shard=3, image_format=ImageFormat(quality=100)) as writer:
        for number, (lines, captions) in enumerate(zip(LINES, CAPTIONS, strict=True)):
            image, spans = written(lines, seed=number)
            meta = {META: PictureText(SIZE, spans, "written").to_json()} if known else {}
            sample = Sample(
                f"scene-{number}", captions, views={"clean": View("real", None, {"edit": "clean"})}, meta=meta
            )
            data = writer.image_format.encode(image, "it")
            if number == broken:
                data = data._replace(data=data.data[:400])
            writer.write(sample, data, {"clean": writer.image_format.encode(written([], seed=number)[0], "it")})
    return ShardIndex.load(folder)


class TrueReader:
    """Knows the pictures by their text's ink; counts what it reads in this process."""

    name = "truth 1"
    reads = 0

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def read(self, image: Picture) -> tuple[Span, ...]:
        TrueReader.reads += 1
        for number, lines in enumerate(LINES):
            truth, spans = written(lines, seed=number)
            if abs(truth.astype(int) - image).mean() < 3:
                return spans
        raise AssertionError("a picture that nobody wrote")
