"""Accuracy by class and spurious attribute, and where it is lowest: what is reported for Waterbirds and CelebA.

The figure itself is `bias_train.metrics.functional.social.parity.worst_group` (Sagawa et al. 2020); here it stands
with the accuracy of every (class, group) and with intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.social.parity import worst_group
from bias_train.stats import Bootstrap, Floats, Ints, interval, resample_counts


def worst_group_accuracy(
    correct: NDArray[np.bool_],
    label: Ints,
    group: Ints,
    *,
    labels: Sequence[str],
    groups: Sequence[str],
    bootstrap: Bootstrap | None = None,
) -> list[Figure]:
    """Accuracy over all items, in the worst (class, group), and in each.

    Intervals resample items within their (class, group), and are always percentile intervals. The worst one's is that
    of the least accuracy of each resample: a minimum of noisy figures lies below that of the true ones, so that it
    leans downwards, the more the smaller the groups are.

    Args:
        correct: [N] whether the prediction was right.
        label: [N] int64 the class.
        group: [N] int64 the attribute that should not matter, such as a bird's background.
        labels: names of the classes.
        groups: names of the groups.
        bootstrap: how intervals are made; None for none.

    Returns:
        ``accuracy``; ``worst_group_accuracy``, whose note names the worst; ``gap``, average minus worst; ``balanced``,
        the mean over (class, group); and ``accuracy`` of each with its ``label`` ("landbird | water").

    Raises:
        ValueError: for no items or unequal lengths.

    >>> correct, label, group = np.array([True, True, True, False]), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    >>> found = worst_group_accuracy(correct, label, group, labels=["land", "sea"], groups=["dry", "wet"])
    >>> found[1].value, found[1].note
    (0.0, 'sea | wet')
    """
    worst = worst_group(correct, label, group)
    cells, cell = np.unique(np.stack([label, group]), axis=1, return_inverse=True)
    cell, names = cell.reshape(-1), [f"{labels[a]} | {groups[b]}" for a, b in cells.T.tolist()]
    sizes = np.bincount(cell)
    right = correct.astype(np.float64)

    def statistics(hits: Floats) -> Floats:
        """[..., G] right items of each cell to all figures."""
        rates = hits / sizes
        average, least = hits.sum(axis=-1) / len(cell), rates.min(axis=-1)
        return np.concatenate([np.stack([average, least, average - least, rates.mean(axis=-1)], axis=-1), rates], -1)

    value = statistics(np.asarray(np.bincount(cell, weights=right), dtype=np.float64))
    low = high = np.full(value.shape, np.nan)
    if bootstrap is not None:
        member = (cell[:, None] == np.arange(len(sizes))) * right[:, None]
        drawn = [statistics(counts.astype(np.float64) @ member) for counts in _resamples(cell, bootstrap)]
        made = interval(value, np.concatenate(drawn), Bootstrap(bootstrap.resamples, bootstrap.level))
        low, high = made.low, made.high
    where = names[[tuple(pair) for pair in cells.T.tolist()].index(worst.cell)]
    notes = ["", where, "", f"mean over {len(names)}"] + [""] * len(names)
    kinds = ["accuracy", "worst_group_accuracy", "gap", "balanced"] + ["accuracy"] * len(names)
    counts = [len(cell), int(sizes[names.index(where)]), len(cell), len(cell), *sizes.tolist()]
    return [
        Figure(kind, None, float(value[f]), float(low[f]), float(high[f]), counts[f], notes[f],
               None if f < 4 else names[f - 4])
        for f, kind in enumerate(kinds)
    ]  # fmt: skip


def _resamples(cell: Ints, bootstrap: Bootstrap) -> list[NDArray[np.int64]]:
    return list(resample_counts(len(cell), bootstrap, strata=cell))
