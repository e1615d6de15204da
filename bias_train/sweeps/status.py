"""What became of each cell, read from the run folders alone: any number of processes may look at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bias_train.files import write_json
from bias_train.sweeps.cells import Cell
from bias_train.sweeps.claim import LOCK, is_claimed
from bias_train.sweeps.files import last_lines, read_json

State = Literal["pending", "running", "interrupted", "done", "failed"]
STATUS = "status.json"
LOG = "log.txt"


@dataclass(frozen=True)
class CellStatus:
    """A cell's state.

    Attributes:
        state: ``pending`` (never started), ``running`` (a living process has it), ``interrupted`` (started, neither
            ended nor alive: the next ``sweep run`` goes on with it), ``done`` or ``failed``.
        step: optimiser steps done, or None.
        max_steps: steps in all, or None.
        rate: steps a second since the start of this attempt, or None.
        error: what the training said when it failed.
        last_line: the log's last line.
    """

    state: State
    step: int | None = None
    max_steps: int | None = None
    rate: float | None = None
    error: str = ""
    last_line: str = ""

    @property
    def fraction(self) -> float:
        """The part of the training that is done, in [0, 1]."""
        if self.state == "done":
            return 1.0
        return min(1.0, (self.step or 0) / self.max_steps) if self.max_steps else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def read_status(folder: Path) -> CellStatus:
    """Read a run folder's state."""
    document = read_json(folder / STATUS)
    claimed = is_claimed(folder)
    recorded = document.get("state")
    state: State
    if claimed:
        # Before the training has written anything, or while it tries again, an old state may still stand there.
        state = "running"
    elif recorded in ("done", "failed") or (recorded == "running" and not (folder / LOCK).exists()):
        state = recorded  # a training outside any sweep claims nothing, so its word is all there is
    elif recorded is not None or (folder / LOG).exists():
        state = "interrupted"
    else:
        state = "pending"
    step, max_steps = _whole(document.get("step")), _whole(document.get("max_steps"))
    return CellStatus(
        state=state,
        step=step,
        max_steps=max_steps,
        rate=_rate(step, document) if state == "running" and recorded == "running" else None,
        error=str(document.get("error") or "") if state == "failed" else "",
        last_line=next(iter(last_lines(folder / LOG, 1)), "") if state in ("failed", "interrupted") else "",
    )


def read_statuses(cells: Sequence[Cell]) -> list[CellStatus]:
    """Read every cell's state, in the cells' order."""
    return [read_status(cell.folder) for cell in cells]


def record_failure(folder: Path, error: str) -> None:
    """Write into a run folder that its training failed, for a training that could not do so itself."""
    document = read_json(folder / STATUS)
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / STATUS, {**document, "state": "failed", "error": error, "ended": ended})


def record_interruption(folder: Path) -> None:
    """Note that a training was ended from outside, whatever it made of that: it is no failure, and can go on.

    A run folder that says ``running`` without a living process is how an interruption reads, also after a power cut.
    """
    document = read_json(folder / STATUS)
    if document.get("state") == "failed":
        write_json(folder / STATUS, {**document, "state": "running", "error": ""})


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rate(step: int | None, document: dict[str, Any]) -> float | None:
    started = _seconds(document.get("started"))
    if not step or started is None:
        return None
    elapsed = time.time() - started
    return step / elapsed if elapsed > 0 else None


def _seconds(value: Any) -> float | None:
    """Read a time given as seconds since the epoch or in ISO 8601 (without a zone: local time)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError):
        return None
