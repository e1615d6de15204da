"""Evaluated figures as rows of ``records.csv``: what callbacks write and reports read."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bias_train.metrics.figure import Figure

SOCIAL = "social"
OBJECT = "object"
TEXT = "text"


@dataclass(frozen=True)
class Record:
    """One evaluated figure and the conditions that it holds under.

    Attributes:
        axis: "source", "retrieval", "social", "object" or "text".
        name: of the metric, such as "relative_delta_R".
        k: cut-off, None where the metric has none.
        ratio: share of generated pictures in the gallery.
        generator: which generator's pictures the gallery holds; "all" for every one.
        label: class name for a figure of one class, else empty; on the social axis the attribute by which people are
            grouped, on the object axis an object or a pair of them, on the text axis a style of rendered words.
        step: optimiser step that it was measured at.
        value: the figure.
        low: lower end of its 95 % interval, NaN where none was computed.
        high: upper end.
        count: what it rests on (queries, pairs or pictures).
        mode: "clean" or "paper".
        note: conventions and warnings.
    """

    axis: str
    name: str
    k: int | None
    ratio: float
    generator: str
    label: str
    step: int
    value: float
    low: float
    high: float
    count: int
    mode: str
    note: str

    @property
    def key(self) -> str:
        """The name under which loggers get it: ``bias/<axis>/<metric>@k/ratio=r[/generator=g]``.

        On the social axis, ``bias/social/<metric>@k/attribute=race_x_gender``; on the object and text axes, whose
        galleries have no generated pictures, ``bias/object/<metric>@k`` and ``bias/text/<metric>@k``.
        """
        root = "retrieval" if self.axis == "retrieval" else f"bias/{self.axis}"
        metric = self.name if self.k is None else f"{self.name}@{self.k}"
        if self.axis == SOCIAL:
            return f"{root}/{metric}/attribute={self.label.replace(' ', '_')}"
        if self.axis in (OBJECT, TEXT):
            return f"{root}/{metric}" + (f"/label={self.label}" if self.label else "")
        generator = "" if self.generator == "all" else f"/generator={self.generator}"
        label = f"/label={self.label}" if self.label else ""
        return f"{root}/{metric}/ratio={self.ratio:g}{generator}{label}"

    @property
    def is_scalar(self) -> bool:
        """Whether it goes to the loggers: figures of one class are too many."""
        return not self.label or self.axis == SOCIAL


def record(
    figure: Figure, *, axis: str, ratio: float, generator: str = "all", step: int = 0, mode: str = "clean"
) -> Record:
    """Put a figure under its conditions."""
    return Record(
        axis, figure.name, figure.k, ratio, generator, getattr(figure, "label", None) or "", step,
        figure.value, figure.low, figure.high, figure.count, mode, figure.note,
    )  # fmt: skip


COLUMNS = tuple(field.name for field in fields(Record))


class RecordsFile:
    """``records.csv``, appended row by row so that a killed run keeps what it has measured."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, records: Iterable[Record]) -> None:
        """Add rows; writes the header first where the file is new."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists() or self.path.stat().st_size == 0
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            for entry in records:
                writer.writerow({name: "" if value is None else value for name, value in asdict(entry).items()})
            file.flush()
            os.fsync(file.fileno())

    def drop_after(self, step: int) -> None:
        """Remove rows measured after a step, which a run resumed from that step will measure again."""
        keep_rows_up_to(self.path, step)


def keep_rows_up_to(path: Path, step: int) -> None:
    """Rewrite a CSV file without the rows whose ``step`` is above the given one, atomically."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        rows = [row for row in reader if row.get("step", "").strip().isdigit() and int(row["step"]) <= step]
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)
