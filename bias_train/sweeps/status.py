"""What became of each cell, by its run folder and by Slurm's queue: any number of processes may look at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bias_train.files import write_json
from bias_train.sweeps.cells import Cell
from bias_train.sweeps.claim import LOCK, is_claimed
from bias_train.sweeps.files import last_lines, read_json
from bias_train.sweeps.queue import CellJobs

State = Literal["pending", "running", "interrupted", "preempted", "lost", "done", "failed"]
STATUS = "status.json"
LOG = "log.txt"
JOB = "job.json"  # which Slurm task had the cell last
LAST_LINES = 8


@dataclass(frozen=True)
class CellStatus:
    """A cell's state.

    Attributes:
        state: ``pending`` (never started), ``running`` (a living process or job has it), ``interrupted`` (started,
            neither ended nor alive: whoever trains it next goes on with it), ``preempted`` (likewise, but it was asked
            to stop and did so with a checkpoint), ``lost`` (submitted, but its job has gone without starting it),
            ``done`` or ``failed``.
        step: optimiser steps done, or None.
        max_steps: steps in all, or None.
        rate: steps a second since the start of this attempt, or None.
        error: what the training said when it failed.
        last_line: the log's last line.
        log: the log's last lines, of a cell that failed.
        job: the Slurm task that has or awaits the cell, such as ``12_3``; of a lost cell, the one that has gone.
        nodes: where that task runs.
        reason: why it waits, in Slurm's word; empty unless it does.
    """

    state: State
    step: int | None = None
    max_steps: int | None = None
    rate: float | None = None
    error: str = ""
    last_line: str = ""
    log: tuple[str, ...] = ()
    job: str = ""
    nodes: str = ""
    reason: str = ""

    @property
    def fraction(self) -> float:
        """The part of the training that is done, in [0, 1]."""
        if self.state == "done":
            return 1.0
        return min(1.0, (self.step or 0) / self.max_steps) if self.max_steps else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def read_status(folder: Path, jobs: CellJobs | None = None) -> CellStatus:
    """Read a cell's state.

    Args:
        folder: its run folder.
        jobs: what was submitted for it and what of that Slurm has; None knows of no Slurm.
    """
    document = read_json(folder / STATUS)
    jobs = jobs or CellJobs()
    task = jobs.live[0] if jobs.live else None
    state = _state(folder, document.get("state"), jobs)
    if state == "done":
        task = None  # one that waits, or has just come, will find nothing to do
    job = task.id if task is not None else jobs.submitted[-1] if state == "lost" else ""
    step, max_steps = _whole(document.get("step")), _whole(document.get("max_steps"))
    lines = last_lines(folder / LOG, LAST_LINES) if state in ("failed", "interrupted") else []
    return CellStatus(
        state=state,
        step=step,
        max_steps=max_steps,
        rate=_rate(step, document) if state == "running" and document.get("state") == "running" else None,
        error=str(document.get("error") or "") if state == "failed" else "",
        last_line=lines[-1] if lines else "",
        log=tuple(lines) if state == "failed" else (),
        job=job,
        nodes=task.nodes if task is not None and task.running else "",
        reason=(task.reason or task.state) if task is not None and task.waiting else "",
    )


def _state(folder: Path, recorded: Any, jobs: CellJobs) -> State:
    if is_claimed(folder):
        # Before the training has written anything, or while it tries again, an old state may still stand there.
        return "running"
    if recorded == "done":
        return "done"
    task = jobs.live[0] if jobs.live else None
    if (
        task is not None
        and task.running
        and not (recorded in ("failed", "preempted") and read_json(folder / JOB).get("job") == task.id)
    ):
        return "running"  # it is starting, or holds a lock that the file system does not show here
    if recorded == "failed":
        return "failed"
    if recorded == "preempted":
        return "preempted"
    if recorded == "running" and not (folder / LOCK).exists() and not jobs.submitted:
        return "running"  # a training outside any sweep claims nothing, so its word is all there is
    if recorded is not None or (folder / LOG).exists():
        return "interrupted"
    return "lost" if jobs.submitted and task is None else "pending"


def read_statuses(cells: Sequence[Cell], jobs: Mapping[str, CellJobs] | None = None) -> list[CellStatus]:
    """Read every cell's state, in the cells' order.

    Args:
        cells: the cells.
        jobs: what Slurm has of them, by id.
    """
    return [read_status(cell.folder, (jobs or {}).get(cell.id)) for cell in cells]


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
    steps = step - (_whole(document.get("first_step")) or 0)
    return steps / elapsed if elapsed > 0 and steps > 0 else None


def _seconds(value: Any) -> float | None:
    """Read a time given as seconds since the epoch or in ISO 8601 (without a zone: local time)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError):
        return None
