"""Counts and their figures against brute force, the reranking package, identities and degenerate cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reranking.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_social import naive_counts, naive_figures, naive_ndkl, shared_counts

from bias_train.metrics.functional.social.representation import (
    figure_limits,
    figure_names,
    figures_of_shares,
    ndkl,
    ndkl_of_positions,
    skew,
    target_shares,
    top_counts,
    top_positions,
)

KS = (1, 2, 3, 5, 99)


def ranked_case(seed: int, groups: int = 3, pictures: int = 8, levels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Scores [4, M] with ties, of which no more than four are alike, and groups."""
    rng = np.random.default_rng(seed)
    while True:
        scores = rng.integers(0, levels, size=(4, pictures)).astype(np.float32)
        if max(np.bincount(row.astype(int)).max() for row in scores) <= 4:
            return scores, rng.integers(0, groups, size=pictures)


@pytest.mark.parametrize("seed", range(10))
def test_counts_are_expectations_over_the_orders_that_ties_allow(seed: int) -> None:
    scores, group = ranked_case(seed)
    found = top_counts(scores, group, 3, KS)
    for w, row in enumerate(scores):
        for place, k in enumerate(KS):
            assert found[w, place] == pytest.approx(naive_counts(row, group, 3, k), abs=1e-12)
            # And the shorter way, which other tests lean on.
            assert found[w, place] == pytest.approx(shared_counts(row, group, 3, k), abs=1e-12)


