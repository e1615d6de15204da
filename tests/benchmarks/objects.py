"""What taking objects out costs: pairs and captions of 5,000 pictures, and pixels at 640 x 480, on one core.

    python tests/benchmarks/objects.py [--json FILE] [--check]

Pictures are described like COCO's: seven objects of polygons and five captions each, made up, of the vocabulary's
words. Mining reads every sample of the shards; captions are edited for every object that one of them mentions. Pixels
are those of smooth noise, with masks of 1 to 30 % of the picture before they are widened, drawn log-uniformly.
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

from datamodules.decorrelation import DecorrelationSettings, OpenCvInpainter
from datamodules.decorrelation.background import control_mask
from datamodules.decorrelation.planning import ObjectSource, Planner
from datamodules.objects import Mentions, load_vocabulary
from datamodules.objects.masks import dilate
from datamodules.reencode import ImageFormat
from datamodules.sample import Sample
from datamodules.synthesis.photos import Photos
from datamodules.taxonomy import with_article
from datamodules.writer import ShardWriter

PICTURES, SECONDS, RATE = 5000, 120.0, 10.0
HEIGHT, WIDTH = 480, 640
SENTENCES = (
    "There is {0} next to {1} in a room with large windows.",
    "{0} and {1} are standing in front of {2}.",
    "A photo of {1} sitting on the floor near {0}",
    "Somewhere outside, {2} with {0} on it.",
    "{1} leaning against {2} while it rains on a busy street.",
)


def write_shards(folder: Path, pictures: int) -> Photos:
    """Write samples whose pictures are all one, since nobody looks at them."""
    rng = np.random.default_rng(0)
    names = load_vocabulary().categories
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "JPEG")
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    with ShardWriter(folder, image_format=ImageFormat(keep_original=True)) as writer:
        for number in range(pictures):
            chosen = [names[at] for at in rng.choice(len(names), 7, p=_common(len(names)))]
            objects = []
            for category in chosen:
                ring = np.stack([320 + 200 * np.cos(angles), 240 + 150 * np.sin(angles)], axis=1)
                ring += rng.normal(0, 5, ring.shape)
                objects.append({"category": category, "box": [120, 90, 400, 300], "crowd": False,
                                "polygons": [np.round(ring, 2).ravel().tolist()]})  # fmt: skip
            said = [with_article(category) for category in chosen[:3]]
            captions = tuple(sentence.format(*said) for sentence in SENTENCES)
            writer.write(Sample(f"{number:06d}", captions, meta={"objects": objects}), buffer.getvalue())
    assert writer.index is not None
    return Photos(writer.index)


def _common(categories: int) -> np.ndarray:
    share = 1 / np.arange(2, categories + 2)
    return np.asarray(share / share.sum())


def measure_plans(photos: Photos) -> tuple[float, int]:
    """Mine and edit all captions: seconds, and captions that were edited."""
    vocabulary = load_vocabulary()
    settings = DecorrelationSettings(OpenCvInpainter().describe(), vocabulary.digest, all_objects=True)
    start = time.perf_counter()
    planner = Planner(photos, Mentions(vocabulary), ObjectSource(), settings)
    plans = [planner.plan(row) for row in range(len(photos.index))]
    seconds = time.perf_counter() - start
    edited = [how for plan in plans for removal in plan.removals for how in removal.how if how != "untouched"]
    return seconds, len(edited)


def measure_pictures(method: str, pictures: int) -> dict[str, float]:
    """Widen a mask, fill it, find room for the control and fill that: pictures a second, filled alone and in all."""
    rng = np.random.default_rng(0)
    inpainter = OpenCvInpainter(method)  # type: ignore[arg-type]
    filling, filled, start = 0.0, 0, time.perf_counter()
    for number in range(pictures):
        picture = cv2.resize(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), (WIDTH, HEIGHT))
        share = float(np.exp(rng.uniform(np.log(0.01), np.log(0.3))))
        ellipse = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        centre = (int(rng.integers(WIDTH // 4, 3 * WIDTH // 4)), int(rng.integers(HEIGHT // 4, 3 * HEIGHT // 4)))
        across = float(np.sqrt(share * WIDTH * HEIGHT / np.pi))
        cv2.ellipse(ellipse, centre, (round(across * 1.2), round(across / 1.2)), 0, 0, 360, 1, -1)
        mask = dilate(ellipse.astype(bool), 13)
        control = control_mask(mask, mask, number)
        begun = time.perf_counter()
        for one in (mask, control[0] if control is not None else None):
            if one is not None:
                inpainter(picture, one, 0)
                filled += 1
        filling += time.perf_counter() - begun
    return {"filled": filled / filling, "whole": filled / (time.perf_counter() - start)}


def main() -> int:
    """Measure, print, and with ``--check`` fail beyond the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=PICTURES, help="whose captions are edited (default: 5,000)")
    parser.add_argument("--filled", type=int, default=40, help="pictures that are filled (default: 40)")
    add_output(parser)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    about = machine.describe()
    machine.warn_if_busy(about)
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        seconds, edited = measure_plans(write_shards(Path(folder) / "shards", options.pictures))
    limit = SECONDS * options.pictures / PICTURES
    what = f"mining and {edited:,} captions of {options.pictures:,} pictures"
    table.append({"what": what, "value": seconds, "unit": "s", "limit": f"at most {limit:g}", "met": seconds <= limit})
    for method in ("telea", "ns"):
        found = measure_pictures(method, options.filled)
        for part, name in (("filled", "filled alone"), ("whole", "with masks and controls")):
            table.append({"what": f"{method}, {name}", "value": found[part], "unit": "pictures/s",
                          "limit": f"at least {RATE:g}", "met": found[part] >= RATE})  # fmt: skip
    head = ["one core", "found", "", "target", ""]
    rows = [
        [line["what"], f"{line['value']:.1f}", line["unit"], line["limit"], "met" if line["met"] else "MISSED"]
        for line in table
    ]
    result = {"machine": about, "table": table}
    return put_out(options, result, f"{markdown(head, rows)}\n\n{machine.line(about)}", table)


if __name__ == "__main__":
    sys.exit(main())
