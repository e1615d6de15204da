"""One number with its values on resamples, so that ratios and changes between retrievers have intervals as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bias_train.metrics.figure import Figure
from bias_train.stats import Bootstrap, Floats, Ints, cluster_totals, interval, resampled

FLOOR = "_floor"  # ends the name of what a random retriever has


@dataclass(frozen=True)
class Drawn:
    """A figure before its interval is taken.

    Attributes:
        name: of the figure.
        value: on the data; NaN where it is undefined.
        count: queries (or words, pairs, pictures) behind it.
        note: conventions, joined by ``"; "``.
        k: cut-off, None where it has none.
        label: part that it is about; None for a figure over all.
        draws: [B] float64, the same on resamples; None where it has no interval.
    """

    name: str
    value: float
    count: int
    note: str
    k: int | None = None
    label: str | None = None
    draws: Floats | None = None

    def minus(self, other: Drawn) -> Drawn:
        """This less the other, draw by draw: a paired difference where both are drawn on the same resamples.

        Raises:
            ValueError: for another figure.
        """
        if (self.name, self.k, self.label, self.count) != (other.name, other.k, other.label, other.count):
            raise ValueError(
                f"{self.name} over {self.count} cannot be compared with {other.name} over {other.count}: measure both "
                "retrievers on the same set"
            )
        draws = None if self.draws is None or other.draws is None else self.draws - other.draws
        # What made the other side undefined makes the change so.
        note = other.note if np.isnan(other.value) else self.note
        return replace(self, value=self.value - other.value, draws=draws, note=note)

    def figure(self, bootstrap: Bootstrap | None) -> Figure:
        """The figure with its percentile interval over those resamples on which it is defined."""
        low = high = np.nan
        note = self.note
        if self.draws is not None and bootstrap is not None:
            found = interval(np.array([self.value]), self.draws[:, None], replace(bootstrap, method="percentile"))
            low, high = float(found.low[0]), float(found.high[0])
            if found.undefined[0] > 0 and not np.isnan(self.value):
                note += f"; undefined on {100 * found.undefined[0]:.2g} % of the resamples"
        return Figure(self.name, self.k, float(self.value), low, high, self.count, note.removeprefix("; "), self.label)


def changes(mine: Iterable[Drawn], others: Iterable[Drawn]) -> list[Drawn]:
    """Every figure's change from another retriever to this one; floors, which no retriever moves, are left out.

    Raises:
        ValueError: for other questions.
    """
    try:
        return [a.minus(b) for a, b in zip(mine, others, strict=True) if not a.name.endswith(FLOOR)]
    except ValueError as error:
        raise ValueError(f"the two sides answer other questions ({error})") from error


def apart(bootstrap: Bootstrap | None, units: str) -> Bootstrap | None:
    """The same bootstrap with draws of its own for one kind of unit.

    The draws of `bias_train.stats.resample_counts` depend on the seed and the number of units alone. Words and
    pictures that are as many would be drawn alike, and the spread of a ratio of figures over both would be wrong.

    Args:
        bootstrap: how; None for none.
        units: names what is resampled.
    """
    if bootstrap is None:
        return None
    seed = np.random.SeedSequence([bootstrap.seed, *units.encode()]).generate_state(1, np.uint64)[0]
    return replace(bootstrap, seed=int(seed), method="percentile")


def means(values: Floats, cluster: Ints, bootstrap: Bootstrap | None) -> tuple[Floats, Floats | None, Ints]:
    """Means over queries, each over those that have the figure, and the same on resamples of clusters.

    Args:
        values: [Q, F] float64, NaN where a query does not have a figure.
        cluster: [Q] integers, what is resampled together.
        bootstrap: how; None for none.

    Returns:
        ``(value [F], draws [B, F] or None, count [F])``: NaN means and a count of 0 where no query has the figure; no
        draws for fewer than two clusters.

    >>> value, _, count = means(np.array([[1.0], [0.0], [np.nan]]), np.array([0, 0, 1]), None)
    >>> value.tolist(), count.tolist()
    ([0.5], [2])
    """
    width, has = values.shape[1], ~np.isnan(values)
    if len(values) == 0:
        return np.full(width, np.nan), None, np.zeros(width, dtype=np.int64)
    totals = cluster_totals(np.concatenate([np.where(has, values, 0.0), has], axis=1), cluster)

    def ratio(sums: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray(sums[..., :width] / sums[..., width:])

    draws = resampled(totals, ratio, bootstrap) if bootstrap is not None and len(totals) > 1 else None
    return ratio(totals.sum(axis=0)), draws, has.sum(axis=0)


def drawn_means(
    names: Sequence[tuple[str, int | None]],
    values: Floats,
    cluster: Ints,
    bootstrap: Bootstrap | None,
    notes: Sequence[str],
    label: str | None = None,
) -> list[Drawn]:
    """`means` as figures: names and notes [F]."""
    value, draws, count = means(values, cluster, bootstrap)
    return [
        Drawn(name, float(value[f]), int(count[f]), notes[f], k, label, None if draws is None else draws[:, f])
        for f, (name, k) in enumerate(names)
    ]
