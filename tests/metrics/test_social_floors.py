"""Floors against exact hypergeometric sums, brute simulation, and figures that were simulated elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from naive_social import naive_word
from scipy import stats

from bias_train.metrics.functional.social.floors import random_association, random_floor, random_tops
from bias_train.metrics.functional.social.representation import target_shares

# FairFace validation, as the reference page of the social axis has it.
RACE = np.array([2085, 1623, 1556, 1550, 1516, 1415, 1209])
GENDER = np.array([5792, 5162])

# Means and 5th percentiles of normalised entropy; mean and 95th of MaxSkew with either target: two simulations that
# are not ours, which agree with each other to .004.
TABLE = {
    ("race", 100): ((0.979, 0.956), (0.369, 0.599), (0.315, 0.489)),
    ("race", 500): ((0.991, 0.984), (0.289, 0.432), (0.147, 0.241)),
    ("race", 1000): ((0.992, 0.988), (0.287, 0.385), (0.104, 0.171)),
    ("gender", 100): ((0.990, 0.965), (0.087, 0.199), (0.076, 0.175)),
    ("gender", 500): ((0.996, 0.987), (0.059, 0.124), (0.034, 0.083)),
    ("gender", 1000): ((0.997, 0.992), (0.056, 0.101), (0.024, 0.057)),
}
NDKL = {"gender": {"uniform": 0.015, "pool": 0.013}, "race": {"uniform": 0.068, "pool": 0.056}}


@pytest.mark.parametrize(("attribute", "counts"), [("race", RACE), ("gender", GENDER)])
def test_table_of_the_reference(attribute: str, counts: np.ndarray) -> None:
    uniform, pool = (
        random_floor(counts, (100, 500, 1000), target_shares(t, counts), draws=10_000) for t in ("uniform", "pool")
    )
    for k in (100, 500, 1000):
        entropy, even, own = TABLE[attribute, k]
        assert uniform.of("entropy", k)[:2] == pytest.approx(entropy, abs=0.005)
        # The percentiles of counts stand on a lattice; one picture more or less is ln(1 + 1 / count).
        for found, (mean, high) in ((uniform.of("max_skew", k), even), (pool.of("max_skew", k), own)):
            assert found[0] == pytest.approx(mean, abs=0.005)
            assert found[2] == pytest.approx(high, abs=0.015)
    assert uniform.of("ndkl", 1000)[0] == pytest.approx(NDKL[attribute]["uniform"], abs=0.001)
    assert pool.of("ndkl", 1000)[0] == pytest.approx(NDKL[attribute]["pool"], abs=0.001)


def test_means_against_exact_sums() -> None:
    """Whatever is a sum over groups needs only each group's hypergeometric distribution."""
    counts, k, draws = np.array([40, 25, 10]), 12, 20_000
    target = target_shares([0.5, 0.3, 0.2], counts)
    floor = random_floor(counts, (k,), target, draws=draws, seed=3)

    def exact(size: int, value: callable) -> float:
        n = np.arange(size + 1)
        return sum(
            float(stats.hypergeom(75, int(c), size).pmf(n) @ np.array([value(m / size, q) for m in n]))
            for c, q in zip(counts, target, strict=True)
        )

    def divergence(p: float, q: float) -> float:
        return p * math.log(p / q) if p > 0 else 0.0

    weight = 1 / np.log2(np.arange(2, k + 2))
    for name, value in {
        "entropy": exact(k, lambda p, q: -p * math.log(p) if p > 0 else 0.0) / math.log(3),
        "kl": exact(k, divergence),
        "absent": exact(k, lambda p, q: float(p == 0)),
        "ndkl": sum(w * exact(i, divergence) for i, w in enumerate(weight, 1)) / weight.sum(),
    }.items():
        mean, low, high = floor.of(name, k)
        # The percentiles tell the spread: 3.3 of its deviations of the mean, roughly.
        assert mean == pytest.approx(value, abs=4 * max(high - low, 0.5) / 3.3 / math.sqrt(draws)), name


def test_all_figures_against_brute_simulation() -> None:
    counts, ks = np.array([20, 8]), (4, 9)
    target = target_shares("uniform", counts)
    draws = 1000
    floor = random_floor(counts, ks, target, seed=1)
    rng = np.random.default_rng(9)
    group = np.repeat([0, 1], counts)
    rows = [naive_word(rng.normal(size=28), group, 2, ks, target, "count") for _ in range(draws)]
    for name, k in floor.names:
        values = np.array([row[name, k] for row in rows])
        error = values.std() * math.sqrt(1 / draws + 1 / 4000)
        assert floor.of(name, k)[0] == pytest.approx(values.mean(), abs=4.5 * error + 1e-9), (name, k)
        for place, share in ((1, 0.05), (2, 0.95)):
            # Between neighbouring percentiles of the brute draws.
            low, high = np.quantile(values, (share - 0.025, share + 0.025))
            assert low - 1e-9 <= floor.of(name, k)[place] <= high + 1e-9, (name, k)


def test_random_tops_are_uniform_without_replacement() -> None:
    counts = np.array([3, 2, 1])
    lists = random_tops(counts, 3, 60_000, np.random.default_rng(0))
    # Every place holds a group as often as the pool does, and two places at once as often as pairs do.
    assert np.stack([(lists == g).mean(axis=0) for g in range(3)]) == pytest.approx(
        np.repeat(counts[:, None] / 6, 3, axis=1), abs=0.01
    )
    assert ((lists[:, 0] == 1) & (lists[:, 2] == 1)).mean() == pytest.approx(2 / 6 * 1 / 5, abs=0.005)
    assert not ((lists == 2).sum(axis=1) > 1).any()


def test_association_has_the_exact_variance_of_random_labels() -> None:
    counts = np.array([50, 20, 0, 5])
    found = random_association(counts, 40_000, np.random.default_rng(0))
    assert np.isnan(found[:, 2]).all()
    total = counts.sum()
    for g in (0, 1, 3):
        # Sampling n of M without replacement: the deviation of C-ASC is sqrt(M / (n (M - n))).
        expected = math.sqrt(total / (counts[g] * (total - counts[g])))
        assert found[:, g].std() == pytest.approx(expected, rel=0.02)
        assert found[:, g].mean() == pytest.approx(0.0, abs=0.02)
    assert np.isnan(random_association(np.array([4, 0]), 10, np.random.default_rng(0))).all()


def test_the_whole_pool_leaves_nothing_to_chance() -> None:
    counts = np.array([6, 2])
    floor = random_floor(counts, (8, 100), target_shares("pool", counts), draws=50)
    for k in (8, 100):
        assert floor.of("max_skew", k) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
        assert floor.of("bias", k) == (0.5, 0.5, 0.5)
        assert floor.of("amplification", k) == (0.0, 0.0, 0.0)


def test_same_seed_same_floor_and_bad_input() -> None:
    counts, target = np.array([6, 2]), np.array([0.5, 0.5])
    one, two, other = (random_floor(counts, (3,), target, draws=100, seed=seed) for seed in (4, 4, 5))
    assert (one.mean == two.mean).all()
    assert (one.mean != other.mean).any()
    for wrong in ({"draws": 1}, {"counts": np.array([0, 0])}):
        with pytest.raises(ValueError, match="a floor needs"):
            random_floor(**({"counts": counts, "ks": (3,), "target": target} | wrong))