def test_counts_of_many_words_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores, group = rng.normal(size=(9, 40)).astype(np.float32), rng.integers(0, 3, size=40)
    whole = top_counts(scores, group, 3, (5, 20))
    monkeypatch.setattr("bias_train.metrics.functional.social.representation._BLOCK", 1)
    assert (top_counts(scores, group, 3, (5, 20)) == whole).all()


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 6), min_size=2, max_size=5).filter(sum),
    extra=st.lists(st.integers(0, 9), min_size=5, max_size=5),
    target=st.sampled_from(["pool", "uniform"]),
    zero=st.sampled_from(["count", 1e-12, 0.01]),
)
def test_figures_against_loops(counts: list[int], extra: list[int], target: str, zero: str | float) -> None:
    top = np.array(counts, dtype=float)
    pool = np.array([n + more for n, more in zip(counts, extra, strict=False)])
    k = int(top.sum())
    shares = target_shares(target, pool)
    found = figures_of_shares(top, k, shares, zero, pool=pool)
    reference = naive_figures(top, k, shares, zero, pool)
    assert set(found) == set(reference)
    for name, value in reference.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-12), name
    limits = dict(
        zip(figure_names(len(top), (k,)), figure_limits(figure_names(len(top), (k,)), len(top)).T, strict=True)
    )
    for name, value in found.items():
        low, high = limits[name, k]
        assert low - 1e-9 <= value <= high + 1e-9, name


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    shares=st.lists(st.floats(0.05, 1.0), min_size=4, max_size=4),
)
def test_skew_kl_and_ndkl_against_the_reranking_package(labels: list[int], shares: list[float]) -> None:
    target = np.array(shares) / sum(shares)
    k = len(labels)
    counts = np.bincount(labels, minlength=4).astype(float)
    own = oracle.proportion(labels, list(range(4)))
    smallest, largest, _ = oracle.skew_static(own, target.tolist())
    # Their rule for absent groups, given as a number.
    found = figures_of_shares(counts, k, target, oracle.EPSILON)
    assert (float(found["min_skew"]), float(found["max_skew"])) == pytest.approx((smallest, largest))
    assert float(found["kl"]) == pytest.approx(oracle.kld(own, target.tolist()), abs=1e-9)
    assert ndkl(np.array(labels), 4, target, (k,))[0] == pytest.approx(
        oracle.ndkl(labels, dict(enumerate(target.tolist()))), abs=1e-9
    )
    # MaxSkew needs no rule: the same by ours.
    assert float(figures_of_shares(counts, k, target)["max_skew"]) == pytest.approx(largest, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_ndkl_with_ties_is_that_of_expected_counts(seed: int) -> None:
    scores, group = ranked_case(seed)
    target = np.array([0.5, 0.3, 0.2])
    ((_, position),) = top_positions(scores, group, 3, 8)
    assert position.sum(axis=2) == pytest.approx(np.ones((4, 8)))
    found = ndkl_of_positions(position, target, KS)
    for w, row in enumerate(scores):
        reference = [naive_ndkl(row, group, target, k) for k in KS]
        assert found[w] == pytest.approx(reference, abs=1e-12)
    # Without ties the two ways are one.
    plain = np.random.default_rng(seed).permutation(group)
    assert ndkl(plain, 3, target, KS) == pytest.approx(ndkl_of_positions(np.eye(3)[plain], target, KS), abs=1e-12)


def test_ndkl_of_lists_of_lists() -> None:
    lists = np.random.default_rng(0).integers(0, 3, size=(2, 5, 7))
    target = np.full(3, 1 / 3)
    found = ndkl(lists, 3, target, (2, 7))
    assert found.shape == (2, 5, 2)
    assert found[1, 3] == pytest.approx(ndkl(lists[1, 3], 3, target, (2, 7)))


def test_a_balanced_and_a_one_sided_list() -> None:
    even, uniform, pool = np.array([5.0, 5.0]), np.array([0.5, 0.5]), np.array([50, 50])
    found = figures_of_shares(even, 10, uniform, pool=pool)
    assert float(found.pop("entropy")) == pytest.approx(1.0)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(dict.fromkeys(found, 0.0))
    found = figures_of_shares(np.array([10.0, 0.0]), 10, uniform, pool=pool)
    assert float(found["entropy"]) == 0.0
    assert math.copysign(1.0, float(found["entropy"])) == 1.0
    assert float(found["max_skew"]) == pytest.approx(math.log(2))
    assert float(found["min_skew"]) == pytest.approx(math.log(0.1 / 0.5))
    assert (float(found["bias"]), float(found["absent"])) == (1.0, 1.0)


def test_an_absent_small_group_is_never_over_represented() -> None:
    """One picture in ten would be ten times the share of a group of 1 %: absence must not read as plenty."""
    target = np.array([0.6, 0.39, 0.01])
    counts = np.array([6.0, 4.0, 0.0])
    assert skew(counts, 10, target)[2] == 0.0
    assert float(figures_of_shares(counts, 10, target)["max_skew"]) == pytest.approx(math.log(0.4 / 0.39))
    # Where k is large enough, the rule is one picture of k.
    assert skew(np.array([600.0, 400.0, 0.0]), 1000, target)[2] == pytest.approx(math.log(0.001 / 0.01))


def test_a_group_that_the_pool_lacks() -> None:
    pool = np.array([6, 4, 0])
    shares = target_shares("pool", pool)
    found = figures_of_shares(np.array([3.0, 1.0, 0.0]), 4, shares, pool=pool)
    assert np.isnan(skew(np.array([3.0, 1.0, 0.0]), 4, shares)).tolist() == [False, False, True]
    assert float(found["absent"]) == 0.0
    assert float(found["max_skew"]) == pytest.approx(math.log(0.75 / 0.6))
    assert all(np.isfinite(value) for value in found.values())
    # Entropy counts it all the same; a uniform target asks for it.
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(3)
    assert float(found["entropy"]) == pytest.approx(entropy)
    assert float(figures_of_shares(np.array([3.0, 1.0, 0.0]), 4, target_shares("uniform", pool))["absent"]) == 1.0


def test_bias_without_pictures_is_0() -> None:
    assert float(figures_of_shares(np.zeros(2), 1, np.array([0.5, 0.5]))["bias"]) == 0.0


def test_targets() -> None:
    counts = np.array([30, 10])
    assert target_shares("pool", counts).tolist() == [0.75, 0.25]
    assert target_shares("uniform", counts).tolist() == [0.5, 0.5]
    assert target_shares([0.2, 0.8], counts).tolist() == [0.2, 0.8]
    for wrong, message in (
        ("even", "target is 'even'"),
        ([0.5, 0.3, 0.2], "3 shares for 2 groups"),
        ([1.0, 0.0], "above 0 and sum to 1"),
        ([0.5, 0.6], "above 0 and sum to 1"),
        ([math.nan, 0.5], "above 0 and sum to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            target_shares(wrong, counts)


@pytest.mark.parametrize("zero", ["skip", 0.0, -1.0, math.nan])
def test_unknown_rules_for_absent_groups(zero: str | float) -> None:
    with pytest.raises(ValueError, match="zero is"):
        skew(np.array([1.0, 0.0]), 1, np.array([0.5, 0.5]), zero)


@pytest.mark.parametrize("k", [0, -1])
def test_cut_offs_below_one(k: int) -> None:
    with pytest.raises(ValueError, match="cut-off"):
        top_counts(np.zeros((1, 3), dtype=np.float32), np.array([0, 1, 0]), 2, (k,))
    with pytest.raises(ValueError, match="cut-off"):
        ndkl(np.array([0, 1]), 2, np.array([0.5, 0.5]), (k,))
