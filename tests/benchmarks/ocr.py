"""Whether OCR finds the word written on real pictures, and how fast: on RTA-100's photos of hand-written notes.

    python tests/benchmarks/ocr.py --data ../shared/data/rta100.tar [--engine NAME ...] [--json FILE]

The word that the file name tells counts as found where a piece of text, one of its words, or all pieces from top to
bottom joined, is at an edit distance (Levenshtein) of at most 1 from it; case, spaces and marks do not count. Erased:
of the pictures in which the engine found the word, the share in which it no longer does once its polygons are inpainted
(Telea). Intervals are Wilson's, 95 %. Pictures are decoded beforehand. Cached: how much cheaper it is to look up by the
file's bytes what was read.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import cv2
import machine
import numpy as np
from rapidfuzz.distance import Levenshtein
from tables import add_output, markdown, put_out

from datamodules.decode import Picture
from datamodules.decorrelation.inpaint import OpenCvInpainter
from datamodules.importers import open_tree, read_labelled_names
from datamodules.ocr.blur import DILATION
from datamodules.ocr.cache import CachedReader, TextCache
from datamodules.ocr.engine import ENGINES, ReaderOptions, reader_of
from datamodules.ocr.polygons import quads_mask
from datamodules.reencode import decode_rgb
from datamodules.text_spans import Span

DISTANCE, Z = 1, 1.959963984540054


def wilson(hits: int, total: int) -> tuple[float, float, float]:
    """A share and its 95 % interval (Wilson, JASA 1927).

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.8, 0.49, 0.943]
    """
    if not total:
        return math.nan, math.nan, math.nan
    share, square = hits / total, Z * Z / total
    centre = (share + square / 2) / (1 + square)
    half = Z * math.sqrt(share * (1 - share) / total + square / (4 * total)) / (1 + square)
    return share, centre - half, centre + half


def bare(text: str) -> str:
    """Letters and digits alone, in lower case.

    >>> bare("T-Shirt !")
    'tshirt'
    """
    return re.sub(r"[\W_]+", "", text.casefold())


def finds(word: str, spans: tuple[Span, ...], distance: int = DISTANCE) -> bool:
    """Whether what was read has a word in it, see the head of this file.

    >>> quad = ((0, 0), (9, 0), (9, 9), (0, 9))
    >>> finds("dog", (Span("a D0G", quad),)), finds("head phone", (Span("cat", quad),))
    (True, False)
    """
    read = [span.text for span in sorted(spans, key=lambda span: sum(y for _, y in span.quad))]
    candidates = {bare(part) for text in read for part in (text, *text.split())} | {bare("".join(read))}
    return any(Levenshtein.distance(bare(word), one) <= distance for one in candidates if one)


def pictures(data: str, limit: int | None) -> Iterator[tuple[str, bytes]]:
    """Written words and files."""
    for record in sorted(read_labelled_names(open_tree(data)).records, key=lambda record: record.identity)[:limit]:
        if "written" in record.sample.meta:
            yield record.sample.meta["written"]["word"], record.image.read()


def measure(engine: str, files: list[tuple[str, bytes]], options: ReaderOptions, erase: bool) -> dict[str, Any]:
    """Read all pictures by one engine, then once more from the cache."""
    reader = reader_of(engine, options)
    decoded: list[Picture] = [np.asarray(decode_rgb(data, word)) for word, data in files]
    reader.read(decoded[0])  # loads the models
    start = time.perf_counter()
    found = [reader.read(image) for image in decoded]
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        cached = CachedReader(reader, TextCache(folder))
        part = files[: min(len(files), 32)]
        start = time.perf_counter()
        first = [cached.read_encoded(data, word) for word, data in part]
        middle = time.perf_counter()
        second = [cached.read_encoded(data, word) for word, data in part]
        again = time.perf_counter() - middle
        assert first == second
    hits = [finds(word, spans) for (word, _), spans in zip(files, found, strict=True)]
    fill = OpenCvInpainter()
    gone = list[bool]()
    for (word, _), image, spans, hit in zip(files, decoded, found, hits, strict=True):
        if hit and erase:
            mask = quads_mask([span.quad for span in spans], image.shape[0], image.shape[1], DILATION)
            gone.append(not finds(word, reader.read(fill(image, mask))))
    exact = [finds(word, spans, 0) for (word, _), spans in zip(files, found, strict=True)]
    return {
        "engine": reader.describe(),
        "pictures": len(files),
        "recall": wilson(sum(hits), len(hits)),
        "exact": wilson(sum(exact), len(exact)),
        "pieces": sum(map(len, found)) / len(found),
        "erased": wilson(sum(gone), len(gone)),
        "rate": len(files) / seconds,
        "cheaper": (middle - start) / again,
        "missed": [word for (word, _), hit in zip(files, hits, strict=True) if not hit],
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="TAR", help="pictures named label=X_text=Y.jpg")
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=list(ENGINES), help="default: all")
    parser.add_argument("--min-confidence", type=float, default=ReaderOptions().min_confidence, metavar="X")
    parser.add_argument("--shorter-side", type=int, default=ReaderOptions().shorter_side, metavar="PIXELS")
    parser.add_argument("--max-letter-area", type=float, default=ReaderOptions().max_letter_area, metavar="SHARE")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N pictures only")
    parser.add_argument("--no-erase", action="store_true", help="do not read once more what was erased")
    add_output(parser)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    about = machine.describe()
    machine.warn_if_busy(about)
    files = list(pictures(options.data, options.limit))
    reading = ReaderOptions(options.min_confidence, options.shorter_side, max_letter_area=options.max_letter_area)
    found = [measure(engine, files, reading, not options.no_erase) for engine in options.engine]
    head = ["one core", "distance <= 1", "exact", "pieces/picture", "erased", "pictures/s", "cached"]
    rows = [
        [one["engine"]["name"], *(_interval(one[name]) for name in ("recall", "exact")), f"{one['pieces']:.2f}",
         _interval(one["erased"]), f"{one['rate']:.1f}", f"x {one['cheaper']:.0f}"]
        for one in found
    ]  # fmt: skip
    text = f"{len(files)} pictures\n\n{markdown(head, rows)}\n\n{machine.line(about)}"
    return put_out(options, {"machine": about, "engines": found}, text, [])


def _interval(value: tuple[float, float, float]) -> str:
    return "-" if math.isnan(value[0]) else f"{100 * value[0]:.1f} % ({100 * value[1]:.1f} to {100 * value[2]:.1f})"


if __name__ == "__main__":
    sys.exit(main())
