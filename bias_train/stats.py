"""Clustered bootstrap for figures that are functions of sums.

Nearly every figure here is a ratio of sums over queries, and the queries of one picture are not independent: its
captions move together. So the unit that is resampled is a cluster, a resample is a vector of counts (how often each
cluster was drawn), and the resampled sums are one matrix product of counts and cluster totals. Nothing is re-ranked
and no loop runs over resamples: 2,000 resamples of thousands of clusters take a second.

The draws depend only on the seed and the number of units. Two figures over the same clusters, of one model or of
two, therefore see the same resamples, and their difference is a paired one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]

# Draws made at once: bounds the memory of one block of resamples to some tens of megabytes.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: how many resamples are drawn; 2,000 or more for figures that are published.
        level: nominal coverage, in (0, 1).
        method: ``"percentile"``, or ``"bca"`` (bias-corrected and accelerated; Efron 1987, "Better bootstrap
            confidence intervals"), whose acceleration comes from leaving out one cluster at a time.
        seed: the draws are a function of it and of the number of units alone.
    """

    resamples: int = 2000
    level: float = 0.95
    method: Literal["percentile", "bca"] = "percentile"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise ValueError(f"resamples is {self.resamples}; an interval needs at least 2 (2,000 is usual)")
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"level is {self.level}; it must lie between 0 and 1, such as 0.95")
        if self.method not in ("percentile", "bca"):
            raise ValueError(f"method is {self.method!r}; choose 'percentile' or 'bca'")


@dataclass(frozen=True)
class Interval:
    """Statistics with their intervals.

    Attributes:
        value: [F] on the data themselves.
        low: [F] lower ends.
        high: [F] upper ends.
        undefined: [F] share of the resamples in which the statistic was NaN; they are left out of its interval.
    """

    value: Floats
    low: Floats
    high: Floats
    undefined: Floats


def cluster_totals(values: NDArray[Any], cluster: NDArray[Any]) -> Floats:
    """Sum rows by cluster.

    Args:
        values: [n, ...] one row per query.
        cluster: [n] integer cluster of each row.

    Returns:
        [G, ...] float64, in ascending order of the cluster ids, so that the order of the rows cannot change a draw.
    """
    ids, dense = np.unique(cluster, return_inverse=True)
    order = np.argsort(dense, kind="stable")
    # Every cluster has a row, so that no segment is empty, which reduceat would get wrong.
    starts = np.searchsorted(dense[order], np.arange(len(ids)))
    return np.add.reduceat(np.asarray(values, dtype=np.float64)[order], starts, axis=0)


def resample_counts(
    units: int, bootstrap: Bootstrap, strata: NDArray[Any] | None = None
) -> Iterator[NDArray[np.int64]]:
    """Draw resamples with replacement, as counts.

    Args:
        units: number of units, n.
        bootstrap: number of resamples and seed.
        strata: [n] ids; each stratum is resampled to its own size. None draws from all units alike.

    Yields:
        [b, n] int64 blocks of consecutive resamples, every row summing to n; the blocks add up to
        ``bootstrap.resamples`` rows. The same seed gives the same rows, whatever the block size.
    """
    rng = np.random.default_rng(bootstrap.seed)
    if strata is None:
        order, start, size = np.arange(units), np.zeros(units, dtype=np.int64), np.full(units, units)
    else:
        _, dense, sizes = np.unique(strata, return_inverse=True, return_counts=True)
        order = np.argsort(dense, kind="stable")
        # Slot j of the sorted units draws among the slots of its own stratum.
        start = (np.cumsum(sizes) - sizes)[dense[order]]
        size = sizes[dense[order]]
    block = max(1, _BLOCK // max(units, 1))
    for first in range(0, bootstrap.resamples, block):
        rows = min(block, bootstrap.resamples - first)
        # random() takes one word of the generator per draw, so that blocks of any size continue one sequence.
        drawn = (rng.random((rows, units)) * size + start).astype(np.int64)
        drawn = order[drawn] + np.arange(rows)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)


