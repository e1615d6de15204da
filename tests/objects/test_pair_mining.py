"""Pairs of objects that come together, against their definition."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from datamodules import DataError
from datamodules.objects.pairs import ALIKE, NEAR, RARE, WEAK, mine_pairs, npmi, read_related

NAMES = ("dog", "frisbee", "person", "vase")


def crowd(seed: int = 0, pictures: int = 400) -> np.ndarray:
    """Frisbees come with dogs; people with anything; vases with nothing in particular."""
    rng = np.random.default_rng(seed)
    dog = rng.random(pictures) < 0.3
    frisbee = np.where(dog, rng.random(pictures) < 0.6, rng.random(pictures) < 0.02)
    return np.stack([dog, frisbee, rng.random(pictures) < 0.5, rng.random(pictures) < 0.2], axis=1)


def test_npmi_is_its_definition() -> None:
    present = crowd()
    value = npmi(present)
    for a in range(4):
        for b in range(4):
            both = sum(row[a] and row[b] for row in present.tolist()) / len(present)
            alone = [sum(row[c] for row in present.tolist()) / len(present) for c in (a, b)]
            expected = math.log(both / (alone[0] * alone[1])) / -math.log(both) if both else -1
            assert value[a, b] == pytest.approx(expected)
    assert np.allclose(np.diag(value), 1)


def test_npmi_at_its_ends() -> None:
    present = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0]], dtype=bool)
    value = npmi(present)
    assert value[0, 1] == -1
    assert value[0, 2] == pytest.approx(0, abs=1e-12)  # in every picture: says nothing
    assert value[2, 2] == 0
    assert np.isnan(value[3]).all()


def test_npmi_of_independent_objects_is_about_zero() -> None:
    present = np.random.default_rng(1).random((20_000, 2)) < 0.4
    assert abs(npmi(present)[0, 1]) < 0.02


def test_mining() -> None:
    present = crowd()
    pairs = mine_pairs(present, NAMES, min_npmi=0.15, min_support=50)
    mined = [pair for pair in pairs if not pair.why]
    assert {(pair.a, pair.b) for pair in mined} == {("dog", "frisbee"), ("frisbee", "dog")}
    assert pairs[: len(mined)] == mined
    first = next(pair for pair in mined if pair.a == "dog")
    dog, frisbee = present[:, 0], present[:, 1]
    assert first.support == (dog & frisbee).sum()
    assert first.given == pytest.approx((dog & frisbee).sum() / frisbee.sum())
    assert {pair.why for pair in pairs} == {"", WEAK, RARE}
    assert all(pair.support < 50 for pair in pairs if pair.why == RARE)
    assert not [pair for pair in mine_pairs(present, NAMES, min_support=1000) if not pair.why]


def test_unrelatedness() -> None:
    present = crowd()
    cosine = np.full((4, 4), 0.5)
    cosine[0, 1] = cosine[1, 0] = 0.4
    pairs = mine_pairs(present, NAMES, min_support=50, cosine=cosine)
    assert next(pair for pair in pairs if (pair.a, pair.b) == ("dog", "frisbee")).why == ""
    cosine[0, 1] = cosine[1, 0] = 0.6
    pairs = mine_pairs(present, NAMES, min_support=50, cosine=cosine)
    assert next(pair for pair in pairs if (pair.a, pair.b) == ("dog", "frisbee")).why == NEAR
    related = frozenset({frozenset({"dog", "frisbee"})})
    pairs = mine_pairs(present, NAMES, min_support=50, related=related)
    assert {pair.why for pair in pairs if {pair.a, pair.b} == {"dog", "frisbee"}} == {ALIKE}


def test_a_table_of_related_pairs(tmp_path: Path) -> None:
    file = tmp_path / "related.csv"
    file.write_text("# ours\ndog, person\n\nvase,dog\n")
    assert read_related(file, NAMES) == {frozenset({"dog", "person"}), frozenset({"dog", "vase"})}
    for text in ("dog\n", "dog,cat\n", "dog,dog\n"):
        file.write_text(text)
        with pytest.raises(DataError, match="line 1"):
            read_related(file, NAMES)
    with pytest.raises(DataError, match="cannot be read"):
        read_related(tmp_path / "none.csv", NAMES)
