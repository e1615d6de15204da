"""Re-ranking against another package, naive loops and the properties that its authors prove."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_people import calibration
from reranking import rerank

from models import ModelError
from models.remedies import GreedyRanking, Interleaving
from models.remedies.ranking import FittedGreedyRanking, FittedInterleaving


def greedy(target: list[float], rule: str = "greedy") -> FittedGreedyRanking:
    return FittedGreedyRanking(torch.tensor(target, dtype=torch.float64), {"rule": rule})


def interleaved(groups: int) -> FittedInterleaving:
    return FittedInterleaving(torch.full((groups,), 1 / groups, dtype=torch.float64), {})


@pytest.mark.parametrize("target", [[0.5, 0.5], [0.25, 0.75], [0.5, 0.25, 0.25]])
def test_greedy_ranking_is_that_of_the_package(target: list[float]) -> None:
    rng = np.random.default_rng(0)
    groups = len(target)
    for _ in range(5):
        group = rng.permutation(np.repeat(np.arange(groups), 25))
        scores = rng.standard_normal((4, len(group)))
        found = greedy(target).rank(torch.from_numpy(scores), torch.from_numpy(group)).numpy()
        depth = round(25 / max(target)) // 4 * 4  # no group runs out
        for row, own in zip(found, scores, strict=True):
            order = np.argsort(-own)
            # An array, not their list, which pandas 3 no longer takes.
            theirs = rerank(group[order], dict(enumerate(target)), k_max=depth)  # type: ignore[arg-type]
            assert row[:depth].tolist() == order[theirs].tolist()


@pytest.mark.parametrize("rule", ["greedy", "conservative"])
def test_every_beginning_has_the_wanted_shares(rule: str) -> None:
    rng = np.random.default_rng(1)
    for target in ([0.29, 0.71], [0.2, 0.3, 0.5]):  # up to three groups it is proven
        group = rng.permutation(np.repeat(np.arange(len(target)), 100))
        scores = rng.standard_normal((3, len(group))) + 2.0 * (group == 0)
        found = greedy(target, rule).rank(torch.from_numpy(scores), torch.from_numpy(group)).numpy()
        assert (np.sort(found, axis=1) == np.arange(len(group))).all()
        for row in group[found]:
            for k in range(1, 101):
                counts = np.bincount(row[:k], minlength=len(target))
                for count, share in zip(counts, target, strict=True):
                    assert math.floor(round(k * share, 9)) <= count <= math.ceil(round(k * share, 9))
        # Within a group nothing changes places.
        for row, own in zip(found, scores, strict=True):
            for code in range(len(target)):
                assert (np.diff(own[row[group[row] == code]]) < 0).all()


def test_the_conservative_rule_takes_the_group_that_is_due_first() -> None:
    # Place 1 may go to any group; group 2 (0.5) is due at place 2, group 0 (0.2) at 5, group 1 (0.3) at 3.33.
    scores = torch.tensor([[9.0, 8.0, 7.0]])
    group = torch.tensor([0, 1, 2])
    assert greedy([0.2, 0.3, 0.5]).rank(scores, group).tolist() == [[0, 2, 1]]
    assert greedy([0.2, 0.3, 0.5], "conservative").rank(scores, group).tolist() == [[2, 1, 0]]


def test_a_group_that_runs_out_leaves_its_places_to_the_others() -> None:
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    group = torch.tensor([0, 0, 0, 0, 1])
    assert greedy([0.5, 0.5]).rank(scores, group).tolist() == [[0, 4, 1, 2, 3]]


def test_unknown_groups_keep_their_places() -> None:
    rng = np.random.default_rng(2)
    group = rng.integers(-1, 2, 30)
    scores = rng.standard_normal((3, 30))
    found = greedy([0.5, 0.5]).rank(torch.from_numpy(scores), torch.from_numpy(group)).numpy()
    before = np.argsort(-scores, axis=1)
    unknown = group[before] < 0
    assert np.array_equal(found[unknown], before[unknown])
    assert (np.sort(found, axis=1) == np.arange(30)).all()
    assert not np.array_equal(found, before)
    nobody = torch.full((30,), -1)
    for one in (greedy([0.5, 0.5]), interleaved(2)):
        assert np.array_equal(one.rank(torch.from_numpy(scores), nobody).numpy(), before)
        assert one.rank(torch.from_numpy(scores[:0]), nobody).shape == (0, 30)


def naive_interleaving(scores: np.ndarray, group: np.ndarray, groups: int) -> list[int]:
    """PBM step by step, with lists."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    lists = [[row for row in order if group[row] == code] for code in range(groups)]
    neutral = [row for row in order if group[row] < 0]
    found: list[int] = []
    while neutral or any(lists):
        heads = [rows[0] for rows in lists if rows]
        mean = sum(scores[row] for row in heads) / len(heads) if heads else -math.inf
        if heads and (not neutral or mean > scores[neutral[0]]):
            found += sorted(heads, key=lambda row: (-scores[row], row))
            lists = [rows[1:] for rows in lists]
        else:
            found.append(neutral.pop(0))
    return found


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_interleaving_step_by_step(data: st.DataObject) -> None:
    groups = data.draw(st.integers(2, 4))
    size = data.draw(st.integers(1, 25))
    group = np.array(data.draw(st.lists(st.integers(-1, groups - 1), min_size=size, max_size=size)))
    # Sixteenths, so that means of two and four are exact; few values, so that there are ties.
    scores = np.array(data.draw(st.lists(st.integers(0, 8), min_size=size, max_size=size))) / 16
    found = interleaved(groups).rank(torch.from_numpy(scores)[None], torch.from_numpy(group))[0].tolist()
    assert found == naive_interleaving(scores, group, groups)


def test_interleaving_shows_equal_numbers() -> None:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(4), 25)
    scores = rng.standard_normal((5, 100)) + group
    found = interleaved(4).rank(torch.from_numpy(scores), torch.from_numpy(group)).numpy()
    for row in group[found]:
        assert (np.bincount(row[:40], minlength=4) == 10).all()


def test_a_fitted_ranking_has_the_calibrations_target() -> None:
    data = calibration(3)
    for remedy in (GreedyRanking("conservative"), Interleaving()):
        fitted = remedy.fit(data)
        assert torch.equal(dict(fitted.state())["target"], data.target)
        assert fitted.image(data.image) is data.image
        assert fitted.text(data.words) is data.words
        with pytest.raises(ModelError, match="fitted to 3 groups"):
            fitted.rank(torch.zeros(1, 2), torch.tensor([0, 3]))
    with pytest.raises(ModelError, match="rule is 'relaxed'"):
        GreedyRanking("relaxed")  # type: ignore[arg-type]
