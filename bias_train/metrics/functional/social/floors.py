"""What a random retriever would score: the floor below every figure of who is retrieved.

A hundred random pictures of seven groups are never evenly spread, and a pool in which one group prevails puts it first
however blind the retriever. So no figure is read alone: it is set against the same figure, with the same cut-off,
target and rule for absent groups, of rankings in random order of a pool with the same group counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bias_train.metrics.functional.social.representation import (
    ASSOCIATION_FIGURES,
    Name,
    Zero,
    figure_names,
    figures_of_shares,
    ndkl,
)
from bias_train.stats import Floats, Ints


@dataclass(frozen=True)
class Floor:
    """Figures of a random retriever for one word.

    The mean also holds for a mean over words; the percentiles are those of a single word.

    Attributes:
        names: F figures, (name, k).
        mean: [F] float64.
        low: [F] 5th percentile.
        high: [F] 95th percentile.
        draws: how many random rankings were made.
    """

    names: tuple[Name, ...]
    mean: Floats
    low: Floats
    high: Floats
    draws: int

    def of(self, name: str, k: int | None) -> tuple[float, float, float]:
        """``(mean, low, high)`` of one figure."""
        f = self.names.index((name, k))
        return float(self.mean[f]), float(self.low[f]), float(self.high[f])


def random_floor(
    counts: Ints, ks: Sequence[int], target: Floats, zero: Zero = "count", draws: int = 4000, seed: int = 0
) -> Floor:
    """Simulate a random retriever.

    Args:
        counts: [G] pictures of each group in the pool.
        ks: cut-offs; beyond the pool they are capped.
        target: [G] wanted shares (`representation.target_shares`).
        zero: rule for absent groups.
        draws: random rankings.
        seed: of the draws.

    Returns:
        The floor of all `representation.figure_names`.

    Raises:
        ValueError: for no draws or an empty pool.
    """
    total = int(counts.sum())
    if draws < 2 or total < 1:
        raise ValueError(f"a floor needs at least 2 random rankings of at least 1 picture, not {draws} of {total}")
    groups = len(counts)
    rng = np.random.default_rng(seed)
    depths = [min(k, total) for k in ks]
    names = figure_names(groups, ks)
    found = np.empty((draws, len(names)))
    ranked = random_tops(counts, max(depths), draws, rng)
    discounted = ndkl(ranked, groups, target, depths)
    for place, (k, depth) in enumerate(zip(ks, depths, strict=True)):
        top = np.stack([(ranked[:, :depth] == g).sum(axis=1) for g in range(groups)], axis=1).astype(np.float64)
        columns = figures_of_shares(top, depth, target, zero, pool=counts) | {"ndkl": discounted[:, place]}
        for name, values in columns.items():
            found[:, names.index((name, k))] = values
    found[:, -len(ASSOCIATION_FIGURES) :] = association_figures(random_association(counts, draws, rng))
    with warnings.catch_warnings():
        # Association has no floor where all pictures are of one group.
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanquantile(found, (0.05, 0.95), axis=0)
        return Floor(names, np.nanmean(found, axis=0), low, high, draws)


def random_tops(counts: Ints, depth: int, draws: int, rng: np.random.Generator) -> NDArray[np.integer]:
    """The first positions of random rankings.

    How many pictures of each group come that far is multivariate hypergeometric, and all their orders are alike; the
    size of the pool costs nothing.

    Args:
        counts: [G] pictures of each group in the pool.
        depth: L positions, at most as many as there are pictures.
        draws: rankings.
        rng: where the draws come from.

    Returns:
        [draws, L] groups.
    """
    kind = np.min_scalar_type(len(counts))
    top = rng.multivariate_hypergeometric(counts, depth, size=draws)
    lists = np.repeat(np.tile(np.arange(len(counts), dtype=kind), draws), top.ravel()).reshape(draws, depth)
    return rng.permuted(lists, axis=1)


def random_association(counts: Ints, draws: int, rng: np.random.Generator) -> Floats:
    """C-ASC of scores that are independent normal numbers.

    For these a group's mean is normal and the spread within the groups chi-square, independently of each other, so
    that no scores need be drawn. C-ASC of other scores differs from it by what the central limit leaves over.

    Args:
        counts: [G] pictures of each group in the pool.
        draws: words.
        rng: where the draws come from.

    Returns:
        [draws, G] float64, NaN for a group that has no picture or all of them.
    """
    total, there = int(counts.sum()), counts > 0
    mean = np.full((draws, len(counts)), np.nan)
    mean[:, there] = rng.standard_normal((draws, int(there.sum()))) / np.sqrt(counts[there])
    centre = np.nansum(mean * counts, axis=1, keepdims=True) / total
    between = np.nansum(counts * (mean - centre) ** 2, axis=1)
    free = total - int(there.sum())
    within = rng.chisquare(free, size=draws) if free else np.zeros(draws)
    deviation = np.sqrt((between + within) / max(total - 1, 1))[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        # The group's mean less that of the others, from its distance to the mean of all.
        return (mean - centre) / deviation * np.where(counts < total, total / (total - counts), np.nan)


def association_figures(association: NDArray[np.floating]) -> Floats:
    """Mean absolute, largest and smallest C-ASC over the groups that have one.

    Args:
        association: [..., G] C-ASC.

    Returns:
        [..., 3], in the order of `representation.ASSOCIATION_FIGURES`; NaN where no group has one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        parts = (np.nanmean(np.abs(association), axis=-1), np.nanmax(association, axis=-1))
        return np.stack([*parts, np.nanmin(association, axis=-1)], axis=-1)
