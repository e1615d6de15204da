"""Lines cut into words, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.ocr.rapid import reading_quad
from datamodules.ocr.words import split_words, words_said
from datamodules.text_spans import Span

SLANTED = ((10.0, 20.0), (110.0, 70.0), (105.0, 80.0), (5.0, 30.0))


def test_words_of_a_slanted_line() -> None:
    """Ten characters: "ab" is 0 to 2, "cdefghi" 3 to 10; the line goes (100, 50) to the right on both edges."""
    ab, rest = split_words(Span("ab cdefghi", SLANTED, 0.75))
    assert (ab.text, rest.text, ab.confidence) == ("ab", "cdefghi", 0.75)
    np.testing.assert_allclose(ab.quad, [(10, 20), (30, 30), (25, 40), (5, 30)])
    np.testing.assert_allclose(rest.quad, [(40, 35), (110, 70), (105, 80), (35, 45)])


def test_words_share_a_line_by_their_characters() -> None:
    """Of a parallelogram, parts of its width are parts of its area."""
    line = Span("to be or not", SLANTED)
    found = split_words(line)
    assert [word.text for word in found] == ["to", "be", "or", "not"]
    np.testing.assert_allclose([word.area() for word in found], np.array([2, 2, 2, 3]) / 12 * line.area())


@pytest.mark.parametrize("text", ["word", "猫", "t-shirt"])
def test_one_word_stays_as_it_is(text: str) -> None:
    span = Span(text, SLANTED, 0.5)
    assert split_words(span) == (span,)


def test_space_around_a_word_is_cut_off() -> None:
    (word,) = split_words(Span(" b ", ((0, 0), (30, 0), (30, 9), (0, 9))))
    assert (word.text, word.quad[0], word.quad[2]) == ("b", (10, 0), (20, 9))


def test_words_that_captions_say() -> None:
    lines = [Span('"STOP!" the Car', SLANTED), Span("motorcar", SLANTED)]
    said = words_said(lines, ["a stop sign", "one car."])
    assert [word.text for word in said] == ['"STOP!"', "Car"]
    assert words_said(lines, []) == ()


def test_tall_lines_run_downwards() -> None:
    tall = np.array([[0, 0], [10, 0], [10, 60], [0, 60]])
    line = Span("ab cde", tuple(map(tuple, reading_quad("ab cde", tall).tolist())))  # type: ignore[arg-type]
    ab, cde = split_words(line)
    assert np.asarray(ab.quad)[:, 1].max() == 20
    assert np.asarray(cde.quad)[:, 1].min() == 30
    np.testing.assert_array_equal(reading_quad("I", tall), tall)  # one letter may be tall
    wide = np.array([[0, 0], [60, 0], [60, 10], [0, 10]])
    np.testing.assert_array_equal(reading_quad("ab cde", wide), wide)
