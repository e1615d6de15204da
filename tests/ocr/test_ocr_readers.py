"""The real engines on pictures whose text is known."""

from __future__ import annotations

import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from written import ENGINES, needs_rapidocr, needs_tesseract, written

from datamodules import DataError
from datamodules.importers import open_tree, read_labelled_names
from datamodules.ocr import ReaderOptions, TextReader, reader_of
from datamodules.ocr.engine import fitted, span_of
from datamodules.ocr.words import split_words
from datamodules.reencode import decode_rgb
from datamodules.text_spans import Span


def words(spans: tuple[Span, ...]) -> list[str]:
    return sorted(word.text.lower() for span in spans for word in split_words(span))


def bounds(span: Span) -> np.ndarray[Any, Any]:
    corners = np.asarray(span.quad)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


@pytest.mark.parametrize("engine", ENGINES)
def test_words_and_where_they_stand(engine: str) -> None:
    image, known = written([("lantern", 20, 30), ("window", 150, 150)])
    reader = reader_of(engine)
    assert isinstance(reader, TextReader)
    found = sorted(reader.read(image), key=lambda span: span.quad[0][1])
    assert [span.text for span in found] == ["lantern", "window"]
    for span, truth in zip(found, known, strict=True):
        assert span.confidence is not None
        assert 0.5 <= span.confidence <= 1
        assert np.abs(bounds(span) - bounds(truth)).max() < 12
        assert np.abs(np.asarray(span.quad[0]) - truth.quad[0]).max() < 12  # the first corner is the upper left


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_found_in_a_picture_without_text(engine: str) -> None:
    image, _ = written([])
    assert reader_of(engine).read(image) == ()
    assert reader_of(engine).read(np.full((1, 1, 3), 128, np.uint8)) == ()
    for shape in ((3, 400, 3), (20, 3000, 3), (3000, 20, 3), (2500, 2, 3)):
        assert reader_of(engine).read(np.full(shape, 255, np.uint8)) == ()


@pytest.mark.parametrize("engine", ENGINES)
def test_corners_do_not_depend_on_the_enlargement(engine: str) -> None:
    image, (truth,) = written([("orange", 40, 60)], size=(200, 150), points=20)
    for side in (0, 450):
        (span,) = reader_of(engine, ReaderOptions(shorter_side=side)).read(image)
        assert span.text == "orange"
        assert np.abs(bounds(span) - bounds(truth)).max() < 12


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reader_reads_the_same_in_another_process(engine: str) -> None:
    image, _ = written([("guitar", 60, 60)])
    reader = reader_of(engine)
    first = reader.read(image)
    other = pickle.loads(pickle.dumps(reader))
    assert other.describe() == reader.describe()
    assert other.read(image) == first == reader.read(image)


@pytest.mark.parametrize("engine", ENGINES)
def test_confidence(engine: str) -> None:
    image, _ = written([("pepper", 60, 60)])
    assert words(reader_of(engine, ReaderOptions(min_confidence=0.0)).read(image)) == ["pepper"]
    assert reader_of(engine, ReaderOptions(min_confidence=1.0)).read(image) == ()


@pytest.mark.parametrize("engine", ENGINES)
def test_letters_as_large_as_the_picture_are_left_out_unless_told(engine: str) -> None:
    image, _ = written([("GO", 10, 10)], points=180)
    (span,) = reader_of(engine, ReaderOptions(max_letter_area=1.0)).read(image)
    assert span.text == "GO"
    share = span.area() / (320 * 240) / 2  # of the picture, for each of the two letters
    assert share > 0.2
    assert reader_of(engine).read(image) == ()
    for most, found in ((share * 1.01, True), (share * 0.99, False)):
        assert bool(reader_of(engine, ReaderOptions(max_letter_area=most)).read(image)) == found
    assert reader_of(engine, ReaderOptions(max_letter_area=0.3)).describe()["max_letter_area"] == 0.3


