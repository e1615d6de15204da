"""All figures of words on resamples of the pictures.

Legend of the shapes: W words, M pictures, G groups, K cut-offs, B resamples, F figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bias_train.metrics.functional.social.association import scale
from bias_train.metrics.functional.social.floors import association_figures
from bias_train.metrics.functional.social.representation import (
    Name,
    Zero,
    figure_limits,
    figure_names,
    figures_of_shares,
)
from bias_train.metrics.functional.social.resampled_tops import TopWalk, count_table
from bias_train.stats import Bootstrap, Floats, Ints


@dataclass(frozen=True)
class WordTask:
    """What all words have in common.

    Attributes:
        group: [M] int64.
        counts: [G] int64 pictures of each group.
        ks: K cut-offs as they were asked for.
        target: [G] wanted shares.
        zero: rule for absent groups.
    """

    group: Ints
    counts: Ints
    ks: tuple[int, ...]
    target: Floats
    zero: Zero

    @property
    def depths(self) -> tuple[int, ...]:
        """Cut-offs no longer than the pool."""
        return tuple(min(k, len(self.group)) for k in self.ks)

    @property
    def depth_column(self) -> Floats:
        """[K, 1] the same, to divide counts by."""
        return np.array(self.depths, dtype=np.float64)[:, None]

    @property
    def names(self) -> tuple[Name, ...]:
        """All F figures."""
        return figure_names(len(self.counts), self.ks)

    def figures(self, top: NDArray[Any], discounted: NDArray[Any]) -> Floats:
        """All figures but those of association.

        Args:
            top: [..., K, G] pictures of each group in the first k.
            discounted: [..., K] NDKL.
        """
        columns = []
        for place, (k, depth) in enumerate(zip(self.ks, self.depths, strict=True)):
            own = figures_of_shares(top[..., place, :], depth, self.target, self.zero, pool=self.counts)
            own["ndkl"] = discounted[..., place]
            columns += [own[name] for name, cut in self.names if cut == k]
        return np.stack(columns, axis=-1)


@dataclass(frozen=True)
class Drawn:
    """What a bootstrap adds; see `WordBias`."""

    draws: NDArray[np.float32] | None
    low: Floats
    high: Floats
    share_low: Floats
    share_high: Floats
    association: NDArray[np.float32] | None
    association_low: Floats
    association_high: Floats

    @classmethod
    def none(cls, figures: tuple[int, ...], shares: tuple[int, ...]) -> Drawn:
        """Ends that are all NaN, for figures [W, F] and shares [W, K, G]."""
        ends, share, association = (np.full(shape, np.nan) for shape in (figures, shares, (shares[0], shares[2])))
        return cls(None, ends, ends, share, share, None, association, association)


def resampled_words(
    task: WordTask, order: NDArray[np.float32], z: NDArray[np.float32], value: Floats, bootstrap: Bootstrap
) -> Drawn:
    """Everything on resamples of the pictures, one word after the other.

    Args:
        task: what the words have in common.
        order: [W, M] what pictures are ranked by.
        z: [W, M] standardised scores.
        value: [W, F] the figures on the data.
        bootstrap: how.
    """
    table = count_table(task.group, bootstrap)
    walk = TopWalk(table, task.group, task.target, task.depths)
    association = resampled_association(z, task.group, task.counts, table)
    draws = np.empty((bootstrap.resamples, *value.shape), dtype=np.float32)
    ends = np.empty((2, *value.shape))
    shares = np.empty((2, len(order), len(task.ks), len(task.counts)))
    limits = figure_limits(task.names, len(task.counts))
    for w, scores in enumerate(order):
        top, discounted = walk(scores)
        shares[:, w] = np.stack(percentiles(np.moveaxis(top, 2, 0), bootstrap.level)) / task.depth_column
        found = np.concatenate(
            [task.figures(np.moveaxis(top, 2, 0), discounted.T), association_figures(association[:, w])], axis=1
        )
        draws[:, w] = centred(found, value[w])
        low, high = percentiles(draws[:, w], bootstrap.level)
        ends[:, w] = np.maximum(low, limits[0]), np.minimum(high, limits[1])
    low, high = percentiles(association, bootstrap.level)
    return Drawn(draws, ends[0], ends[1], shares[0], shares[1], association, low, high)


def centred(draws: Floats, value: Floats) -> Floats:
    """Shift draws [B, F] until their means are the values [F]."""
    there = ~np.isnan(draws)
    mean = np.where(there, draws, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    return draws + (value - mean)


def resampled_association(
    z: NDArray[np.float32], group: Ints, counts: Ints, table: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """C-ASC on resamples that keep the groups' sizes.

    It is a function of each group's sum and of the sum of squares, and these are matrix products.

    Args:
        z: [W, M] standardised scores, so that float32 sums lose nothing to a large mean.
        group: [M] int64 in 0..G-1.
        counts: [G] pictures of each group.
        table: [M, B] how often each resample holds each picture.

    Returns:
        [B, W, G], NaN where C-ASC is.
    """
    total = len(group)
    sums = np.zeros((table.shape[1], len(z), len(counts)), dtype=np.float32)
    square = np.zeros((table.shape[1], len(z)), dtype=np.float32)
    for g in range(len(counts)):
        rows = np.flatnonzero(group == g)
        often, own = table[rows].T.astype(np.float32), z[:, rows].T
        sums[:, :, g] = often @ own
        square += often @ own**2
    whole = sums.sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.sqrt((square - whole**2 / total) / (total - 1))
        sums -= whole[..., None] * (counts / total).astype(np.float32)
        sums *= scale(counts).astype(np.float32)
        sums /= deviation[..., None]
    return sums


def percentiles(draws: NDArray[np.floating], level: float) -> tuple[Floats, Floats]:
    """Ends of percentile intervals of many figures at once, as `bias_train.stats.interval` gives them one by one.

    Args:
        draws: [B, ...]; NaN ones are left out.
        level: nominal coverage.

    Returns:
        [...] lower and upper ends: order statistics, NaN where all draws are.
    """
    ordered = np.sort(draws, axis=0)
    there = (~np.isnan(draws)).sum(axis=0)
    tail = (1.0 - level) / 2.0
    places = (np.maximum(np.ceil(there * share - 1.0), 0.0).astype(np.int64) for share in (tail, 1.0 - tail))
    low, high = (np.take_along_axis(ordered, place[None], axis=0)[0].astype(np.float64) for place in places)
    return low, high
