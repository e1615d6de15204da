"""Parity, worst group, AUC, MPR and ABLE against fairlearn, scikit-learn, an optimiser and closed forms."""

from __future__ import annotations

import math

import fairlearn.metrics as fairlearn
import numpy as np
import pytest
from scipy import optimize
from sklearn.metrics import roc_auc_score

from bias_train.metrics.functional.social.able import able
from bias_train.metrics.functional.social.parity import (
    demographic_parity_difference,
    equalized_odds_difference,
    es_auc,
    group_auc,
    group_rates,
    worst_group,
)
from bias_train.metrics.functional.social.proportional import mpr_indicators, mpr_linear, mpr_of_counts
from bias_train.metrics.functional.social.representation import figures_of_shares


def decisions(seed: int, items: int = 80, groups: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(items) < 0.4, rng.random(items) < 0.5, rng.integers(0, groups, size=items)


@pytest.mark.parametrize("seed", range(5))
def test_differences_against_fairlearn(seed: int) -> None:
    label, selected, group = decisions(seed)
    assert demographic_parity_difference(selected, group, 3) == pytest.approx(
        fairlearn.demographic_parity_difference(label, selected, sensitive_features=group)
    )
    assert equalized_odds_difference(label, selected, group, 3) == pytest.approx(
        fairlearn.equalized_odds_difference(label, selected, sensitive_features=group)
    )
    # A group that has no item changes nothing.
    assert equalized_odds_difference(label, selected, group, 4) == equalized_odds_difference(label, selected, group, 3)


def test_parity_of_being_retrieved_is_that_of_a_decision() -> None:
    rng = np.random.default_rng(0)
    group, scores, k = rng.integers(0, 3, size=50), rng.normal(size=50), 12
    top = np.isin(np.arange(50), np.argsort(-scores)[:k])
    pool = np.bincount(group, minlength=3)
    found = figures_of_shares(np.bincount(group[top], minlength=3).astype(float), k, pool / 50, pool=pool)
    assert float(found["parity_difference"]) == pytest.approx(
        fairlearn.demographic_parity_difference(top, top, sensitive_features=group)
    )


def test_rates_of_one_group_only() -> None:
    label, selected = np.array([True, True, False]), np.array([True, False, False])
    group = np.zeros(3, dtype=int)
    assert math.isnan(demographic_parity_difference(selected, group, 2))
    assert math.isnan(equalized_odds_difference(label, selected, group, 2))
    assert group_rates(selected, label, group, 2) == pytest.approx([0.5, math.nan], nan_ok=True)
    # Both groups have a true positive rate, only one a false positive rate.
    group = np.array([0, 1, 1])
    assert equalized_odds_difference(label, selected, group, 2) == 1.0


def test_rates_of_wrong_input() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        demographic_parity_difference(np.ones(3, dtype=bool), np.zeros(2, dtype=int), 2)
    with pytest.raises(ValueError, match="none of 0 to 1"):
        demographic_parity_difference(np.ones(2, dtype=bool), np.array([0, 2]), 2)


def test_worst_group_against_loops() -> None:
    correct, _, group = decisions(1)
    label = np.random.default_rng(2).integers(0, 4, size=80)
    cells = {(c, g): correct[(label == c) & (group == g)] for c in range(4) for g in range(3)}
    accuracy = {cell: rows.mean() for cell, rows in cells.items() if len(rows)}
    found = worst_group(correct, label, group)
    assert found.worst == pytest.approx(min(accuracy.values()))
    assert accuracy[found.cell] == pytest.approx(found.worst)
    assert found.gap == pytest.approx(correct.mean() - found.worst)
    with pytest.raises(ValueError, match="there are 0 predictions"):
        worst_group(correct[:0], label[:0], group[:0])
    with pytest.raises(ValueError, match="each item needs one of each"):
        worst_group(correct, label[:3], group)


def test_auc_against_scikit_learn() -> None:
    label, _, group = decisions(3)
    score = np.random.default_rng(4).integers(0, 6, size=80).astype(float)
    whole = roc_auc_score(label, score)
    own = [roc_auc_score(label[group == g], score[group == g]) for g in range(3)]
    assert group_auc(score, label, group, 3) == pytest.approx(own)
    assert es_auc(score, label, group, 3) == pytest.approx(whole / (1 + sum(abs(whole - a) for a in own)))
    # A group of one kind has no AUC and does not count.
    alone = np.where(label, group, 0)
    alone[0], label[0] = 3, True
    found = group_auc(score, label, alone, 4)
    assert math.isnan(found[3])
    assert not math.isnan(es_auc(score, label, alone, 4))
    assert math.isnan(es_auc(score, np.ones(80, dtype=bool), group, 3))


@pytest.mark.parametrize("seed", range(4))
def test_mpr_is_the_supremum_over_its_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    retrieved, reference = (rng.integers(0, 2, size=(n, 3)).astype(float) for n in (6, 15))
    k, m = 6, 15
    both = np.concatenate([retrieved, reference])

    def gap(w: np.ndarray) -> float:
        """Gap of a member of the class: w scaled until its values have the length that the class asks for."""
        length = np.linalg.norm(both @ w)
        c = w * math.sqrt(m * k / (m + k)) / length
        return float((retrieved @ c).mean() - (reference @ c).mean())

    found = mpr_linear(retrieved, reference)
    best = max(-optimize.minimize(lambda w: -gap(w), rng.normal(size=3)).fun for _ in range(5))
    assert found == pytest.approx(best, abs=1e-5)
    # As the authors compute it: regress a/k - b/m on the attributes, scale the fit, and look at its gap.
    difference = np.r_[np.full(k, 1 / k), np.full(m, -1 / m)]
    fitted = both @ np.linalg.lstsq(both, difference, rcond=None)[0]
    c = fitted / np.linalg.norm(fitted) * math.sqrt(m * k / (m + k))
    assert found == pytest.approx(abs(c[:k].mean() - c[k:].mean()))
    assert 0.0 <= found <= 1.0


def test_mpr_of_groups_and_their_intersections() -> None:
    rng = np.random.default_rng(0)
    top, pool = rng.integers(0, 4, size=10), rng.integers(0, 4, size=50)
    counts, reference = (np.bincount(codes, minlength=4).astype(float) for codes in (top, pool))
    assert float(mpr_of_counts(counts, reference)) == pytest.approx(mpr_linear(np.eye(4)[top], np.eye(4)[pool]))
    shares = np.abs(counts / 10 - reference / 50)
    assert float(mpr_indicators(counts, reference)) == pytest.approx(shares.max())
    # Both attributes are balanced, their crossing is not: only columns of crossed groups see it.
    sides = np.array([[0, 0], [1, 1]] * 5)
    balanced = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 5)
    one_hot = [np.concatenate([np.eye(2)[rows[:, 0]], np.eye(2)[rows[:, 1]]], axis=1) for rows in (sides, balanced)]
    assert mpr_linear(*one_hot) == pytest.approx(0.0, abs=1e-9)
    crossed = [np.eye(4)[rows[:, 0] * 2 + rows[:, 1]] for rows in (sides, balanced)]
    # By hand: 200 / 30 * 0.25^2 * (1/10 + 1/5 + 1/5 + 1/10) = 0.25.
    assert mpr_linear(*crossed) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="needs some of both"):
        mpr_linear(np.zeros((0, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="attributes must be"):
        mpr_linear(np.zeros((2, 3)), np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("accuracy", "max_skew", "published"), [(0.6831, 0.218, 73.87), (0.6800, 0.103, 77.55), (0.6805, 0.080, 78.35)]
)
def test_able_gives_published_figures_within_their_rounding(accuracy: float, max_skew: float, published: float) -> None:
    assert 100 * able(accuracy, max_skew) == pytest.approx(published, abs=0.03)


def test_able_of_wrong_input() -> None:
    assert able(0.0, 0.0) == 0.0
    with pytest.raises(ValueError, match="not percent"):
        able(68.3, 0.2)
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="not negative"):
            able(0.5, wrong)
