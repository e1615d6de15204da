"""``metrics.csv``: every logged scalar, one row a step, kept whole over restarts.

Lightning's own CSV logger deletes the file of an earlier start, and with it the curve before a preemption.
"""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from bias_train.records import keep_rows_up_to


class CSVMetrics(Logger):
    """Writes ``metrics.csv`` into the run folder.

    Args:
        folder: the run folder.
        flush_every: rows between two writes; a killed run loses at most so many.
    """

    def __init__(self, folder: str | Path, flush_every: int = 20) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.flush_every = flush_every
        self._rows: dict[int, dict[str, Any]] = {}
        self._pending = 0

    @property
    def name(self) -> str:
        """Return the logger's name."""
        return "csv"

    @property
    def version(self) -> str:
        """Return nothing: a run folder holds one run."""
        return ""

    def drop_after(self, step: int) -> None:
        """Load the rows of earlier starts, up to the step that this one goes on from."""
        keep_rows_up_to(self.path, step)
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    self._rows[int(row["step"])] = {k: v for k, v in row.items() if v not in ("", None)}

    def rows(self) -> list[tuple[int, dict[str, float]]]:
        """Return every row, as its step and its scalars, in the order of steps."""
        return [
            (step, {name: float(value) for name, value in self._rows[step].items() if name != "step"})
            for step in sorted(self._rows)
        ]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add scalars to a step's row."""
        place = 0 if step is None else step
        self._rows.setdefault(place, {"step": place}).update(metrics)
        self._pending += 1
        if self._pending >= self.flush_every:
            self.save()

    @rank_zero_only
    def expect(self, metrics: Mapping[str, float], step: int) -> None:
        """Note ahead of time what is about to be logged for a step, in case the run is killed before it is."""
        row = self._rows.setdefault(step, {"step": step})
        row.update({name: value for name, value in metrics.items() if name not in row})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder holds the resolved configuration."""

    @rank_zero_only
    def save(self) -> None:
        """Write all rows, atomically."""
        if not self._rows:
            return
        self._pending = 0
        names = sorted({name for row in self._rows.values() for name in row} - {"step"})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", *names])
            writer.writeheader()
            writer.writerows(self._rows[step] for step in sorted(self._rows))
        partial.replace(self.path)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()
