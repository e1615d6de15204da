"""Shards of two sources at 80:20, as img2dataset writes them, and the same pictures as files; run by stream.py.

    python tests/benchmarks/picture_shards.py FOLDER --size 256 --per-shard 100 [--data REAL_PICTURES]

Real photos and real generators' pictures come first, then rendered ones. All are cut square, resized and encoded alike,
so that sources do not differ in cost. Prints what it made as one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from datamodules.index import build_index
from datamodules.reencode import ImageFormat
from datamodules.world import World

SHARDS = {"photos": 16, "generated": 4}  # of one length, so that one in five pictures is generated
RENDERED_AS = {"photos": "real", "generated": "world-gen"}  # the world's names
INDEXED_AS = {"photos": "real", "generated": "generated"}
# The largest first: what is resized up is cheaper to decode than a picture of that size would be.
REAL_PHOTOS = ("coco_tiny.tar", "rta100.tar", "flickr8k.tar", "fairface.tar")
REAL_GENERATED = ("drawbench_sd.tar",)


def real_pictures(data: Path | None, names: tuple[str, ...]) -> Iterator[tuple[bytes, str]]:
    """Yield encoded pictures and a caption made of their file names."""
    for name in names:
        if data is None or not (data / name).is_file():
            continue
        with tarfile.open(data / name) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file is not None
                    words = Path(member.name).with_suffix("").name.replace("_", " ").replace("=", " ")
                    yield file.read(), f"a picture that goes by the name of {words}"


def rendered(source: str, size: int) -> Iterator[tuple[Any, str]]:
    """Yield rendered pictures and their fullest caption, without end."""
    world = World(size=size)
    for number in itertools.count():
        scene = world.scene(number)
        yield world.render(scene, source), world.captions(scene)[0]


def write(folder: Path, size: int, per_shard: int, data: Path | None) -> dict[str, Any]:
    """Write both sources.

    Args:
        folder: gets ``photos`` and ``generated``, each a shard set, and ``files``.
        size: side of the pictures.
        per_shard: pictures in each shard.
        data: folder of real pictures, None where there is none.

    Returns:
        Counts and the mean size in bytes.
    """
    form = ImageFormat(size=size, quality=92)
    counts = {"pictures": 0, "real_photos": 0, "real_generated": 0, "rendered": 0}
    total = 0
    (folder / "files").mkdir(parents=True)
    captions = []
    for source, names in {"photos": REAL_PHOTOS, "generated": REAL_GENERATED}.items():
        real = ((picture, text, f"real_{source}") for picture, text in real_pictures(data, names))
        made = ((picture, text, "rendered") for picture, text in rendered(RENDERED_AS[source], size))
        pictures = enumerate(itertools.chain(real, made))
        (folder / source).mkdir()
        for shard in range(SHARDS[source]):
            with TarWriter(str(folder / source / f"{shard:05d}.tar"), encoder=False) as tar:
                for number, (picture, text, kind) in itertools.islice(pictures, per_shard):
                    encoded = form.encode(picture, f"{source} {number}")
                    tar.write({"__key__": f"{source}{number:06d}", "jpg": encoded.data, "txt": text.encode()})
                    (folder / "files" / f"{source}{number:06d}.jpg").write_bytes(encoded.data)
                    captions.append(f"{source}{number:06d}.jpg\t{text}\n")
                    counts[kind] += 1
                    counts["pictures"] += 1
                    total += len(encoded.data)
        build_index(folder / source, source=INDEXED_AS[source]).save()
    (folder / "files" / "captions.tsv").write_text("".join(captions))
    return {**counts, "size": size, "mean_bytes": round(total / counts["pictures"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--per-shard", type=int, required=True, help=f"pictures in each of {sum(SHARDS.values())} tars")
    parser.add_argument("--data", type=Path, help="folder of real pictures")
    options = parser.parse_args()
    about = options.folder / "about.json"
    if not about.is_file():  # written last: where it is missing, the rest is not whole
        shutil.rmtree(options.folder, ignore_errors=True)
        about.write_text(json.dumps(write(options.folder, options.size, options.per_shard, options.data)))
    print(about.read_text())


if __name__ == "__main__":
    main()
