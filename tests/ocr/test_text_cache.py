"""The cache of texts: looked into first, told apart by picture and reader, and whole whatever happens."""

from __future__ import annotations

import io
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from written import needs_rapidocr, written

from datamodules import DataError
from datamodules.decode import Picture
from datamodules.errors import SampleError
from datamodules.ocr import ReaderOptions, reader_of
from datamodules.ocr.cache import FILE, CachedReader, TextCache
from datamodules.text_spans import PictureText, Span

QUAD = ((0.123, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0))


class Counting:
    """Finds one word in every picture, its mean, and counts how often it is asked."""

    def __init__(self, options: str = "") -> None:
        self.reads, self.options = 0, options
        self.name = "counting 1"

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "options": self.options}

    def read(self, image: Picture) -> tuple[Span, ...]:
        self.reads += 1
        return (Span(f"{int(image.mean())}{self.options}", QUAD, 0.123456),)


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_is_read_once(tmp_path: Path) -> None:
    reader = Counting()
    for _ in range(2):
        cached = CachedReader(reader, TextCache(tmp_path))
        for value in (50, 60, 50):
            text = cached.read_encoded(jpeg(value), "a picture")
            assert text == PictureText((20, 10), (Span(str(value), ((0.1, 0), *QUAD[1:]), 0.1235),), "counting 1")
    assert reader.reads == 2
    assert len(TextCache(tmp_path)) == 2


def test_pixels_are_a_key_too(tmp_path: Path) -> None:
    cached = CachedReader(reader := Counting(), TextCache(tmp_path))
    image = np.full((6, 4, 3), 9, np.uint8)
    assert cached.read(image) == cached.read(image.copy())
    assert reader.reads == 1
    cached.read(image.reshape(4, 6, 3))  # the same bytes in another shape
    cached.read(image[::-1] + 1)
    assert reader.reads == 3


def test_another_reader_reads_anew(tmp_path: Path) -> None:
    data = jpeg(70)
    texts = [CachedReader(Counting(options), TextCache(tmp_path)).read_encoded(data, "").words() for options in "abab"]
    assert texts == [("70a",), ("70b",), ("70a",), ("70b",)]
    assert len(TextCache(tmp_path)) == 2


@needs_rapidocr
def test_options_of_real_readers_are_told_apart() -> None:
    described = [
        reader_of("rapidocr", options).describe()
        for options in (
            ReaderOptions(),
            ReaderOptions(0.3),
            ReaderOptions(shorter_side=0),
            ReaderOptions(max_letter_area=1.0),
        )
    ]
    assert len({str(sorted(about.items())) for about in described}) == 4
    assert reader_of("rapidocr", ReaderOptions(threads=2)).describe() == described[0]  # changes nothing that is read


def test_without_a_cache_it_reads_the_same(tmp_path: Path) -> None:
    data = jpeg(80)
    assert CachedReader(Counting()).read_encoded(data, "") == CachedReader(
        Counting(), TextCache(tmp_path)
    ).read_encoded(data, "")


def test_a_broken_picture_is_told_from_a_broken_engine(tmp_path: Path) -> None:
    class Broken(Counting):
        def read(self, image: Picture) -> tuple[Span, ...]:
            raise DataError("tesseract: failed")

    cached = CachedReader(Broken(), TextCache(tmp_path))
    with pytest.raises(SampleError, match="sample 'a': cannot be decoded"):
        cached.read_encoded(jpeg(1)[:40], "sample 'a'")
    with pytest.raises(DataError, match="tesseract: failed") as error:
        cached.read_encoded(jpeg(1), "sample 'a'")
    assert not isinstance(error.value, SampleError)
    assert len(TextCache(tmp_path)) == 0


def test_many_processes_at_once(tmp_path: Path) -> None:
    cached = CachedReader(Counting(), TextCache(tmp_path))
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        results = [pool.submit(cached.read_encoded, jpeg(value % 20), "") for value in range(60)]
        assert [result.result().words() for result in results] == [(str(value % 20),) for value in range(60)]
    assert len(TextCache(tmp_path)) == 20


_WRITER = """
import sys
from datamodules.ocr.cache import TextCache
from datamodules.text_spans import PictureText
cache = TextCache(sys.argv[1])
for number in range(10**9):
    cache.put(number.to_bytes(8, "big"), b"reader", PictureText((1, number), (), "e"))
"""


def test_a_kill_leaves_what_was_kept(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    for _ in range(2):
        before = len(cache)
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)])
        while process.poll() is None and len(cache) < before + 50:
            if before:  # the second writes the same again
                time.sleep(0.5)
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = len(cache)
    assert kept >= 50
    for number in range(kept):  # all of those that were begun before the kill, none left out between
        assert cache.get(number.to_bytes(8, "big"), b"reader") == PictureText((1, number), (), "e")


def test_it_can_be_sent_to_another_process(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    cache.put(b"p", b"r", PictureText((1, 1), (), "e"))
    assert pickle.loads(pickle.dumps(cache)).get(b"p", b"r") == PictureText((1, 1), (), "e")


def test_what_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"something else entirely" * 100)
    with pytest.raises(DataError, match=r"texts\.sqlite: cannot be used as a cache"):
        TextCache(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        TextCache(tmp_path / "file" / "below")


@needs_rapidocr
def test_the_second_run_is_far_cheaper(tmp_path: Path) -> None:
    """At least five times; by the engine's calls, since time is none of a test's business."""
    image, _ = written([("bicycle", 60, 60)])
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    cached = CachedReader(reader_of("rapidocr"), TextCache(tmp_path))
    first = cached.read_encoded(buffer.getvalue(), "")
    again = CachedReader(reader_of("rapidocr"), TextCache(tmp_path))
    assert again.read_encoded(buffer.getvalue(), "") == first
    assert again.reader._engine is None  # type: ignore[attr-defined]  # not even loaded
    assert first.words() == ("bicycle",)