def resampled(totals: Floats, statistic: Statistic, bootstrap: Bootstrap) -> Floats:
    """The statistic on every resample.

    Args:
        totals: [G, C] sums by cluster.
        statistic: maps sums over clusters [..., C] to statistics [..., F].
        bootstrap: number of resamples and seed.

    Returns:
        [resamples, F] float64.
    """
    return np.concatenate(
        [statistic(counts.astype(np.float64) @ totals) for counts in resample_counts(len(totals), bootstrap)]
    )


def jackknifed(totals: Floats, statistic: Statistic) -> Floats:
    """The statistic with one cluster left out at a time: [G, F] float64, arguments as in `resampled`."""
    return statistic(totals.sum(axis=0) - totals)


def interval(value: Floats, draws: Floats, bootstrap: Bootstrap, jackknife: Floats | None = None) -> Interval:
    """Turn resampled statistics into intervals.

    Ends are order statistics, not interpolated, so that infinite odds stay infinite instead of turning into NaN.
    BCa falls back to percentiles for a statistic whose correction is undefined: all draws on one side of the value,
    or no spread among the leave-one-out values (a flag such as a Relative Delta of 200 at every draw).

    Args:
        value: [F] statistics on the data.
        draws: [B, F] statistics on the resamples.
        bootstrap: level and method.
        jackknife: [G, F] leave-one-out statistics, needed for ``method="bca"`` only.
    """
    tail = (1.0 - bootstrap.level) / 2.0
    low, high, undefined = (np.full(value.shape, np.nan) for _ in range(3))
    for f in range(len(value)):
        column = np.sort(draws[~np.isnan(draws[:, f]), f])
        undefined[f] = 1.0 - len(column) / len(draws)
        if len(column) == 0 or np.isnan(value[f]):
            continue
        tails = (tail, 1.0 - tail)
        if bootstrap.method == "bca" and jackknife is not None:
            tails = _bca_tails(float(value[f]), column, jackknife[:, f], tails)
        low[f], high[f] = np.quantile(column, tails, method="inverted_cdf")
    return Interval(value, low, high, undefined)


def _bca_tails(value: float, draws: Floats, jackknife: Floats, tails: tuple[float, float]) -> tuple[float, float]:
    """Corrected quantile levels; the nominal ones where the correction is undefined."""
    left = jackknife[np.isfinite(jackknife)]
    spread = left.mean() - left if len(left) else left
    square = float(np.sum(spread**2))
    # Half of the ties, or a lattice of few values (hits among few clusters) would shift the interval.
    below = float(np.mean(draws < value) + 0.5 * np.mean(draws == value))
    if square <= 0.0 or not 0.0 < below < 1.0:
        return tails
    normal = NormalDist()
    acceleration = float(np.sum(spread**3)) / (6.0 * square**1.5)
    bias = normal.inv_cdf(below)

    def corrected(p: float) -> float:
        shifted = bias + normal.inv_cdf(p)
        return normal.cdf(bias + shifted / (1.0 - acceleration * shifted))

    return corrected(tails[0]), corrected(tails[1])


def clustered_bootstrap(totals: Floats, statistic: Statistic, bootstrap: Bootstrap) -> Interval:
    """Intervals of statistics of sums, resampling clusters.

    Args:
        totals: [G, C] sums by cluster (`cluster_totals`).
        statistic: maps sums over clusters [..., C] to statistics [..., F]; must broadcast.
        bootstrap: how.

    Returns:
        The interval of each of the F statistics; its ends are NaN with fewer than two clusters.

    Example: a mean over clusters of unequal size is a ratio of two sums.

    >>> totals = np.array([[3.0, 4.0], [1.0, 1.0], [0.0, 2.0]])  # sum of the values, number of values
    >>> clustered_bootstrap(totals, lambda t: t[..., :1] / t[..., 1:], Bootstrap(resamples=200)).value
    array([0.57142857])
    """
    value = statistic(totals.sum(axis=0))
    if len(totals) < 2:
        missing = np.full(value.shape, np.nan)
        return Interval(value, missing, missing, missing)
    jackknife = jackknifed(totals, statistic) if bootstrap.method == "bca" else None
    return interval(value, resampled(totals, statistic, bootstrap), bootstrap, jackknife)


