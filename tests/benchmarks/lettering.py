"""What writing on pictures costs at 224 x 224, on one core: pictures a second.

    python tests/benchmarks/lettering.py [--json FILE] [--markdown FILE] [--check]

Words are those of the shipped list, each in its own size, place, font and colours, on pictures of smooth noise. Three
figures a look: letters drawn and put on a picture in memory, as in training; the same with the picture decoded from
JPEG before and encoded after, through the code of ``synthesize overlay``; and that whole command, which writes a set
whose samples have a written anchor and a view, per picture that it writes on.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import machine
import numpy as np
from PIL import Image
from tables import add_output, markdown, put_out

from datamodules.hashing import uniform
from datamodules.index import ShardIndex
from datamodules.lettering.fonts import font_names
from datamodules.lettering.overlay import UNIFORMS, LetteringOptions, draw_lettering, hand_written, write
from datamodules.lettering.words import digest_of, load_words
from datamodules.overlaying import OverlayJob, OverlaySettings
from datamodules.reencode import ImageFormat, decode_rgb
from datamodules.sample import Sample
from datamodules.writer import ShardWriter

PICTURES, RATE, SIDE = 2000, 300.0, 224
FORMAT = ImageFormat()


def picture(number: int) -> np.ndarray:
    """Smooth noise, about as hard to encode as a photo."""
    small = np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))


def in_memory(look: LetteringOptions, pictures: int) -> float:
    """Draw letters and write them."""
    words, images = load_words(), [picture(number) for number in range(16)]
    begun = time.perf_counter()
    for number in range(pictures):
        u = uniform(0, number, np.arange(UNIFORMS))
        write(images[number % 16], draw_lettering(words[number % len(words)], u, look))
    return pictures / (time.perf_counter() - begun)


def through_jpeg(look: LetteringOptions, pictures: int) -> float:
    """Decode, draw letters, write them, encode."""
    words, files = load_words(), [FORMAT.encode(picture(number), "picture").data for number in range(16)]
    begun = time.perf_counter()
    for number in range(pictures):
        image = np.asarray(decode_rgb(files[number % 16], "picture"))
        u = uniform(1, number, np.arange(UNIFORMS))
        FORMAT.encode(write(image, draw_lettering(words[number % len(words)], u, look))[0], "picture")
    return pictures / (time.perf_counter() - begun)


def write_photos(folder: Path, samples: int) -> ShardIndex:
    """A set to write on, with captions of listed words."""
    words = load_words()
    files = []
    for number in range(16):
        buffer = io.BytesIO()
        Image.fromarray(picture(number)).save(buffer, "JPEG", quality=92)
        files.append(buffer.getvalue())
    with ShardWriter(folder, image_format=ImageFormat(keep_original=True)) as writer:
        for number in range(samples):
            said = [words[(number * 7 + step) % len(words)] for step in range(5)]
            captions = tuple(f"There is a {word} in front of a window." for word in said)
            writer.write(Sample(f"{number:06d}", captions), files[number % 16])
    assert writer.index is not None
    return writer.index


def whole_command(look: LetteringOptions, index: ShardIndex, out: Path) -> float:
    """Plan, read, write and put into shards; each sample has a written anchor and a view."""
    words = load_words()
    settings = OverlaySettings(digest_of(words), parroting=0.5, neutral=0.5, looks=(look,))
    begun = time.perf_counter()
    outcome = OverlayJob(index, out, settings, words).run()
    return outcome.counts.made / (time.perf_counter() - begun)


def main() -> int:
    """Measure, print, and with ``--check`` fail below the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=PICTURES, help="that are written on (default: 2,000)")
    add_output(parser)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    about = machine.describe()
    machine.warn_if_busy(about)
    looks = {"printed": LetteringOptions()}
    looks["by hand"] = hand_written(font_names("hand") or ("dejavu-sans",))
    table: list[dict[str, Any]] = []

    def add(what: str, value: float, limit: float | None) -> None:
        table.append({"what": what, "value": value, "unit": "pictures/s", "limit": limit,
                      "met": limit is None or value >= limit})  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        index = write_photos(Path(folder) / "in", options.pictures // 2)
        for name, look in looks.items():
            in_memory(look, 50)  # fonts are opened, and their letters listed, once
            add(f"{name}: drawn and written, in memory", in_memory(look, options.pictures), RATE)
            add(f"{name}: from JPEG to JPEG", through_jpeg(look, options.pictures), RATE)
            add(f"{name}: the whole command", whole_command(look, index, Path(folder) / name), RATE)
    head = ["224 x 224, one core", "found", "", "target", ""]
    rows = [
        [line["what"], f"{line['value']:.0f}", line["unit"], f"at least {line['limit']:g}",
         "met" if line["met"] else "MISSED"]
        for line in table
    ]  # fmt: skip
    result = {"machine": about, "table": table}
    return put_out(options, result, f"{markdown(head, rows)}\n\n{machine.line(about)}", table)


if __name__ == "__main__":
    sys.exit(main())
