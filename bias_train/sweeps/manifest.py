"""What one submission's array trains: a file of its own, written before the array is submitted and never shared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bias_train.files import write_json
from bias_train.sweeps.cells import Cell
from bias_train.sweeps.errors import SweepError
from bias_train.sweeps.files import read_json

MANIFEST_VERSION = 1
FOLDER = "submissions"


@dataclass(frozen=True)
class Entry:
    """One array task's cell.

    Attributes:
        folder: its run folder.
        document: what its ``cell.json`` holds, with the arguments of ``bias-train fit``.
    """

    folder: Path
    document: dict[str, Any]

    @property
    def id(self) -> str:
        """The cell's id."""
        return str(self.document["id"])


@dataclass(frozen=True)
class Manifest:
    """One array of a submission.

    Attributes:
        file: where it lies.
        sweep: the sweep's name.
        entries: by array index.
        retry_failed: whether failed cells are started anew.
        job: the array's job id; None until it is submitted.
    """

    file: Path
    sweep: str
    entries: tuple[Entry, ...]
    retry_failed: bool = False
    job: str | None = None

    def task(self, index: int) -> str | None:
        """The id under which Slurm knows a cell's task, such as ``12_3``; None until the array is submitted."""
        return None if self.job is None else f"{self.job}_{index}"

    def submitted(self, job: str) -> Manifest:
        """Return the manifest with its job id."""
        return replace(self, job=job)

    def save(self) -> None:
        """Write the manifest atomically."""
        cells = [{"folder": str(entry.folder), **entry.document} for entry in self.entries]
        document = {"version": MANIFEST_VERSION, "sweep": self.sweep, "job": self.job}
        write_json(self.file, {**document, "retry_failed": self.retry_failed, "cells": cells})

    @classmethod
    def load(cls, file: Path) -> Manifest:
        """Read a manifest.

        Raises:
            SweepError: if it is missing, cut short or of another version.
        """
        document = read_json(file)
        if not document:
            raise SweepError(f"{file}: no such manifest, or not a whole one; `bias-train sweep submit` writes them")
        if document.get("version") != MANIFEST_VERSION:
            raise SweepError(
                f"{file}: version {document.get('version')}, but this bias-train reads {MANIFEST_VERSION}; submit again"
            )
        cells = [dict(cell) for cell in document["cells"]]
        return cls(
            file=file,
            sweep=document["sweep"],
            entries=tuple(Entry(Path(cell.pop("folder")), cell) for cell in cells),
            retry_failed=bool(document.get("retry_failed")),
            job=document.get("job"),
        )


def draft(root: Path, sweep: str, arrays: Sequence[Sequence[Cell]], *, retry_failed: bool = False) -> list[Manifest]:
    """Name a manifest for each array, without writing anything; names are free, and sort by time."""
    folder = root / FOLDER
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    taken = {path.name for path in folder.glob("*.json")}
    numbers = (number for number in range(1, 10**6) if f"{stamp}-{number:03}.json" not in taken)
    return [
        Manifest(
            file=folder / f"{stamp}-{next(numbers):03}.json",
            sweep=sweep,
            entries=tuple(Entry(cell.folder, cell.document()) for cell in cells),
            retry_failed=retry_failed,
        )
        for cells in arrays
    ]


def load_all(root: Path) -> list[Manifest]:
    """Read a sweep's manifests, oldest first; what cannot be read is left out, since readers only look on."""
    manifests = []
    for file in sorted((root / FOLDER).glob("*.json")):
        try:
            manifests.append(Manifest.load(file))
        except (SweepError, KeyError, TypeError):
            continue
    return manifests