def paired_difference(first: Floats, second: Floats, statistic: Statistic, bootstrap: Bootstrap) -> Interval:
    """Interval of ``statistic(first) - statistic(second)`` on the same resamples.

    Args:
        first: [G, C] sums by cluster of one model (or of the state after).
        second: [G, C] of the other one; row g must be the same cluster in both.
        statistic: as in `clustered_bootstrap`.
        bootstrap: how.

    Raises:
        ValueError: if the two have other shapes: then no pairing exists.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"a paired difference needs the same clusters and columns on both sides, not {first.shape} and "
            f"{second.shape}: evaluate both models on the same set"
        )
    width = first.shape[1]

    def difference(totals: Floats) -> Floats:
        return statistic(totals[..., :width]) - statistic(totals[..., width:])

    return clustered_bootstrap(np.concatenate([first, second], axis=1), difference, bootstrap)


def bootstrap_median(values: Floats, cluster: NDArray[Any], bootstrap: Bootstrap) -> tuple[float, float, float]:
    """Median of values with its clustered percentile interval.

    A median is no function of sums, so the resampled ones are read from counts cumulated along the sorted values.
    Always percentile: leaving one cluster out says nothing about a median's spread.

    Args:
        values: [n] one per query.
        cluster: [n] cluster of each value.
        bootstrap: number of resamples, level, seed.

    Returns:
        ``(median, low, high)``; NaN throughout for no values, NaN ends for fewer than two clusters.
    """
    if len(values) == 0:
        return np.nan, np.nan, np.nan
    value = float(np.median(values))
    if len(np.unique(cluster)) < 2:
        return value, np.nan, np.nan
    draws = resampled_medians(values[:, None], np.unique(cluster, return_inverse=True)[1], bootstrap)[:, 0]
    tail = (1.0 - bootstrap.level) / 2.0
    low, high = np.quantile(draws, (tail, 1.0 - tail), method="inverted_cdf")
    return value, float(low), float(high)


def resampled_medians(
    values: Floats, cluster: NDArray[Any], bootstrap: Bootstrap, clusters: int | None = None
) -> Floats:
    """Medians of several columns on the same resamples of clusters.

    Args:
        values: [n, F] one row per query, without NaN.
        cluster: [n] cluster of each row, 0 to G - 1.
        bootstrap: number of resamples and seed.
        clusters: G, where the last ones may have no row; None takes the greatest number that occurs.

    Returns:
        [resamples, F] float64, NaN for resamples without any row.
    """
    units = int(cluster.max()) + 1 if clusters is None else clusters
    order = np.argsort(values, axis=0, kind="stable")
    ordered, owner = np.take_along_axis(values, order, axis=0), cluster[order]
    draws = []
    for block in resample_counts(units, bootstrap):
        for counts in np.array_split(block.astype(np.int32), max(1, len(block) * len(values) // _BLOCK)):
            medians = np.empty((len(counts), values.shape[1]))
            for f in range(values.shape[1]):
                cumulated = np.cumsum(counts[:, owner[:, f]], axis=1, dtype=np.int32)
                half = cumulated[:, -1:] / 2.0
                # An even number of draws has two middles: the first at which half is reached, the first to exceed it.
                lower = ordered[np.argmax(cumulated >= half, axis=1), f]
                upper = ordered[np.argmax(cumulated > half, axis=1), f]
                medians[:, f] = np.where(half[:, 0] > 0, (lower + upper) / 2.0, np.nan)
            draws.append(medians)
    return np.concatenate(draws)
