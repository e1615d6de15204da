"""What an audit of object bias has found, and its machine-readable forms."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bias_train.audit.object.figure_file import write_figures
from bias_train.audit.outcome import Guardrail
from bias_train.files import json_value, write_text
from bias_train.metrics.figure import Figure

DEFINITION = "ODmAP-style (bias-train definition)"


@dataclass(frozen=True)
class ObjectOutcome:
    """An audit of object bias.

    Attributes:
        title: heading of the outputs.
        inputs: what was audited, by name.
        options: the choices, by name.
        conventions: what a reader needs to compare a figure.
        counts: pictures, queries and what was left out, by name.
        figures: every figure, its direction in its name; those of a category or a pair have it as label.
        changes: this retriever minus the other one, on the same resamples; else empty.
        warnings: guardrails that spoke up.
    """

    title: str
    inputs: dict[str, Any]
    options: dict[str, Any]
    conventions: dict[str, Any]
    counts: dict[str, int]
    figures: tuple[Figure, ...]
    changes: tuple[Figure, ...]
    warnings: tuple[Guardrail, ...]

    @property
    def k(self) -> int:
        """The cut-off that leads."""
        return int(self.options["ks"][0])

    @property
    def directions(self) -> tuple[str, ...]:
        """Those that were asked: "i2t" and, where captions asked too, "t2i"."""
        return tuple(direction for direction in ("i2t", "t2i") if self.find(f"{direction}_DG", self.k) is not None)

    def find(self, name: str, k: int | None, *, label: str | None = None, change: bool = False) -> Figure | None:
        """Look a figure up."""
        wanted = (name, k, label)
        for figure in self.changes if change else self.figures:
            if (figure.name, figure.k, figure.label) == wanted:
                return figure
        return None

    def labels(self, direction: str, *, pairs: bool) -> list[str]:
        """Categories, or pairs, that have figures of their own, those with most queries first."""
        own = [
            figure for figure in self.figures
            if figure.label is not None and (figure.name, figure.k) == (f"{direction}_DG", self.k)
            and (" | " in figure.label) == pairs
        ]  # fmt: skip
        return [str(figure.label) for figure in sorted(own, key=lambda figure: -figure.count)]

    def document(self) -> dict[str, Any]:
        """The audit as plain values; what is undefined is null, and its note says so."""
        return {
            "audit": "object",
            "definition": DEFINITION,
            "title": self.title,
            "inputs": self.inputs,
            "options": json_value(self.options),
            "conventions": json_value(self.conventions),
            "counts": self.counts,
            "warnings": [asdict(warning) for warning in self.warnings],
            "figures": [json_value(figure) for figure in self.figures],
            "changes": [json_value(figure) for figure in self.changes],
        }


def write_object(outcome: ObjectOutcome, folder: Path) -> None:
    """Write ``audit.json`` and ``figures.parquet`` into a folder, each whole or not at all.

    Raises:
        RunError: where a file cannot be written.
    """
    write_text(folder / "audit.json", json.dumps(outcome.document(), indent=1, allow_nan=False) + "\n")
    write_figures(folder / "figures.parquet", outcome.figures, outcome.changes)
