"""What an audit of text spotting has found, and its machine-readable forms."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bias_train.audit.object.figure_file import write_figures
from bias_train.audit.outcome import Guardrail
from bias_train.files import json_value, write_text
from bias_train.metrics.figure import Figure


@dataclass(frozen=True)
class TextOutcome:
    """An audit of text spotting.

    Attributes:
        title: heading of the outputs.
        inputs: what was audited, by name.
        options: the choices, by name.
        conventions: what a reader needs to compare a figure.
        counts: pictures, words and what was left out, by name.
        figures: every figure; those of one style have it as label.
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
    def ks(self) -> tuple[int, ...]:
        """All cut-offs, the leading one first."""
        return tuple(self.options["ks"])

    @property
    def styles(self) -> tuple[str, ...]:
        """Of the rendered words; empty where none were rendered."""
        labels = (figure.label for figure in self.figures if figure.name == "sync")
        return tuple(label for label in labels if label is not None)

    def find(self, name: str, k: int | None = None, *, label: str | None = None, change: bool = False) -> Figure | None:
        """Look a figure up."""
        wanted = (name, k, label)
        for figure in self.changes if change else self.figures:
            if (figure.name, figure.k, figure.label) == wanted:
                return figure
        return None

    def document(self) -> dict[str, Any]:
        """The audit as plain values; what is undefined is null, and its note says so."""
        return {
            "audit": "text",
            "title": self.title,
            "inputs": self.inputs,
            "options": json_value(self.options),
            "conventions": json_value(self.conventions),
            "counts": self.counts,
            "warnings": [asdict(warning) for warning in self.warnings],
            "figures": [json_value(figure) for figure in self.figures],
            "changes": [json_value(figure) for figure in self.changes],
        }


def write_text_audit(outcome: TextOutcome, folder: Path) -> None:
    """Write ``audit.json`` and ``figures.parquet`` into a folder, each whole or not at all.

    Raises:
        RunError: where a file cannot be written.
    """
    write_text(folder / "audit.json", json.dumps(outcome.document(), indent=1, allow_nan=False) + "\n")
    write_figures(folder / "figures.parquet", outcome.figures, outcome.changes)
