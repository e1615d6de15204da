"""What a comparison of remedies against reading has found, and its machine-readable forms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bias_train.files import json_value, write_json
from bias_train.metrics.figure import Figure
from bias_train.table_file import table_file

NONE = "none"  # the retriever as it is
CLEAN = ("clean_t2i_R", "clean_i2t_R")
READING = ("reading_t2i_R", "reading_i2t_R")
NET = "win_share_net"


@dataclass(frozen=True)
class Row:
    """One figure of one remedy.

    Attributes:
        remedy: its name; "none" for the retriever as it is.
        name: of the figure.
        k: cut-off, None where it has none.
        label: style or class that it is about; empty for a figure over all.
        value: the figure.
        low: lower end of its interval, NaN where there is none.
        high: upper end.
        count: queries, words or pictures behind it.
        change: less that of "none"; NaN for "none" itself.
        change_low: lower end of the interval of the change, on the same resamples; NaN where there is none.
        change_high: upper end.
        note: conventions and flags.
    """

    remedy: str
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

    @classmethod
    def of(cls, remedy: str, figure: Figure, change: Figure | None) -> Row:
        """Put a figure beside its change."""
        moved = (math.nan,) * 3 if change is None else (change.value, change.low, change.high)
        return cls(
            remedy, figure.name, figure.k, figure.label or "", figure.value, figure.low, figure.high, figure.count,
            *moved, figure.note,
        )  # fmt: skip


@dataclass(frozen=True)
class TextComparison:
    """Remedies side by side.

    Attributes:
        inputs: what was compared on, by name.
        options: the choices, by name.
        counts: pictures and words on either side, by name.
        fitted: how every remedy was fitted, by name.
        skipped: why a remedy was not, by name.
        rows: all figures.
    """

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

    def find(self, remedy: str, name: str, k: int | None = None) -> Row | None:
        """Look a figure over all up."""
        for row in self.rows:
            if (row.remedy, row.name, row.k, row.label) == (remedy, name, k, ""):
                return row
        return None

    def cost(self, remedy: str) -> float:
        """The most that R@1 of ordinary pairs falls, in either direction, in points; NaN where it is not known."""
        falls = [-100.0 * row.change for name in CLEAN if (row := self.find(remedy, name, 1)) is not None]
        return max(falls, default=math.nan)

    def best(self, tolerance: float) -> Row | None:
        """The net win share of the remedy that lowers it most among those that cost at most so many points of R@1."""
        rows = [self.find(remedy, NET) for remedy in self.remedies if remedy != NONE]
        able = [row for row in rows if row is not None and row.change < 0 and self.cost(row.remedy) <= tolerance]
        return min(able, key=lambda row: row.value, default=None)

    def document(self) -> dict[str, Any]:
        """The comparison as plain values; what is undefined is null."""
        return {
            "comparison": "remedies against reading",
            "inputs": json_value(dict(self.inputs)),
            "options": json_value(dict(self.options)),
            "counts": json_value(dict(self.counts)),
            "fitted": json_value(dict(self.fitted)),
            "skipped": dict(self.skipped),
            "figures": [json_value(row) for row in self.rows],
        }


def write_comparison(comparison: TextComparison, folder: Path) -> None:
    """Write ``comparison.json`` and ``comparison.parquet`` into a folder; both appear when they are whole.

    Raises:
        RunError: where a file cannot be written.
    """
    write_json(folder / "comparison.json", comparison.document())
    with table_file(folder / "comparison.parquet", _SCHEMA) as add:
        add(pa.Table.from_pylist([asdict(row) for row in comparison.rows], schema=_SCHEMA))


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("remedy", "name", "label", "note")),
        *((name, pa.int64()) for name in ("k", "count")),
        *((name, pa.float64()) for name in ("value", "low", "high", "change", "change_low", "change_high")),
    ]
)
