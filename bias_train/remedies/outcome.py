"""What a comparison of remedies has found, and its machine-readable forms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bias_train.files import json_value, write_json
from bias_train.table_file import table_file

NONE = "none"  # the retriever as it is
CALIBRATED, HELD_OUT, ALL = "calibrated", "held out", "all"
LABELLED = ", true groups"  # behind the name of a ranking that was told the measured pictures' labels
UTILITY = ("t2i_R", "i2t_R")


@dataclass(frozen=True)
class Row:
    """One figure of one remedy.

    Attributes:
        remedy: its name; "none" for the retriever as it is.
        kind: "bias" of the attribute that was fitted to, "utility", "retention", "leakage" or "off_target".
        words: which words it is a mean over: "calibrated" (remedies were fitted to them), "held out", "all"; empty
            where it is about none.
        name: of the figure.
        k: cut-off, None where it has none.
        label: attribute, where it is another one or the figure is about one; else empty.
        value: the figure.
        low: lower end of its interval, NaN where there is none.
        high: upper end.
        count: words, queries or pictures behind it.
        change: less that of "none"; NaN for "none" itself.
        change_low: lower end of the interval of the change, on the same resamples; NaN where there is none.
        change_high: upper end.
        note: conventions and flags.
    """

    remedy: str
    kind: str
    words: str
    name: str
    k: int | None
    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    count: int = 0
    change: float = math.nan
    change_low: float = math.nan
    change_high: float = math.nan
    note: str = ""

    @property
    def key(self) -> str:
        """The figure's name with its cut-off."""
        return self.name if self.k is None else f"{self.name}@{self.k}"


@dataclass(frozen=True)
class Comparison:
    """Remedies side by side.

    Attributes:
        attribute: what they were fitted to.
        k: the leading cut-off.
        inputs: what was compared on, by name.
        options: the choices, by name.
        counts: pictures, words and pairs on either side of the split, by name.
        fitted: metadata of every remedy that was fitted, by name.
        skipped: why a remedy was not, by name.
        rows: all figures.
    """

    attribute: str
    k: int
    inputs: Mapping[str, Any]
    options: Mapping[str, Any]
    counts: Mapping[str, Any]
    fitted: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    rows: tuple[Row, ...]

    @property
    def remedies(self) -> tuple[str, ...]:
        """Names in the order of the rows."""
        return tuple(dict.fromkeys(row.remedy for row in self.rows))

    @property
    def measured_words(self) -> tuple[str, ...]:
        """Parts of the words, the one that leads first."""
        parts = {row.words for row in self.rows if row.words}
        return tuple(part for part in (HELD_OUT, ALL, CALIBRATED) if part in parts)

    def find(
        self, remedy: str, name: str, k: int | None = None, *, kind: str | None = None, words: str | None = None,
        label: str | None = None,
    ) -> Row | None:  # fmt: skip
        """Look a figure up; the first that fits what is given."""
        for row in self.rows:
            if (row.remedy, row.name, row.k) == (remedy, name, k) and all(
                wanted in (None, own) for wanted, own in ((kind, row.kind), (words, row.words), (label, row.label))
            ):
                return row
        return None

    def cost(self, remedy: str) -> float:
        """The most that recall at 1 or 5 of ordinary pairs falls, in either direction, in points; NaN without pairs."""
        falls = [
            -100.0 * row.change
            for row in self.rows
            if row.remedy == remedy and row.kind == "utility" and row.name in UTILITY and row.k in (1, 5)
        ]
        return max(falls, default=math.nan)

    def best(self, tolerance: float) -> Row | None:
        """The largest cut of the excess MaxSkew of the leading words that costs at most so many points of recall."""
        cuts = [
            row
            for row in self.rows
            if (row.kind, row.words, row.name, row.k) == ("bias", self.measured_words[0], "cut_max_skew", self.k)
            and not math.isnan(row.value)
            and row.remedy != NONE
            and not row.remedy.endswith(LABELLED)
            and self.cost(row.remedy) <= tolerance
        ]
        return max(cuts, key=lambda row: row.value, default=None)

    def document(self) -> dict[str, Any]:
        """The comparison as plain values; what is undefined is null."""
        return {
            "comparison": "remedies of social bias",
            "attribute": self.attribute,
            "k": self.k,
            "inputs": json_value(dict(self.inputs)),
            "options": json_value(dict(self.options)),
            "counts": json_value(dict(self.counts)),
            "fitted": json_value(dict(self.fitted)),
            "skipped": dict(self.skipped),
            "figures": [json_value(row) for row in self.rows],
        }


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json`` and ``comparison.parquet`` into a folder; both appear when they are whole.

    Raises:
        RunError: where a file cannot be written.
    """
    write_json(folder / "comparison.json", comparison.document())
    with table_file(folder / "comparison.parquet", _SCHEMA) as add:
        add(_table(comparison.rows))


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("remedy", "kind", "words", "name", "label", "note")),
        *((name, pa.int64()) for name in ("k", "count")),
        *((name, pa.float64()) for name in ("value", "low", "high", "change", "change_low", "change_high")),
    ]
)


def _table(rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA)
