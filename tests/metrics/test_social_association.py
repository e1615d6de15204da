"""C-ASC and effect sizes against loops, and their tests against scipy's permutation test."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from naive_social import naive_c_asc
from scipy import stats

from bias_train.metrics.functional.social.association import (
    c_asc,
    eat,
    moment_p,
    permutation_p,
    sc_eat,
    standardised,
)


def unit(rng: np.random.Generator, rows: int, width: int = 5) -> np.ndarray:
    vectors = rng.normal(size=(rows, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
def test_c_asc_against_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, group = rng.normal(size=(3, 20)), rng.integers(0, 4, size=20)
    found = c_asc(scores, group, 5)
    for w in range(3):
        reference = [naive_c_asc(scores[w], group, g) for g in range(5)]
        # Scores are kept in float32.
        assert found[w] == pytest.approx(reference, abs=1e-5, nan_ok=True)
    assert np.isnan(found[:, 4]).all()
    # Neither a shift nor a positive factor matters; a group's weighted sum is that of the others, turned around.
    assert c_asc(3 * scores + 7, group, 5) == pytest.approx(found, abs=1e-5, nan_ok=True)
    assert c_asc(-scores, group, 5) == pytest.approx(-found, abs=1e-5, nan_ok=True)


def test_undefined_association() -> None:
    flat = np.full((1, 6), 0.1, dtype=np.float32)
    assert np.isnan(c_asc(flat, np.array([0, 0, 0, 1, 1, 1]), 2)).all()
    assert np.isnan(c_asc(np.arange(3.0)[None], np.zeros(3, dtype=int), 2)).all()
    assert np.isnan(standardised(np.ones((2, 1)))).all()
    for permutations in (0, 50):
        assert np.isnan(permutation_p(standardised(flat), np.array([0, 0, 0, 1, 1, 1]), 2, permutations)).all()
        p = permutation_p(standardised(np.arange(4.0)[None]), np.array([0, 0, 1, 1]), 3, permutations)
        assert np.isnan(p).tolist() == [[False, False, True]]


def test_p_values_against_scipy() -> None:
    """Every relabelling of twelve pictures, by scipy, within the error of 20,000 random ones."""
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], [5, 4, 3])
    scores = rng.normal(size=(4, 12)) + 0.8 * (group == 0)
    found = permutation_p(standardised(scores), group, 3, 20_000, seed=1)
    for w in range(4):
        for g in range(3):
            exact = stats.permutation_test(
                (scores[w, group == g], scores[w, group != g]),
                lambda a, b: abs(a.mean() - b.mean()),
                permutation_type="independent", alternative="greater", n_resamples=np.inf, vectorized=False,
            ).pvalue  # fmt: skip
            assert found[w, g] == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_blocks_of_relabellings_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    z, group = standardised(rng.normal(size=(2, 30))), rng.integers(0, 3, size=30)
    whole = permutation_p(z, group, 3, 101)
    monkeypatch.setattr("bias_train.metrics.functional.social.association._BLOCK", 30 * 2 * 7)
    assert (permutation_p(z, group, 3, 101) == whole).all()


def test_smallest_p_value_is_that_of_phipson_and_smyth() -> None:
    group = np.repeat([0, 1], 40)
    z = standardised((group == 0)[None] + 0.01 * np.random.default_rng(0).normal(size=(1, 80)))
    assert permutation_p(z, group, 2, 199).tolist() == [[1 / 200, 1 / 200]]
    # Labels that all relabellings leave as they are say nothing.
    assert permutation_p(standardised(np.arange(2.0)[None]), np.array([0, 1]), 2, 99).tolist() == [[1.0, 1.0]]


def test_moments_of_the_curve_are_those_of_all_relabellings() -> None:
    """By writing out every group of 3 of 9: variance and third moment, which fix the curve."""
    z = standardised(np.random.default_rng(5).exponential(size=(1, 9)))
    sums = np.array([z[0, list(rows)].sum() for rows in combinations(range(9), 3)], dtype=float)
    skewness = (sums**3).mean() / sums.std() ** 3
    curve = stats.pearson3(skewness)
    counts = np.array([3, 6])
    for value in (0.5, 2.0, 3.5):
        away = value / sums.std()
        p = moment_p(z, np.array([[value, -value]]), counts)
        # Wilson and Hilferty's root against the curve itself, and never below one relabelling of 84.
        assert p[0] == pytest.approx(max(curve.sf(away) + curve.cdf(-away), 1 / 84), rel=0.03)
    assert moment_p(z, np.array([[50.0, -50.0]]), counts) == pytest.approx(np.full((1, 2), 1 / 84))


@pytest.mark.parametrize("skewed", [False, True])
def test_small_p_values_of_the_curve_against_relabellings(skewed: bool) -> None:
    """Far out, where a correction for thousands of cells looks, and for a small group of skewed scores."""
    rng = np.random.default_rng(6)
    scores = rng.gamma(4.0, size=3000) if skewed else rng.normal(size=3000)
    z = standardised(scores[None])[0].astype(float)
    sums = z[rng.integers(0, 3000, size=(1_000_000, 30))].sum(axis=1) * math.sqrt(1 - 30 / 3000)
    for away in (2.0, 3.0, 4.0):
        value = away * math.sqrt(30 * 2970 / 3000)
        p = moment_p(z[None].astype(np.float32), np.array([[value, -value]]), np.array([30, 2970]))[0, 0]
        assert p == pytest.approx((np.abs(sums) >= value).mean(), rel=0.2)
    # The normal limit would be half of it here, or less.
    assert (2 * stats.norm.sf(4.0) < 0.5 * p) == skewed


def test_the_curve_against_random_relabellings() -> None:
    rng = np.random.default_rng(2)
    group = np.repeat([0, 1], [300, 100])
    z = standardised(rng.normal(size=(6, 400)) + 0.15 * rng.normal(size=(6, 1)) * group)
    assert permutation_p(z, group, 2, 0) == pytest.approx(permutation_p(z, group, 2, 10_000), abs=0.02)


def test_p_values_are_uniform_without_association() -> None:
    rng = np.random.default_rng(3)
    group = rng.integers(0, 3, size=60)
    z = standardised(rng.exponential(size=(1500, 60)))
    for permutations in (0, 199):
        p = permutation_p(z, group, 3, permutations, seed=5)[:, 0]
        assert stats.kstest(p, "uniform").statistic < 0.06
        assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_eat_is_exact_as_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, a, b = unit(rng, 5), unit(rng, 4), unit(rng, 6), unit(rng, 3)
    s = [np.array([np.mean(a @ w) - np.mean(b @ w) for w in side]) for side in (x, y)]
    found = eat(x, y, a, b)
    both = np.concatenate(s)
    assert found.d == pytest.approx((s[0].mean() - s[1].mean()) / both.std(ddof=1))
    reference = stats.permutation_test(
        s, lambda p, q: p.mean() - q.mean(), permutation_type="independent", alternative="greater", n_resamples=np.inf
    )
    assert (found.exact, found.permutations) == (True, math.comb(9, 5))
    assert found.p == pytest.approx(reference.pvalue)
    # Too many relabellings to take all: random ones come near.
    drawn = eat(x, y, a, b, permutations=100, seed=seed)
    assert (drawn.exact, drawn.permutations) == (False, 100)
    assert drawn.p == pytest.approx(found.p, abs=4 * math.sqrt(0.25 / 100))


def test_single_category_test_is_c_asc() -> None:
    rng = np.random.default_rng(4)
    word, a, b = unit(rng, 1)[0], unit(rng, 4), unit(rng, 5)
    found = sc_eat(word, a, b)
    group = np.repeat([0, 1], [4, 5])
    scores = np.concatenate([a, b]) @ word
    assert found.d == pytest.approx(naive_c_asc(scores, group, 0))
    reference = stats.permutation_test(
        (scores[:4], scores[4:]), lambda p, q: np.abs(p.mean() - q.mean()),
        permutation_type="independent", alternative="greater", n_resamples=np.inf, vectorized=False,
    )  # fmt: skip
    assert found.p == pytest.approx(reference.pvalue)
    assert sc_eat(word, b, a).d == pytest.approx(-found.d)


def test_tests_without_spread_and_bad_input() -> None:
    same = np.tile(np.array([[1.0, 0.0]]), (3, 1))
    found = sc_eat(np.array([1.0, 0.0]), same, same)
    assert math.isnan(found.d)
    assert math.isnan(found.p)
    with pytest.raises(ValueError, match="y must be"):
        eat(same, same[:0], same, same)
    with pytest.raises(ValueError, match="at least 1 relabelling"):
        sc_eat(np.array([1.0, 0.0]), same, same, permutations=0)
    with pytest.raises(ValueError, match="permutations is -1"):
        permutation_p(np.zeros((1, 2), dtype=np.float32), np.array([0, 1]), 2, -1)
