"""Captioned photos with a twin each, as shards that this trainer and open_clip's both read; run by end_to_end.py.

    python tests/benchmarks/trained_shards.py FOLDER [--data REAL_PICTURES]

Real photos with the first of their captions where they are to be had, then rendered scenes. A twin is the photo
smoothed: it costs what a generated picture would. Prints what it made as one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter
from webdataset.writer import TarWriter

from datamodules.index import build_index
from datamodules.reencode import ImageFormat
from datamodules.sample import Sample, View
from datamodules.world import World

SHARDS, PER_SHARD, SIZE = 4, 200, 256


def photos(data: Path | None) -> Iterator[tuple[bytes | Image.Image, str, str]]:
    """Yield pictures, a caption, and what they are; without end."""
    if data is not None and (data / "flickr8k.tar").is_file():
        with tarfile.open(data / "flickr8k.tar") as tar:
            members = {Path(member.name).name: member for member in tar}
            table = tar.extractfile(members["captions.csv"])
            assert table is not None
            captions: dict[str, str] = {}
            for row in csv.reader(io.TextIOWrapper(table, encoding="utf-8")):
                captions.setdefault(row[0], row[1])
            for name, member in members.items():
                file = tar.extractfile(member) if name.endswith(".jpg") and name in captions else None
                if file is not None:
                    yield file.read(), captions[name], "real"
    world = World(size=SIZE)
    for number in itertools.count():
        scene = world.scene(number)
        yield world.render(scene, "real"), world.captions(scene)[0], "rendered"


def write(folder: Path, data: Path | None) -> dict[str, Any]:
    """Write the shards to ``folder/plain`` (JPEG and text) and ``folder/twins`` (the same photos, and their twins).

    Args:
        folder: gets both.
        data: folder of real pictures, None where there is none.
    """
    form = ImageFormat(size=SIZE, quality=92)
    counts = {"real": 0, "rendered": 0}
    pictures = photos(data)
    for name in ("plain", "twins"):
        (folder / name).mkdir(parents=True)
    for shard in range(SHARDS):
        with (
            TarWriter(str(folder / "plain" / f"{shard:05d}.tar"), encoder=False) as plain,
            TarWriter(str(folder / "twins" / f"{shard:05d}.tar"), encoder=False) as twins,
        ):
            for number in range(PER_SHARD):
                picture, caption, kind = next(pictures)
                counts[kind] += 1
                key = f"{shard:02d}{number:04d}"
                jpg = form.encode(picture, key).data
                smooth = Image.open(io.BytesIO(jpg)).filter(ImageFilter.MedianFilter(3))
                sample = Sample(key, (caption,), views={"smooth": View("smooth")})
                plain.write({"__key__": key, "jpg": jpg, "txt": caption.encode()})
                twin = form.encode(smooth, key).data
                about = json.dumps(sample.to_json()).encode()
                twins.write({"__key__": key, "jpg": jpg, "json": about, "smooth.jpg": twin})
    for name in ("plain", "twins"):
        build_index(folder / name, source="real").save()
    return {"pictures": SHARDS * PER_SHARD, "size": SIZE, **counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="folder of real pictures")
    options = parser.parse_args()
    about = options.folder / "about.json"
    if not about.is_file():  # written last: where it is missing, the rest is not whole
        shutil.rmtree(options.folder, ignore_errors=True)
        about.parent.mkdir(parents=True)
        about.write_text(json.dumps(write(options.folder, options.data)))
    print(about.read_text())


if __name__ == "__main__":
    main()
