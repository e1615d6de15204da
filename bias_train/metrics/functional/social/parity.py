"""Figures of decisions and of classifiers by group: parity differences, the worst group, AUC.

Legend of the shapes: N items, G groups. A group without the items that a rate needs has no rate and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bias_train.metrics.functional.resampled_gallery import resampled_win_rate
from bias_train.stats import Floats, Ints

Bools = NDArray[np.bool_]


def group_rates(selected: Bools, among: Bools, group: Ints, groups: int) -> Floats:
    """Share of each group's items that are selected.

    Args:
        selected: [N].
        among: [N] the items that count.
        group: [N] int64 in 0..G-1.
        groups: G.

    Returns:
        [G] float64, NaN for a group without items that count.

    Raises:
        ValueError: for unequal lengths or a group out of range.
    """
    if not len(selected) == len(among) == len(group):
        raise ValueError(
            f"{len(selected)} decisions, {len(among)} labels and {len(group)} groups do not belong together"
        )
    if len(group) and not (group.min() >= 0 and group.max() < groups):
        raise ValueError(f"a group is none of 0 to {groups - 1}")
    there = np.bincount(group[among], minlength=groups)
    with np.errstate(invalid="ignore"):
        return np.bincount(group[among & selected], minlength=groups) / there


def demographic_parity_difference(selected: Bools, group: Ints, groups: int) -> float:
    """Largest minus smallest share of a group that is selected.

    Args:
        selected: [N] the decision.
        group: [N] int64 in 0..G-1.
        groups: G.

    >>> demographic_parity_difference(np.array([True, True, False, True]), np.array([0, 0, 1, 1]), 2)
    0.5
    """
    return _range(group_rates(selected, np.ones(len(group), dtype=bool), group, groups))


def equalized_odds_difference(label: Bools, selected: Bools, group: Ints, groups: int) -> float:
    """The larger of the groups' differences in true and in false positive rate.

    A rate that fewer than two groups have has no difference; NaN where that holds for both.

    Args:
        label: [N] what is right.
        selected: [N] the decision.
        group: [N] int64 in 0..G-1.
        groups: G.
    """
    gaps = [_range(group_rates(selected, among, group, groups)) for among in (label, ~label)]
    return float(np.nanmax(gaps)) if not np.isnan(gaps).all() else float("nan")


def _range(rates: Floats) -> float:
    """Largest minus smallest rate; NaN for fewer than two."""
    rates = rates[~np.isnan(rates)]
    return float(rates.max() - rates.min()) if len(rates) > 1 else float("nan")


@dataclass(frozen=True)
class WorstGroup:
    """Accuracy where it is lowest.

    Attributes:
        average: over all items.
        worst: least accuracy of a (class, group) that has items.
        cell: which (class, group) that is; the first of several.
    """

    average: float
    worst: float
    cell: tuple[int, int]

    @property
    def gap(self) -> float:
        """Average minus worst."""
        return self.average - self.worst


def worst_group(correct: Bools, label: Ints, group: Ints) -> WorstGroup:
    """Accuracy in the worst (class, group), as it is reported for Waterbirds and CelebA (Sagawa et al. 2020).

    Args:
        correct: [N] whether the prediction was right.
        label: [N] int64 the class.
        group: [N] int64.

    Raises:
        ValueError: for no items, or unequal lengths.
    """
    if not len(correct) or not len(correct) == len(label) == len(group):
        raise ValueError(
            f"there are {len(correct)} predictions, {len(label)} classes and {len(group)} groups; "
            "each item needs one of each"
        )
    cells, cell = np.unique(np.stack([label, group]), axis=1, return_inverse=True)
    cell = cell.reshape(-1)
    accuracy = np.bincount(cell, weights=correct) / np.bincount(cell)
    worst = int(np.argmin(accuracy))
    return WorstGroup(float(correct.mean()), float(accuracy[worst]), (int(cells[0, worst]), int(cells[1, worst])))


def group_auc(score: Floats, label: Bools, group: Ints, groups: int) -> Floats:
    """AUC within each group; its smallest is what BendVLM (NeurIPS 2024) reports as worst-group AUC.

    Args:
        score: [N] larger for positive items; ties count as half.
        label: [N] what is right.
        group: [N] int64 in 0..G-1.
        groups: G.

    Returns:
        [G] float64, NaN for a group without both kinds of items.
    """
    return np.array([auc(score[group == g], label[group == g]) for g in range(groups)])


def es_auc(score: Floats, label: Bools, group: Ints, groups: int) -> float:
    """Equity-scaled AUC: AUC / (1 + sum over groups of |AUC - AUC of the group|) (Luo et al. 2024, FairCLIP).

    Groups without both kinds of items have no AUC and are left out. Arguments are those of `group_auc`; NaN without
    both kinds of items.
    """
    whole = auc(score, label)
    return whole / (1.0 + float(np.nansum(np.abs(whole - group_auc(score, label, group, groups)))))


def auc(score: Floats, label: Bools) -> float:
    """Chance that a random positive item scores above a random negative one, ties as half; NaN without both kinds.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    if label.all() or not label.any():
        return float("nan")
    return float(resampled_win_rate(score, label, np.ones((len(score), 1), dtype=np.int64))[0])
