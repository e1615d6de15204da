"""What an audit has found, and its two machine-readable forms."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bias_train.files import json_value, write_text
from bias_train.significance import Equivalence
from bias_train.table_file import table_file


@dataclass(frozen=True)
class Row:
    """One figure of one cell.

    Attributes:
        group: what kind of cell: "headline", "ratio", "generator", "caption_length" or "similarity".
        cell: its name.
        ratio: generated share of the gallery.
        generator: whose generated pictures it holds; "all" for every generator's.
        mode: "clean" or "paper".
        name: of the figure.
        k: cut-off, None where it has none.
        label: class, empty for a figure over all of them.
        value: the figure.
        low: lower end of its interval, NaN where there is none.
        high: upper end.
        count: queries behind it.
        note: conventions and flags.
        p: of the label-swap test, None where it is not about this figure.
        p_adjusted: corrected for the tests of this figure in all cells.
    """

    group: str
    cell: str
    ratio: float
    generator: str
    mode: str
    name: str
    k: int | None
    label: str
    value: float
    low: float
    high: float
    count: int
    note: str
    p: float | None = None
    p_adjusted: float | None = None

    @property
    def key(self) -> str:
        """The figure's name with its cut-off."""
        return self.name if self.k is None else f"{self.name}@{self.k}"


@dataclass(frozen=True)
class EquivalenceRow:
    """One equivalence test, in points (percent) of R@k.

    Attributes:
        question: what is tested, for readers.
        group: of the cell.
        cell: its name.
        test: its outcome.
    """

    question: str
    group: str
    cell: str
    test: Equivalence


@dataclass(frozen=True)
class Guardrail:
    """A warning: what to know before a figure is quoted.

    Attributes:
        code: short and stable, for programs.
        text: one sentence for readers.
    """

    code: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """An audit of source bias.

    Attributes:
        title: heading of the outputs.
        inputs: what was audited, by name.
        options: the choices, by name.
        counts: pictures, queries and pairs, by name.
        rows: every figure; the headline's come first.
        changes: against another retriever, this one minus that one on the same resamples; else empty.
        equivalences: equivalence tests.
        warnings: guardrails that spoke up.
        tests: label-swap tests made.
        headline: name and cut-off of the figure that leads.
    """

    title: str
    inputs: dict[str, Any]
    options: dict[str, Any]
    counts: dict[str, int]
    rows: tuple[Row, ...]
    changes: tuple[Row, ...]
    equivalences: tuple[EquivalenceRow, ...]
    warnings: tuple[Guardrail, ...]
    tests: int
    headline: tuple[str, int]

    def cells(self) -> list[tuple[str, str, str]]:
        """(group, cell, mode) in order, each once."""
        return list(dict.fromkeys((row.group, row.cell, row.mode) for row in self.rows))

    def find(
        self, name: str, k: int | None = None, *, group: str = "headline", cell: str | None = None,
        mode: str = "clean", change: bool = False,
    ) -> Row | None:  # fmt: skip
        """Look a figure up; the first of the group's cells where none is named."""
        wanted = (name, k, group, mode)
        for row in self.changes if change else self.rows:
            if (row.name, row.k, row.group, row.mode) == wanted and not row.label and cell in (None, row.cell):
                return row
        return None

    def document(self) -> dict[str, Any]:
        """The audit as plain values; what is undefined or infinite is null, and its note says so."""
        return {
            "audit": "source",
            "title": self.title,
            "inputs": self.inputs,
            "headline": "{}@{}".format(*self.headline),
            "options": self.options,
            "counts": self.counts,
            "warnings": [asdict(warning) for warning in self.warnings],
            "figures": [json_value(row) for row in self.rows],
            "changes": [json_value(row) for row in self.changes],
            "equivalence": [
                {"question": row.question, "group": row.group, "cell": row.cell} | json_value(row.test)
                for row in self.equivalences
            ],
            "tests": self.tests,
        }


def write_outcome(outcome: Outcome, folder: Path) -> None:
    """Write ``audit.json`` and ``figures.parquet`` into a folder; both appear when they are whole.

    Raises:
        RunError: where a file cannot be written.
    """
    write_text(folder / "audit.json", json.dumps(outcome.document(), indent=1, allow_nan=False) + "\n")
    with table_file(folder / "figures.parquet", _SCHEMA) as add:
        add(_table(outcome.rows, change=False))
        if outcome.changes:
            add(_table(outcome.changes, change=True))


_SCHEMA = pa.schema(
    [
        ("change", pa.bool_()),
        *((name, pa.string()) for name in ("group", "cell", "generator", "mode", "name", "label", "note")),
        *((name, pa.int64()) for name in ("k", "count")),
        *((name, pa.float64()) for name in ("ratio", "value", "low", "high", "p", "p_adjusted")),
    ]
)


def _table(rows: Iterable[Row], *, change: bool) -> pa.Table:
    return pa.Table.from_pylist([{"change": change} | asdict(row) for row in rows], schema=_SCHEMA)