@needs_rapidocr
def test_lines_of_several_words_and_slanted_ones() -> None:
    image, _ = written([("no entry here", 20, 100)], points=34)
    reader = reader_of("rapidocr")
    assert words(reader.read(image)) == ["entry", "here", "no"]
    turned = np.asarray(Image.fromarray(image).rotate(20, Image.Resampling.BICUBIC, fillcolor=(200, 200, 200)))
    (span,) = reader.read(turned)
    assert words((span,)) == ["entry", "here", "no"]
    (x0, y0), (x1, y1) = span.quad[:2]
    assert np.degrees(np.arctan2(y0 - y1, x1 - x0)) == pytest.approx(20, abs=4)


@needs_rapidocr
def test_rapidocr_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something wants the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    image, _ = written([("bicycle", 60, 60)])
    assert words(reader_of("rapidocr").read(image)) == ["bicycle"]


@needs_rapidocr
def test_rapidocr_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    reader = reader_of("rapidocr")
    reader.read(written([])[0])
    reader.read(written([("bicycle", 60, 60)])[0])
    assert capfd.readouterr() == ("", "")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match="apt-get install tesseract-ocr"):
        reader_of("tesseract")
    monkeypatch.setattr("datamodules.ocr.rapid.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'bias-train\[ocr\]'"):
        reader_of("rapidocr")
    with pytest.raises(DataError, match="choose rapidocr or tesseract"):
        reader_of("eyes")


@needs_tesseract
def test_a_language_without_data_is_named() -> None:
    from datamodules.ocr.tesseract import TesseractReader

    with pytest.raises(DataError, match="apt-get install tesseract-ocr-xyz"):
        TesseractReader(language="eng+xyz")


@needs_tesseract
def test_a_program_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of("tesseract")
    program = tmp_path / "tesseract"
    program.write_text("#!/bin/sh\necho out of paper >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DataError, match=r"exit code 3 \(out of paper\)"):
        reader.read(written([])[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_confidence": 1.5},
        {"shorter_side": -1},
        {"longer_side": 20},
        {"threads": 0},
        {"max_letter_area": 0.0},
        {"max_letter_area": 1.1},
    ],
)
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        ReaderOptions(**wrong)


def test_pictures_that_are_none() -> None:
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(DataError, match=r"\[H, W, 3\] uint8"):
            fitted(wrong, ReaderOptions())


@pytest.mark.parametrize(
    ("size", "shape", "scale"),
    [((100, 50), (75, 150, 3), 1.5), ((200, 75), (75, 200, 3), 1), ((800, 400), (150, 300, 3), 0.375),
     ((200, 10), (15, 300, 3), 1.5)],
)  # fmt: skip
def test_sizes(size: tuple[int, int], shape: tuple[int, int, int], scale: float) -> None:
    image, _ = written([], size=size)
    picture, by = fitted(image, ReaderOptions(shorter_side=75, longer_side=300))
    assert (picture.shape, by) == (shape, scale)
    if scale == 1:
        np.testing.assert_array_equal(picture, image)


def test_pieces_without_letters_are_nothing() -> None:
    quad = [[0, 0], [20, 0], [20, 10], [0, 10]]
    assert span_of(" =— | ", quad, 0.9, 1.0) is None
    assert span_of(" a\t b", quad, 1.2, 2.0) == Span("a b", ((0, 0), (10, 0), (10, 5), (0, 5)), 1.0)


@needs_rapidocr
def test_hand_written_words_of_real_photos(shared_data: Path) -> None:
    """The first dozen of RTA-100, of which ten were read when this was written."""
    assert recall(shared_data, "rapidocr", 12) >= 8 / 12


@pytest.mark.slow
@needs_rapidocr
def test_many_hand_written_words_of_real_photos(shared_data: Path) -> None:
    assert recall(shared_data, "rapidocr", 100) >= 0.5


@needs_tesseract
def test_tesseract_is_not_made_for_handwriting(shared_data: Path) -> None:
    assert recall(shared_data, "tesseract", 6) <= 0.5


def recall(folder: Path, engine: str, pictures: int) -> float:
    reader = reader_of(engine)
    records = read_labelled_names(open_tree(folder / "rta100.tar")).records[:pictures]
    hits = 0
    for record in records:
        image = np.asarray(decode_rgb(record.image.read(), record.identity))
        read = "".join(words(reader.read(image)))
        hits += record.sample.meta["written"]["word"].replace(" ", "").lower() in read
    return hits / len(records)
