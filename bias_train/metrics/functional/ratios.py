"""Figures as functions of sums: what a figure is made of is written once, and holds for data and resamples alike.

Columns are per-query numbers that are summed over queries (`sums`, [..., S, C] for S caption slots and C columns).
A figure divides some columns by others and combines the quotients. With S > 1 it is formed in each slot and averaged
over the slots in which it is defined (a mean of ratios); otherwise it is a ratio of means.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bias_train.metrics.figure import Figure
from bias_train.stats import Bootstrap, Floats, interval, jackknifed, resampled

Combine = Callable[..., Floats]


def mean(value: Floats) -> Floats:
    """The quotient itself."""
    return value


def relative_delta(real: Floats, generated: Floats) -> Floats:
    """100 * 2 (real - generated) / (real + generated), in [-200, 200]; negative favours generated pictures.

    The ratio of arXiv 2311.14084. NaN where neither source has a hit.

    >>> relative_delta(np.array([0.4, 0.0]), np.array([0.6, 0.0]))
    array([-40.,  nan])
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return 200.0 * (real - generated) / (real + generated)


@dataclass(frozen=True)
class Spec:
    """One figure, as a function of sums.

    Attributes:
        name: of the figure.
        k: cut-off as asked for.
        parts: (numerator, denominator) column names; one quotient each.
        combine: quotients to figure.
        by_slot: form it per caption slot and average.
        note: its conventions.
    """

    name: str
    k: int | None
    parts: tuple[tuple[str, str], ...]
    combine: Combine = mean
    by_slot: bool = False
    note: str = ""

    def quotients(self, names: Sequence[str], sums: Floats) -> tuple[Floats, ...]:
        """Each part's quotient, [..., S], or [..., 1] for a figure that pools the slots."""
        if not self.by_slot:
            sums = sums.sum(axis=-2, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return tuple(sums[..., names.index(top)] / sums[..., names.index(bottom)] for top, bottom in self.parts)

    def evaluate(self, names: Sequence[str], sums: Floats) -> Floats:
        """The figure, [...], from sums [..., S, C]."""
        values = np.asarray(self.combine(*self.quotients(names, sums)))
        if values.shape[-1] == 1:
            return values[..., 0]
        with warnings.catch_warnings():
            # A slot without a hit has no ratio; where no slot has one the figure is NaN, as it should be.
            warnings.simplefilter("ignore", RuntimeWarning)
            return np.nanmean(values, axis=-1)

    def flags(self, names: Sequence[str], sums: Floats) -> list[str]:
        """Degenerate cases of the figure on the data."""
        if self.combine is not relative_delta:
            return []
        real, generated = self.quotients(names, sums)
        neither = int(((real == 0) & (generated == 0)).sum())
        either = int(((real == 0) ^ (generated == 0)).sum())
        where = f" in {{}} of {len(real)} caption slots" if len(real) > 1 else ""
        found = []
        if neither:
            found.append("undefined, no source has a hit" + where.format(neither))
        if either:
            found.append("only one source has hits, so that the interval is one-sided" + where.format(either))
        return found


@dataclass(frozen=True)
class Measured:
    """Figures on the data and, with a bootstrap, on its resamples.

    Attributes:
        specs: F figures.
        value: [F].
        count: [F] queries behind each.
        notes: F lists of flags found on the data.
        draws: [B, F] or None.
        jackknife: [G, F] or None.
        label: class that all of them are about, or None.
    """

    specs: tuple[Spec, ...]
    value: Floats
    count: tuple[int, ...]
    notes: tuple[tuple[str, ...], ...]
    draws: Floats | None = None
    jackknife: Floats | None = None
    label: str | None = None

    def figures(self, bootstrap: Bootstrap | None) -> list[Figure]:
        """One `Figure` each, with the interval of the bootstrap where there are draws."""
        if bootstrap is None or self.draws is None:
            low = high = undefined = np.full(self.value.shape, np.nan)
        else:
            found = interval(self.value, self.draws, bootstrap, self.jackknife)
            low, high, undefined = found.low, found.high, found.undefined
        figures = []
        for f, spec in enumerate(self.specs):
            notes = [*self.notes[f], spec.note]
            if undefined[f] > 0 and not np.isnan(self.value[f]):
                notes.append(f"undefined in {100 * undefined[f]:.1f} % of the resamples, which are left out")
            figures.append(
                Figure(
                    name=spec.name,
                    k=spec.k,
                    value=float(self.value[f]),
                    low=float(low[f]),
                    high=float(high[f]),
                    count=self.count[f],
                    note="; ".join(note for note in notes if note),
                    label=self.label,
                )
            )
        return figures

    def minus(self, other: Measured) -> Measured:
        """The paired difference to another measurement of the same set with the same bootstrap.

        Raises:
            ValueError: if the other one holds other figures or other resamples.
        """
        mine, theirs = ([(s.name, s.k) for s in side.specs] for side in (self, other))
        alike = mine == theirs and all(
            (a is None) == (b is None) and (a is None or b is None or a.shape == b.shape)
            for a, b in ((self.draws, other.draws), (self.jackknife, other.jackknife))
        )
        if not alike or self.label != other.label:
            raise ValueError("the two sides hold other figures or clusters: evaluate both models on the same set")
        with np.errstate(invalid="ignore"):
            return replace(
                self,
                value=self.value - other.value,
                notes=tuple(tuple(dict.fromkeys(a + b)) for a, b in zip(self.notes, other.notes, strict=True)),
                draws=None if self.draws is None or other.draws is None else self.draws - other.draws,
                jackknife=None
                if self.jackknife is None or other.jackknife is None
                else self.jackknife - other.jackknife,
            )


def measure(
    specs: Sequence[Spec],
    names: Sequence[str],
    sums: Floats,
    *,
    draws: Floats | None = None,
    jackknife: Floats | None = None,
    label: str | None = None,
) -> Measured:
    """Evaluate figures on the data's sums.

    Args:
        specs: F figures.
        names: C column names.
        sums: [S, C] over all queries.
        draws: [B, F] figures on resamples.
        jackknife: [G, F] leave-one-out figures.
        label: class that they are about.
    """
    value = np.array([float(spec.evaluate(names, sums)) for spec in specs])
    pooled = sums.sum(axis=0)
    # The first part's denominator counts the queries.
    count = tuple(round(float(pooled[names.index(spec.parts[0][1])])) for spec in specs)
    notes = tuple(tuple(spec.flags(names, sums)) for spec in specs)
    return Measured(tuple(specs), value, count, notes, draws, jackknife, label)


def measure_clusters(
    specs: Sequence[Spec],
    names: Sequence[str],
    totals: Floats,
    bootstrap: Bootstrap | None,
    *,
    label: str | None = None,
) -> Measured:
    """Evaluate figures, resampling clusters of queries.

    Args:
        specs: F figures.
        names: C column names.
        totals: [G, S, C] sums by cluster and slot.
        bootstrap: None for values alone.
        label: class that they are about.
    """
    sums = totals.sum(axis=0)
    if bootstrap is None or len(totals) < 2:
        return measure(specs, names, sums, label=label)
    flat = totals.reshape(len(totals), -1)

    def statistic(values: Floats) -> Floats:
        split = values.reshape(*values.shape[:-1], *sums.shape)
        return np.stack([spec.evaluate(names, split) for spec in specs], axis=-1)

    return measure(
        specs,
        names,
        sums,
        draws=resampled(flat, statistic, bootstrap),
        jackknife=jackknifed(flat, statistic) if bootstrap.method == "bca" else None,
        label=label,
    )
