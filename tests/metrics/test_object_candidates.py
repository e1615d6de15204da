"""True captions among altered ones, against loops; the choice without the picture; the worst group against counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bias_train.metrics.functional.object.candidates import (
    blind_choice,
    first_among,
    in_gallery,
    normalised_caption,
)
from bias_train.metrics.functional.worst_group import worst_group_accuracy
from bias_train.stats import Bootstrap


def whole(rng: np.random.Generator, rows: int) -> torch.Tensor:
    made = rng.integers(-1, 2, size=(rows, 3)).astype(np.float32)
    made[(made == 0).all(axis=1), 0] = 1.0
    return torch.from_numpy(made)


def test_first_among_agrees_with_loops() -> None:
    rng = np.random.default_rng(0)
    image, text = whole(rng, 9), whole(rng, 20)
    picture, true = rng.integers(9, size=40), rng.integers(20, size=40)
    altered = rng.integers(-1, 20, size=(40, 4))
    altered[3] = -1
    found = first_among(image, text, picture, true, altered)
    tied = 0
    for s in range(40):
        mine = float(image[picture[s]] @ text[true[s]])
        others = [float(image[picture[s]] @ text[row]) for row in altered[s] if row >= 0]
        wanted = np.nan
        if others:
            wanted = 0.0 if max(others) > mine else 1.0 / (1 + others.count(mine))
            tied += 0 < wanted < 1
        assert found[s] == pytest.approx(wanted, nan_ok=True)
    assert tied, "no set has a tie to try"


def test_equal_scores_give_chance() -> None:
    ones = torch.ones(5, 4)
    altered = np.array([[1, 2, 3], [1, 2, -1]])
    assert first_among(ones, ones, np.array([0, 1]), np.array([0, 0]), altered) == pytest.approx([1 / 4, 1 / 3])


def test_the_blind_choice() -> None:
    # By hand: the second has 2/5 and 2/4 in common with the others, which have 0 with each other.
    assert blind_choice(["red cube", "red cube on blue mat", "Blue mat."]) == 1
    assert blind_choice(["a b", "a b", "c"]) == -1  # two are as good
    hub = ["a dog on a mat", "a dog on a mat with a cat", "a dog on a bed", "a cup on a mat", "two dogs"]
    assert blind_choice(hub) == 0


def test_the_gallery_agrees_with_loops() -> None:
    rng = np.random.default_rng(1)
    image, text = whole(rng, 6), whole(rng, 8)
    owner, altered = np.array([0, 1, 2, 3, 0, 1, 2, 3]), np.arange(8) >= 5
    recall, false = in_gallery(image, text, owner, altered, ks=(1, 3, 50))
    for p in range(6):
        scores = (image[p] @ text.T).numpy()
        hits, wrong = [], []
        for _ in range(4000):
            order = np.lexsort((rng.random(8), -scores))
            right = (owner[order] == p) & ~altered[order]
            hits.append([right[:k].any() for k in (1, 3, 50)])
            wrong.append(altered[order[0]])
        if p >= 4:
            assert np.isnan(recall[p]).all()
        else:
            assert recall[p] == pytest.approx(np.mean(hits, axis=0), abs=0.04)
        assert false[p] == pytest.approx(np.mean(wrong), abs=0.04)


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [("A man. ", "a man"), ("a man", "a man"), ("U.S. flag!?", "u.s. flag"), ("two\n men ,", "two men")],
)
def test_normalised(caption: str, wanted: str) -> None:
    assert normalised_caption(caption) == wanted


def test_worst_group_by_counting() -> None:
    rng = np.random.default_rng(2)
    label, group = rng.integers(2, size=300), rng.integers(3, size=300)
    correct = rng.random(300) < np.where((label == 1) & (group == 2), 0.4, 0.9)
    figures = worst_group_accuracy(
        correct, label, group, labels=["land", "water"], groups=["a", "b", "c"], bootstrap=Bootstrap(400)
    )
    overall = {f.name: f for f in figures if f.label is None}
    cells = {f.label: f for f in figures if f.label is not None}
    wanted = {
        f"{name} | {other}": correct[(label == a) & (group == b)].mean()
        for a, name in enumerate(("land", "water")) for b, other in enumerate("abc")
    }  # fmt: skip
    assert {name: f.value for name, f in cells.items()} == pytest.approx(wanted)
    assert overall["accuracy"].value == pytest.approx(correct.mean())
    assert overall["worst_group_accuracy"].value == pytest.approx(min(wanted.values()))
    assert overall["worst_group_accuracy"].note == "water | c"
    assert overall["gap"].value == pytest.approx(correct.mean() - min(wanted.values()))
    assert overall["balanced"].value == pytest.approx(np.mean(list(wanted.values())))
    # A share's interval is that of a binomial.
    one = cells["water | c"]
    half = 1.96 * np.sqrt(one.value * (1 - one.value) / one.count)
    assert (one.low, one.high) == pytest.approx((one.value - half, one.value + half), abs=0.03)
    assert all(f.low <= f.value <= f.high for f in cells.values())


def test_a_group_without_items_has_no_accuracy() -> None:
    figures = worst_group_accuracy(
        np.array([True, False]), np.array([0, 1]), np.array([0, 2]), labels=["x", "y"], groups=["a", "b", "c"]
    )
    assert [f.label for f in figures if f.label is not None] == ["x | a", "y | c"]
    with pytest.raises(ValueError, match="there are 0 predictions"):
        worst_group_accuracy(
            np.empty(0, dtype=bool), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), labels=[], groups=[]
        )
