"""Balancing weights against a linear programme; copies against what they are due."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import linprog

from datamodules.balance import balancing_weights, copies
from datamodules.errors import DataError


def random_labels(seed: int, size: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Three groups, and four attributes that grow with the group's number."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, size)
    others = (rng.random((size, 4)) < (0.2 + 0.25 * group)[:, None]).astype(np.float64)
    return np.eye(3)[group], others


def moments(groups: np.ndarray, others: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rows whose products with the weights are the means: first of representation, then of association."""
    centred = groups - target
    crossed = [centred[:, k] * others[:, r] for k in range(groups.shape[1]) for r in range(others.shape[1])]
    return np.array([*centred.T, *crossed]) / len(groups)


def least(rows: np.ndarray, eps: np.ndarray, low: float, high: float) -> float:
    """The least sum of what is beyond tolerance, over all weights: variables are the weights, then the hinges."""
    count, size = rows.shape
    hinges = np.eye(count)
    bounds = [(low, high)] * size + [(0, None)] * count
    found = linprog(
        np.concatenate([np.zeros(size), np.ones(count)]),
        A_ub=np.block([[rows, -hinges], [-rows, -hinges]]),
        b_ub=np.concatenate([eps, eps]),
        A_eq=np.concatenate([np.full(size, 1 / size), np.zeros(count)])[None],
        b_eq=[1.0],
        bounds=bounds,
    )
    return float(found.fun)


@pytest.mark.parametrize(("low", "high"), [(0.1, 10.0), (0.5, 1.5), (0.0, 3.0)])
@pytest.mark.parametrize("eps", [0.0, 0.01])
@pytest.mark.parametrize("seed", [0, 1, 6])
def test_no_weights_do_better(seed: int, eps: float, low: float, high: float) -> None:
    groups, others = random_labels(seed)
    target = np.full(3, 1 / 3)
    found = balancing_weights(groups, others, target, eps_association=eps, low=low, high=high)
    rows = moments(groups, others, target)
    tolerance = np.concatenate([np.zeros(3), np.full(12, eps)])
    assert found.beyond == pytest.approx(least(rows, tolerance, low, high), abs=1e-5)
    assert found.weight.min() >= low
    assert found.weight.max() <= high
    assert found.weight.mean() == pytest.approx(1.0, abs=1e-9)
    reached = rows @ found.weight
    np.testing.assert_allclose(found.representation, reached[:3], atol=1e-12)
    np.testing.assert_allclose(found.association.ravel(), reached[3:], atol=1e-12)
    assert np.maximum(abs(reached) - tolerance, 0).sum() == pytest.approx(found.beyond, abs=1e-12)


def test_of_the_weights_that_do_it_these_are_the_nearest_to_one() -> None:
    """Where no bound binds they are a projection, which the pseudo-inverse gives."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 500)
    groups, others = np.eye(3)[group], (rng.random((500, 2)) < (0.4 + 0.1 * group)[:, None]).astype(np.float64)
    target = np.array([0.3, 0.3, 0.4])
    rows = np.vstack([moments(groups, others, target), np.full(500, 1 / 500)])
    wanted = np.zeros(len(rows))
    wanted[-1] = 1.0
    nearest = 1 + np.linalg.pinv(rows) @ (wanted - rows @ np.ones(500))
    assert 0.1 < nearest.min() < nearest.max() < 10
    assert np.ptp(nearest) > 0.2
    np.testing.assert_allclose(balancing_weights(groups, others, target).weight, nearest, atol=1e-5)


def test_a_large_set_with_crossed_groups_meets_every_moment() -> None:
    rng = np.random.default_rng(0)
    race = rng.choice(7, 20_000, p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.1, 0.05])
    gender = (rng.random(len(race)) < 0.3 + 0.06 * race).astype(int)
    age = (9 * rng.random(len(race)) ** (1 + 0.1 * race)).astype(int)
    groups, ages = np.eye(14)[race * 2 + gender], np.eye(9)[age]
    found = balancing_weights(groups, ages, np.full(14, 1 / 14))
    assert found.beyond < 1e-6
    np.testing.assert_allclose(groups.T @ found.weight / len(race), 1 / 14, atol=1e-6)
    # In every age group all groups are then equally frequent.
    table = (groups * found.weight[:, None]).T @ ages
    np.testing.assert_allclose(table / table.sum(axis=0), 1 / 14, atol=1e-5)


def test_samples_of_equal_labels_have_equal_weights_and_balanced_ones_weight_one() -> None:
    groups, others = random_labels(3)
    found = balancing_weights(groups, others, np.full(3, 1 / 3))
    labels = np.concatenate([groups, others], axis=1)
    for kind in np.unique(labels, axis=0):
        own = found.weight[(labels == kind).all(axis=1)]
        np.testing.assert_array_equal(own, own[0])
    balanced = balancing_weights(np.tile(np.eye(2), (5, 1)), np.zeros((10, 0)), np.full(2, 0.5))
    np.testing.assert_array_equal(balanced.weight, 1.0)
    assert balanced.association.shape == (2, 0)


def test_what_cannot_be_balanced_is_refused() -> None:
    groups, others = random_labels(0)
    with pytest.raises(DataError, match="no samples"):
        balancing_weights(groups[:0], others[:0], np.full(3, 1 / 3))
    with pytest.raises(DataError, match=r"\(60, 3\), \(60, 4\), \(2,\)"):
        balancing_weights(groups, others, np.full(2, 0.5))
    with pytest.raises(DataError, match="hold 1 between them, not 2 and 3"):
        balancing_weights(groups, others, np.full(3, 1 / 3), low=2, high=3)
    with pytest.raises(DataError, match="finite"):
        balancing_weights(groups, others * np.nan, np.full(3, 1 / 3))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.floats(0.0, 10.0), st.integers(0, 3)), min_size=1, max_size=40),
    st.integers(1, 300),
    st.integers(0, 5),
)
def test_copies_are_what_is_due_rounded(rows: list[tuple[float, int]], total: int, key: int) -> None:
    weight, group = np.array([w for w, _ in rows]), np.array([g for _, g in rows])
    if weight.sum() < 1e-6:
        weight[0] = 1.0
    found = copies(weight, group, total, key)
    due = total * weight / weight.sum()
    assert found.sum() == total
    assert np.all(abs(found - due) < 1 + 1e-6)
    for code in range(4):
        assert abs(found[group == code].sum() - due[group == code].sum()) < 1 + 1e-6
    assert np.all(found[due == 0] == 0)


def test_what_is_left_over_falls_to_different_samples_under_another_key() -> None:
    weight, group = np.full(100, 1.0), np.zeros(100, dtype=np.int64)
    first, again, other = (copies(weight, group, 150, key) for key in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first.tolist()) == {1, 2}
    assert (first != other).any()
