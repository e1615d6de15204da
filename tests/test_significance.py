"""Tests of hypotheses against brute force, scipy and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from bias_train.significance import benjamini_hochberg, equivalence, holm, swap_test


def centred(rng: np.random.Generator, sizes: list[int], figures: int, grid: bool = False) -> np.ndarray:
    """Contributions [G, W, F] that average 0 over a cluster's pictures; on a grid, relabellings often tie."""
    values = np.full((len(sizes), max(sizes), figures), np.nan)
    for cluster, size in enumerate(sizes):
        drawn = rng.integers(-2, 3, size=(size, figures)).astype(float) if grid else rng.normal(size=(size, figures))
        values[cluster, :size] = drawn - drawn.mean(axis=0)
    return values


@pytest.mark.parametrize("seed", range(10))
def test_exact_p_is_that_of_every_relabelling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 5, size=5).tolist()
    values = centred(rng, sizes, 3, grid=seed % 2 == 0)
    found = swap_test(values)
    sums = np.array(
        [sum(values[c, w] for c, w in enumerate(choice)) for choice in itertools.product(*map(range, sizes))]
    )
    assert found.exact
    assert found.statistic == pytest.approx(values[:, 0].sum(axis=0))
    expected = (np.abs(sums) >= np.abs(values[:, 0].sum(axis=0)) - 1e-9).mean(axis=0)
    assert found.p == pytest.approx(expected)


@pytest.mark.parametrize("permutations", [99999, 20000])
def test_pairs_agree_with_scipy(permutations: int) -> None:
    """With one twin each the test is the sign-flip test of paired samples."""
    rng = np.random.default_rng(3)
    gap = rng.normal(0.4, size=15)
    found = swap_test(np.stack([gap, -gap], axis=1)[:, :, None], permutations=permutations)
    theirs = stats.permutation_test((gap,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert found.exact == (permutations >= 2**15 - 1)
    # Drawn p-values lie within four standard errors of the exact one.
    error = 0.0 if found.exact else 4 * math.sqrt(theirs * (1 - theirs) / permutations)
    assert abs(found.p[0] - theirs) <= error + 1e-9


def test_p_is_uniform_where_labels_are_exchangeable() -> None:
    rng = np.random.default_rng(0)
    p = []
    for number in range(400):
        sizes = [2] * 30 if number % 2 else rng.integers(2, 4, size=30).tolist()
        values = centred(rng, sizes, 1)
        # Which picture is called real is drawn at random, as the null hypothesis has it.
        for cluster, size in enumerate(sizes):
            values[cluster, :size] = values[cluster, rng.permutation(size)]
        p.append(float(swap_test(values, permutations=499, seed=number).p[0]))
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert np.mean(np.array(p) <= 0.05) <= stats.binom.ppf(0.999, 400, 0.05) / 400


def test_p_is_small_where_real_pictures_lose() -> None:
    rng = np.random.default_rng(1)
    gap = rng.normal(-0.5, size=60)
    found = swap_test(np.stack([gap, -gap], axis=1)[:, :, None], permutations=9999)
    assert found.p[0] <= 0.001
    assert found.statistic[0] < 0
    # The observed labelling counts as one of the draws: no p-value is 0.
    assert swap_test(np.full((60, 2, 1), 1.0) * [[[1.0], [-1.0]]], permutations=999).p[0] == 1 / 1000


def test_nothing_to_swap() -> None:
    found = swap_test(np.zeros((5, 2, 2)))
    assert found.p.tolist() == [1.0, 1.0]
    assert found.informative.tolist() == [0, 0]


@pytest.mark.parametrize("change", [{"permutations": 0}, {"contributions": np.ones((2, 2, 1))}])
def test_swap_test_refuses(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|average 0"):
        swap_test(**{"contributions": np.zeros((2, 2, 1)), **change})


def closed_testing(p: np.ndarray) -> list[float]:
    """Holm's adjusted p-values by the closure principle: every subset is tested by Bonferroni."""
    return [
        max(
            min(1.0, size * min(p[list(rest)]))
            for size in range(1, len(p) + 1)
            for rest in itertools.combinations(range(len(p)), size)
            if i in rest
        )
        for i in range(len(p))
    ]


@pytest.mark.parametrize("seed", range(10))
def test_corrections(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.choice([0.001, 0.01, 0.02, 0.5, 1.0], size=7) if seed % 2 else rng.uniform(size=7) ** 2
    assert holm(p) == pytest.approx(closed_testing(p))
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    # What was not tested does not count.
    holes = np.insert(p, 3, np.nan)
    for correct in (holm, benjamini_hochberg):
        assert np.delete(correct(holes), 3) == pytest.approx(correct(p))
        assert math.isnan(correct(holes)[3])


@pytest.mark.parametrize(("value", "spread"), [(0.0, 0.2), (0.3, 0.1), (0.49, 0.05), (-0.6, 0.2), (0.1, 1.0)])
def test_equivalence_of_a_normal_estimate(value: float, spread: float) -> None:
    """For normal draws the p-value is the larger of two normal tails, and the verdict that of the interval."""
    draws = np.random.default_rng(0).normal(value, spread, size=40_000)
    found = equivalence(value, draws, 0.5)
    p = max(stats.norm.sf((value + 0.5) / spread), stats.norm.sf((0.5 - value) / spread))
    assert found.p == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 40_000) + 2 / 40_000)
    assert (found.low, found.high) == pytest.approx(stats.norm(value, spread).interval(0.9), abs=0.03 * spread)
    assert found.equivalent == (found.low > -0.5 and found.high < 0.5)


def test_equivalence_of_degenerate_draws() -> None:
    assert equivalence(0.0, np.zeros(99), 0.5).p == 1 / 100
    assert not equivalence(math.nan, np.zeros(99), 0.5).equivalent
    # An undefined difference speaks for neither bound.
    assert equivalence(0.0, np.r_[np.zeros(50), np.full(50, np.nan)], 0.5).p > 0.49
    for margin, alpha in ((0.0, 0.05), (0.5, 0.5)):
        with pytest.raises(ValueError, match=r"margin|alpha"):
            equivalence(0.0, np.zeros(9), margin, alpha)
