"""Means of figures that every query has: over categories, over queries, and over parts of them, on the same resamples.

Queries are resampled by cluster (the picture that they stem from). A figure is NaN for a query that does not have it,
and a mean is over those that do, so that it is a ratio of two sums. Resampled sums are one matrix product for each
category: a query belongs to one category only, so that all categories together cost no more than one.

Legend of the shapes: Q queries, F figures, B resamples, n queries of a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bias_train.metrics.figure import Figure
from bias_train.stats import Bootstrap, Floats, Ints, interval, resample_counts

Name = tuple[str, int | None]


def label_of(name: str, k: int | None) -> str:
    """A figure's name with its cut-off."""
    return name if k is None else f"{name}@{k}"


def pair_label(categories: Sequence[str], pair: tuple[int, int]) -> str:
    """How the slice of a pair is called: "dog | frisbee", the dog taken out of what has a frisbee."""
    return f"{categories[pair[0]]} | {categories[pair[1]]}"


@dataclass(frozen=True)
class _Sums:
    """Sums over some queries: on the data [F], and on the resamples [B, F] or None.

    Attributes:
        total: sums of the figures.
        count: number of queries that have them.
        drawn: sums on the resamples.
        drawn_count: numbers on the resamples.
    """

    total: Floats
    count: Floats
    drawn: Floats | None
    drawn_count: Floats | None

    def plus(self, other: _Sums) -> _Sums:
        """Sums over both sets of queries."""

        def both(mine: Floats | None, theirs: Floats | None) -> Floats | None:
            return None if mine is None or theirs is None else mine + theirs

        return _Sums(
            self.total + other.total,
            self.count + other.count,
            both(self.drawn, other.drawn),
            both(self.drawn_count, other.drawn_count),
        )

    def means(self) -> tuple[Floats, Floats | None]:
        """[F] on the data and [B, F] on the resamples; NaN where no query has the figure."""
        with np.errstate(invalid="ignore"):
            drawn = None if self.drawn is None or self.drawn_count is None else self.drawn / self.drawn_count
            return self.total / self.count, drawn


class QueryMeans:
    """Means over queries, and over parts of them, on the same resamples.

    Args:
        values: [Q, F] float64, NaN where a query does not have a figure.
        category: [Q] int64.
        cluster: [Q] integers, what is resampled together.
        bootstrap: how intervals are made, always percentile ones; None for none.
    """

    def __init__(self, values: Floats, category: Ints, cluster: Ints, bootstrap: Bootstrap | None) -> None:
        self._category = category
        has = ~np.isnan(values)
        self._values, self._has = np.where(has, values, 0.0), has
        # Most figures are had by the same queries, so that few columns of counts stand for all.
        self._masks, self._mask_of = np.unique(has, axis=1, return_inverse=True)
        self._mask_of = self._mask_of.reshape(-1)
        self._bootstrap = None if bootstrap is None else replace(bootstrap, method="percentile")
        clusters, self._cluster = np.unique(cluster, return_inverse=True)
        self._counts: NDArray[np.uint16] | None = None
        if self._bootstrap is not None and len(clusters) > 1:
            blocks = resample_counts(len(clusters), self._bootstrap)
            self._counts = np.concatenate([block.astype(np.uint16) for block in blocks])

    def figures(
        self,
        *,
        names: Sequence[Name],
        categories: Sequence[str],
        slices: Mapping[str, NDArray[np.bool_]],
        minimum: int,
        notes: Mapping[str, str],
    ) -> list[Figure]:
        """All means.

        Args:
            names: [F] figures.
            categories: names of the categories.
            slices: further parts [Q] by label, whose union is a part of its own.
            minimum: queries below which a category stays out of the mean over categories.
            notes: by name of the figure.

        Returns:
            Means over categories, over queries (``_micro``) and over the union of the slices (``_pairs``), then those
            of each category and slice, with its ``label``.
        """
        parts: list[Figure] = []
        means: list[tuple[Floats, Floats | None]] = []
        everything: _Sums | None = None
        few = []
        for number in np.unique(self._category).tolist():
            sums = self._sums(np.flatnonzero(self._category == number))
            everything = sums if everything is None else everything.plus(sums)
            queries = int((self._category == number).sum())
            if queries >= minimum:
                means.append(sums.means())
            else:
                few.append(f"{categories[number]} ({queries})")
            parts += self._figures(names, *sums.means(), sums.count, notes, label=categories[number])
        assert everything is not None
        note = f"mean over {len(means)} categories"
        if few:
            note += f", those with fewer than {minimum} queries left out: {', '.join(few)}"
        macro = _over_categories(means, len(names), self._counts is not None and self._bootstrap is not None)
        found = self._figures(names, *macro, everything.count, notes, more=note)
        found += self._figures(names, *everything.means(), everything.count, notes, suffix="_micro")
        if slices:
            union = self._sums(np.flatnonzero(np.any(list(slices.values()), axis=0)))
            note = f"queries of {len(slices)} pairs"
            found += self._figures(names, *union.means(), union.count, notes, suffix="_pairs", more=note)
            for label, rows in slices.items():
                sums = self._sums(np.flatnonzero(rows))
                parts += self._figures(names, *sums.means(), sums.count, notes, label=label)
        return found + parts

    def overall(self, names: Sequence[Name], notes: Mapping[str, str]) -> list[Figure]:
        """Means over all queries: ``names`` [F], and notes by name."""
        sums = self._sums(np.arange(len(self._values)))
        return self._figures(names, *sums.means(), sums.count, notes)

    def _sums(self, rows: Ints) -> _Sums:
        values, masks = self._values[rows], self._masks[rows].astype(np.float64)
        total, count = values.sum(axis=0), masks.sum(axis=0)[self._mask_of]
        if self._counts is None:
            return _Sums(total, count, None, None)
        weight = self._counts[:, self._cluster[rows]].astype(np.float64)
        return _Sums(total, count, weight @ values, (weight @ masks)[:, self._mask_of])

    def _figures(
        self,
        names: Sequence[Name],
        value: Floats,
        draws: Floats | None,
        count: Floats,
        notes: Mapping[str, str],
        *,
        suffix: str = "",
        label: str | None = None,
        more: str = "",
    ) -> list[Figure]:
        low = high = np.full(len(names), np.nan)
        if draws is not None and self._bootstrap is not None:
            made = interval(value, draws, self._bootstrap)
            low, high = made.low, made.high
        return [
            Figure(
                f"{name}{suffix}", k, float(value[f]), float(low[f]), float(high[f]), round(float(count[f])),
                "; ".join(filter(None, (notes[name], more))), label,
            )
            for f, (name, k) in enumerate(names)
        ]  # fmt: skip


def _over_categories(
    means: Sequence[tuple[Floats, Floats | None]], width: int, drawn: bool
) -> tuple[Floats, Floats | None]:
    """Mean over categories; in a resample, over those that it holds queries of."""
    value = _nanmean([own for own, _ in means], np.full(width, np.nan))
    if not drawn:
        return value, None
    shape = means[0][1] if means else None
    return value, None if shape is None else _nanmean([own for _, own in means if own is not None], shape)


def _nanmean(parts: Sequence[Floats], like: Floats) -> Floats:
    total, count = np.zeros(like.shape), np.zeros(like.shape)
    for part in parts:
        has = ~np.isnan(part)
        total += np.where(has, part, 0.0)
        count += has
    with np.errstate(invalid="ignore"):
        return total / count
