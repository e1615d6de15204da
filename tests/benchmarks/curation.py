"""What curation costs without reading pictures: samples that say their text, on one core.

    python tests/benchmarks/curation.py [--json FILE] [--markdown FILE] [--check]

10,000 samples with one picture, one caption of eight to fourteen words as an alt text has them, and half of them with
one to eight pieces of text of one to three words each; CoTR, fuzzy CoTR at a similarity of 0.8, text area, the table
and its statistics. Then a selection of that table with captions edited, and the same curation again, which takes the
finished shards over.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import machine
import numpy as np
from PIL import Image
from tables import add_output, markdown, put_out

from datamodules.curation.choice import Choice, Range, choose
from datamodules.curation.job import KNOWN, CurationJob, CurationSettings
from datamodules.curation.table import CurationTable
from datamodules.index import ShardIndex
from datamodules.lettering.words import load_words
from datamodules.reencode import ImageFormat
from datamodules.sample import Sample
from datamodules.text_spans import META, PictureText, Span
from datamodules.writer import ShardWriter

SAMPLES, RATE = 10_000, 5_000.0
SIZE = (640, 480)


def write_shards(folder: Path, samples: int) -> ShardIndex:
    """Write samples whose pictures are all one, since nobody looks at them."""
    rng = np.random.default_rng(0)
    words = load_words(None)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "JPEG")
    with ShardWriter(folder, samples_per_shard=2500, image_format=ImageFormat(keep_original=True)) as writer:
        for number in range(samples):
            caption = rng.choice(words, int(rng.integers(8, 15))).tolist()
            spans = []
            for row in range(int(rng.integers(1, 9)) if rng.random() < 0.5 else 0):
                said = rng.choice([*caption, *rng.choice(words, 20)], int(rng.integers(1, 4)))
                left, top = float(rng.integers(0, 300)), 50.0 * row
                quad = ((left, top), (left + 200, top), (left + 200, top + 40), (left, top + 40))
                spans.append(Span(" ".join(said).upper(), quad, 0.9))
            text = PictureText(SIZE, tuple(spans), "made up")
            sample = Sample(f"{number:06d}", (" ".join(caption).capitalize() + ".",), meta={META: text.to_json()})
            writer.write(sample, buffer.getvalue())
    return ShardIndex.load(folder)


def main() -> int:
    """Measure, print, and with ``--check`` fail beyond the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="(default: 10,000)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the best counts (default: 3)")
    add_output(parser)
    options = parser.parse_args()
    about = machine.describe()
    machine.warn_if_busy(about)
    seconds: dict[str, list[float]] = {}

    def timed(what: str, run: Any) -> Any:
        start = time.perf_counter()
        found = run()
        seconds.setdefault(what, []).append(time.perf_counter() - start)
        return found

    settings = CurationSettings({"name": KNOWN}, fuzzy=0.8)
    with tempfile.TemporaryDirectory() as folder:
        index = write_shards(Path(folder) / "shards", options.samples)
        choice = Choice(cotr=Range(None, 0.5), edit_captions=True)
        for repeat in range(options.repeats):
            out = Path(folder) / f"curated-{repeat}"
            timed("table and statistics", CurationJob([index], out, settings).run)
            timed("the same again", CurationJob([index], out, settings).run)
            chosen = timed("selection, captions edited", partial(choose, CurationTable.load(out), choice))
    assert chosen.edited > 0
    best = {what: options.samples / min(times) for what, times in seconds.items()}
    limits = {"table and statistics": RATE, "the same again": 5 * best["table and statistics"]}
    table_rows: list[dict[str, Any]] = [
        {
            "what": what,
            "value": rate,
            "unit": "samples/s",
            "limit": limits.get(what),
            "met": rate >= limits.get(what, 0),
        }
        for what, rate in best.items()
    ]
    rows = [
        [line["what"], f"{line['value']:,.0f}", "" if line["limit"] is None else f"at least {line['limit']:,.0f}",
         "met" if line["met"] else "MISSED"]
        for line in table_rows
    ]  # fmt: skip
    text = markdown(["curation without reading, one core", "samples/s", "target", ""], rows)
    result = {"machine": about, "table": table_rows, "seconds": seconds}
    return put_out(options, result, f"{text}\n\n{machine.line(about)}", table_rows)


if __name__ == "__main__":
    sys.exit(main())
