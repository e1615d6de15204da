"""CoTR and fuzzy CoTR against cases computed by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.curation.overlap import cotr, fuzzy_cotr, word_set
from datamodules.errors import DataError


def distance(a: str, b: str) -> int:
    """Levenshtein's distance, by the table of its definition."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@pytest.mark.parametrize(
    ("caption", "words", "normalise", "expected"),
    [
        ("a b c d", ["c", "d", "e"], True, 2 / 4),  # as an intersection over union it would be 2 / 5
        ("stop", ["stop", "all", "way", "here"], True, 1.0),  # a union would make it 1 / 4
        ("stop stop stop car", ["stop"], True, 1 / 2),  # sets: repeated words count once
        ("stop car", ["stop", "stop", "stop"], True, 1 / 2),
        ("the STOP sign.", ["Stop", "sign"], True, 2 / 3),
        ("the STOP sign.", ["Stop", "sign"], False, 0.0),  # as it is spelt: neither "Stop" nor "sign"
        ("Stop, stop!", ["STOP"], True, 1.0),
        ("Stop, stop!", ["stop!"], False, 1 / 2),
        ("open all day", ["OPEN ALL", "NIGHT"], True, 2 / 3),  # a piece of text holds several words
        ("a dog", [], True, 0.0),
        ("Straße ＯＰＥＮ", ["STRASSE", "open"], True, 1.0),
        ("停车场", ["停车场"], True, 1.0),  # one word at white space
        ("停车场 入口", ["停车"], True, 0.0),  # which is why such text is told apart
        ("- stop -", ["stop"], True, 1.0),  # what is punctuation alone is no word
        ("- stop", ["stop"], False, 1 / 2),
    ],
)
def test_cotr_by_hand(caption: str, words: list[str], normalise: bool, expected: float) -> None:
    assert cotr(caption, words, normalise=normalise) == expected


@pytest.mark.parametrize("caption", ["", "   ", "?! -"])
def test_a_caption_without_words_has_no_rate(caption: str) -> None:
    assert math.isnan(cotr(caption, ["stop"]))
    assert math.isnan(fuzzy_cotr(caption, ["stop"], 0.5))


@pytest.mark.parametrize(
    ("word", "written", "threshold", "counts"),
    [
        ("kitten", "sitting", 4 / 7, True),  # distance 3 of 7 letters
        ("kitten", "sitting", 0.58, False),
        ("coffee", "c0ffee", 5 / 6, True),
        ("coffee", "c0ffee", 0.84, False),
        ("a", "b", 0.01, False),
        ("same", "same", 1.0, True),
    ],
)
def test_fuzzy_cotr_by_hand(word: str, written: str, threshold: float, counts: bool) -> None:
    # Three more words, so different that they never count.
    assert fuzzy_cotr(f"{word} xxxxxxxxxxx yyyyyyyyyyy zzzzzzzzzzz", [written], threshold) == counts / 4


words = st.text("abc", min_size=1, max_size=6)


@given(st.lists(words, min_size=1, max_size=6), st.lists(words, max_size=6), st.sampled_from([0.3, 0.5, 0.75, 1.0]))
def test_fuzzy_cotr_agrees_with_the_definition(caption: list[str], written: list[str], threshold: float) -> None:
    said = set(caption)
    alike = [
        w for w in said if any(1 - distance(w, o) / max(len(w), len(o)) >= threshold - 1e-12 for o in set(written))
    ]
    found = fuzzy_cotr(" ".join(caption), written, threshold)
    assert found == pytest.approx(len(alike) / len(said))
    exact = cotr(" ".join(caption), written)
    assert exact == pytest.approx(len(said & set(written)) / len(said))
    assert exact <= found


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, math.nan])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(DataError, match="threshold of fuzzy CoTR"):
        fuzzy_cotr("a", ["a"], threshold)


def test_no_threshold_is_assumed() -> None:
    with pytest.raises(TypeError):
        fuzzy_cotr("a", ["a"])  # type: ignore[call-arg]


def test_sets_of_words_as_spelt_and_normalised() -> None:
    assert word_set("A a A!") == {"a"}
    assert word_set("A a A!", normalise=False) == {"A", "a", "A!"}
