"""Do two measures order words alike? Spearman's correlation over words, with intervals that resample words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bias_train.metrics.figure import Figure
from bias_train.stats import Bootstrap, Floats, interval, resample_counts

FEWEST = 10  # words of which a correlation is formed: the interval of fewer reaches from one end to the other


def word_correlation(
    name: str, x: Floats, y: Floats, labels: Sequence[str], bootstrap: Bootstrap, note: str = ""
) -> list[Figure]:
    """Spearman's correlation over words, group by group.

    Args:
        name: of the figure.
        x: [W, G] one measure of each word and group, NaN where it is undefined. Where there are two groups in all, one
            is the other's mirror image: give the first alone.
        y: [W, G] the other.
        labels: [G] groups.
        bootstrap: how the intervals are made.
        note: goes with every figure.

    Returns:
        One for each group, with the group as ``label``; before them, where there are several, their mean without one.
        ``count`` is the number of words with both measures; NaN for fewer than ten.
    """
    found: list[Figure] = []
    columns: list[Floats] = []
    used = np.zeros(len(x), dtype=bool)
    # Every word keeps its place in the resamples, so that groups that miss some words still share the draws.
    blocks = [np.ones((1, len(x))), *(block.astype(np.float64) for block in resample_counts(len(x), bootstrap))]
    weight = np.concatenate(blocks)
    for code, label in enumerate(labels):
        rows = np.isfinite(x[:, code]) & np.isfinite(y[:, code])
        if rows.sum() < FEWEST:
            found.append(Figure(name, None, np.nan, count=int(rows.sum()), note=note, label=label))
            continue
        used |= rows
        columns.append(weighted_spearman(x[rows, code], y[rows, code], weight[:, rows]))
        found.append(_figure(name, columns[-1], int(rows.sum()), note, label, bootstrap))
    if len(columns) > 1:
        told = "; ".join(filter(None, ("mean over groups", note)))
        found.insert(0, _figure(name, np.mean(columns, axis=0), int(used.sum()), told, None, bootstrap))
    return found


def _figure(name: str, values: Floats, count: int, note: str, label: str | None, bootstrap: Bootstrap) -> Figure:
    """A figure whose first value is that of the data and whose others are resamples."""
    ends = interval(values[:1], values[1:, None], bootstrap)
    return Figure(name, None, float(values[0]), float(ends.low[0]), float(ends.high[0]), count, note, label)


def weighted_spearman(x: Floats, y: Floats, weight: Floats) -> Floats:
    """Spearman's rank correlation where item i occurs ``weight[i]`` times.

    Args:
        x: [n].
        y: [n].
        weight: [B, n] whole numbers.

    Returns:
        [B] float64; NaN where either side has one value only.

    >>> float(weighted_spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), np.ones((1, 3)))[0])
    0.5
    """
    total = weight.sum(axis=1, keepdims=True)
    first, second = (_mid_ranks(values, weight) - (total + 1.0) / 2.0 for values in (x, y))

    def moment(a: Floats, b: Floats) -> Floats:
        return np.asarray((weight * a * b).sum(axis=1))

    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(moment(first, second) / np.sqrt(moment(first, first) * moment(second, second)))


def _mid_ranks(values: Floats, weight: Floats) -> NDArray[np.float64]:
    """[B, n] rank of each item among all copies, equal ones sharing the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    group = np.add.reduceat(weight[:, order], starts, axis=1)
    rank = np.cumsum(group, axis=1) - group + (group + 1.0) / 2.0
    dense = np.empty(len(values), dtype=np.int64)
    dense[order] = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(values)]))
    return np.asarray(rank[:, dense])
