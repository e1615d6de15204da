"""The findings as tables: what the CSV files, the terminal and the page show alike."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

from bias_train.explain.findings import Explanation
from bias_train.explain.outcome import Outcome

Cell = str | int | float

_ARMS = {
    "original": "as it is",
    "reversed": "photos − p",
    "random": "photos − random",
    "photos": "photos − p of photos",
}


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its file.
        title: heading.
        caption: how to read it.
        headers: of the columns.
        rows: raw values.
    """

    name: str
    title: str
    caption: str
    headers: tuple[str, ...]
    rows: list[tuple[Cell, ...]]

    def csv(self) -> str:
        """The table as CSV with full precision."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.headers)
        writer.writerows(self.rows)
        return buffer.getvalue()

    def texts(self) -> list[tuple[str, ...]]:
        """The rows as they are shown."""
        return [tuple(shown(cell) for cell in row) for row in self.rows]


def shown(cell: Cell) -> str:
    """Write a value for readers.

    >>> shown(0.12345), shown(-12.3456), shown(float("nan")), shown(3)
    ('0.1235', '−12.3', '–', '3')
    """
    if not isinstance(cell, float):
        return str(cell)
    if math.isnan(cell):
        return "–"
    text = f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.4f}" if abs(cell) >= 1e-4 or cell == 0 else f"{cell:.1e}"
    return text.replace("-", "−")


def tables_of(found: Explanation) -> list[Table]:
    """Every table that the findings fill."""
    tables = [_bias(found), _direction(found), _probe(found), _decomposition(found), _cosines(found), _reversal(found)]
    return [table for table in tables if table.rows]


def _bias(found: Explanation) -> Table:
    return Table(
        "bias", "Bias of this gallery",
        "Relative Delta is negative, and a win rate above 0.5, where generated pictures are favoured. Without the "
        "common displacement: a generator's mean displacement (over the other half of the units) is subtracted from "
        "its pictures; what is left is not common. 95 % intervals.",
        ("gallery", "figure", "value", "low", "high", "change", "change low", "change high"),
        [
            *_outcome_rows("as it is", found.bias, []),
            *_outcome_rows("without the common displacement", found.left, found.change),
        ],
    )  # fmt: skip


def _outcome_rows(gallery: str, outcomes: list[Outcome], changes: list[Outcome]) -> list[tuple[Cell, ...]]:
    by_name = {entry.name: (entry.value, entry.low, entry.high) for entry in changes}
    nothing = (math.nan,) * 3
    return [
        (gallery, entry.name, entry.value, entry.low, entry.high, *by_name.get(entry.name, nothing))
        for entry in outcomes
    ]


def _direction(found: Explanation) -> Table:
    return Table(
        "direction", "Is there a common direction?",
        "Mean displacement from real to generated; cosine of displacements to their mean, and between two of them. The "
        "null column is the mean cosine under random signs, p counts sign flips that reach the observed value. The "
        "cosine to the mean is biased upwards for few displacements: read it against its null.",
        (
            "generator", "n", "dropped", "|mean|", "mean norm", "cos to mean", "null", "null 95 %", "p", "pairwise cos",
            "pairwise p",
        ),
        [
            (
                name, c.units, c.dropped, c.norm, c.mean_norm, c.mean_cosine, c.null_cosine, c.null_high,
                c.p_mean_cosine, c.pairwise_cosine, c.p_pairwise_cosine,
            )
            for name, c in found.direction.items()
        ],
    )  # fmt: skip


def _probe(found: Explanation) -> Table:
    held = {"pair": "photos with their twins", "class": "whole classes", "whole": "pictures of one target"}[found.kind]
    return Table(
        "probe", "Can the source be read off linearly?",
        f"Area under the ROC curve of a linear discriminant (Ledoit-Wolf shrinkage), scored on folds that keep {held} "
        "together. The interval is that of these probes; whether they beat chance is what p says, from sources "
        "permuted and probes fitted anew.",
        ("generator", "AUC", "low", "high", "null 95 %", "p", "photos", "generated", "groups", "folds"),
        [
            (name, p.auc, p.low, p.high, p.null_high, p.p, p.real, p.generated, p.groups, p.folds)
            for name, p in found.probes.items()
        ],
    )  # fmt: skip


def _decomposition(found: Explanation) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, parts in found.decompositions.items():
        named = (("whole", parts.gap), ("common direction", parts.common), ("rest", parts.specific))
        rows += [(name, part, *values, parts.queries, parts.units) for part, values in named]
        rows.append((name, "common / whole", *parts.share, parts.queries, parts.units))
    rest = "pair-specific" if found.kind == "pair" else "class-specific"
    return Table(
        "decomposition", "Which part of the score gap is common to the source?",
        f"Mean score of generated minus real pictures for queries that both answer. The common direction's part and "
        f"the {rest} rest sum to the whole; projecting the direction out removes the first and leaves the second.",
        ("generator", "part", "gap", "low", "high", "queries", "units"),
        rows,
    )  # fmt: skip


def _cosines(found: Explanation) -> Table:
    return Table(
        "cosines", "Do generators share their direction?",
        "Cosine between two generators' mean displacements, against sources permuted within each unit. The null is not "
        "zero, since both displacements start from the same photos.",
        ("first", "second", "units", "cosine", "null mean", "null 2.5 %", "null 97.5 %", "p"),
        [
            (c.first, c.second, c.units, c.cosine, c.null_mean, c.null_low, c.null_high, c.p)
            for c in found.cosines
        ],
    )  # fmt: skip


def _reversal(found: Explanation) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for arm in found.reversal.arms if found.reversal is not None else ():
        rows += _outcome_rows(_ARMS[arm.name], arm.outcomes, arm.change)
    return Table(
        "reversal", "Does taking the change from photos turn the bias round?",
        "p is what debiasing changed in generated pictures (mean over the other half of the set). It is subtracted "
        "from the photos; generated pictures stay, captions are the original ones, nothing is normalised again. "
        "Controls: random vectors of p's norm (mean and range of draws), and what debiasing changed in photos.",
        ("gallery", "figure", "value", "low", "high", "change", "change low", "change high"),
        rows,
    )  # fmt: skip


def summary(found: Explanation) -> list[str]:
    """What was found, in a few sentences that carry no more than the figures."""
    told = []
    name = next(iter(found.probes), None)
    if name is not None:
        result = found.probes[name]
        verdict = "tells" if result.p < 0.05 else "does not tell"
        told.append(f"A linear probe {verdict} the sources apart: AUC {shown(result.auc)}, p {shown(result.p)}.")
    name = next(iter(found.direction), None)
    if name is not None:
        way = found.direction[name]
        verdict = "share a direction" if way.p_mean_cosine < 0.05 else "share no direction beyond chance"
        told.append(
            f"The displacements from real to generated {verdict}: cosine to their mean {shown(way.mean_cosine)} "
            f"against {shown(way.null_cosine)} by chance, p {shown(way.p_mean_cosine)}."
        )
    name = next(iter(found.decompositions), None)
    if name is not None:
        parts = found.decompositions[name]
        (gap, low, high), common = parts.gap, parts.common[0]
        if low <= 0.0 <= high:
            told.append(f"Generated and real pictures score alike within the interval ({shown(gap)}).")
        else:
            told.append(
                f"Generated pictures score {shown(abs(gap))} {'higher' if gap > 0 else 'lower'} than real ones; the "
                f"common direction's part of it is {shown(common)}, the rest {shown(parts.specific[0])}."
            )
    return told
