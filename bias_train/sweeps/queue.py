"""What Slurm says of a sweep's array tasks: asked, never remembered."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bias_train.sweeps.errors import SweepError
from bias_train.sweeps.manifest import load_all

DEFAULT_MAX_ARRAY = 1001  # Slurm's own, where nobody has set another
_RUNNING = {"RUNNING", "CONFIGURING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
_WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Task:
    """An array task that is in the queue.

    Attributes:
        id: such as ``12_3``.
        state: Slurm's word for it.
        nodes: where it runs, in Slurm's notation.
        reason: why it waits.
    """

    id: str
    state: str
    nodes: str = ""
    reason: str = ""

    @property
    def running(self) -> bool:
        """Whether it has nodes and is not ending."""
        return self.state in _RUNNING

    @property
    def waiting(self) -> bool:
        """Whether it waits for nodes."""
        return self.state in _WAITING


@dataclass(frozen=True)
class CellJobs:
    """The tasks that were submitted for one cell.

    Attributes:
        submitted: ids of all of them, oldest first.
        live: those that are in the queue: what runs first, then what waits.
    """

    submitted: tuple[str, ...] = ()
    live: tuple[Task, ...] = ()


def has_slurm() -> bool:
    """Whether Slurm's commands are on this machine."""
    return shutil.which("squeue") is not None


def cell_jobs(root: Path) -> dict[str, CellJobs]:
    """Look up which tasks were submitted for each cell of a sweep, and which of them are in the queue.

    Args:
        root: the sweep's folder.

    Returns:
        By cell id; a cell that was never submitted is not there.

    Raises:
        SweepError: with Slurm's words, if it does not answer.
    """
    submitted: dict[str, list[str]] = {}
    arrays: set[str] = set()
    for manifest in load_all(root):
        if manifest.job is not None:
            arrays.add(manifest.job)
            for index, entry in enumerate(manifest.entries):
                submitted.setdefault(entry.id, []).append(f"{manifest.job}_{index}")
    live = queue(sorted(arrays)) if arrays else {}
    return {
        cell: CellJobs(
            tuple(tasks),
            tuple(sorted((live[task] for task in tasks if task in live), key=lambda task: not task.running)),
        )
        for cell, tasks in submitted.items()
    }


def queue(arrays: Sequence[str]) -> dict[str, Task]:
    """List the tasks of some arrays that run or wait, by id.

    Raises:
        SweepError: with Slurm's words, if it does not answer.
    """
    command = ["squeue", "--noheader", "--array", "--jobs", ",".join(arrays), "--format", "%i|%T|%N|%r"]
    said = ask(command, accept="Invalid job id")  # what one finished job is called once Slurm has forgotten it
    tasks = {}
    for line in said.splitlines():
        identity, state, nodes, reason = (*line.strip().split("|"), "", "", "")[:4]
        task = Task(identity, state, nodes.strip(), "" if reason == "None" else reason)
        if task.running or task.waiting:
            tasks[identity] = task
    return tasks


def max_array_size() -> int:
    """The cluster's limit on an array's size: tasks are numbered from 0, below it.

    Raises:
        SweepError: with Slurm's words, if it does not answer.
    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]), re.MULTILINE)
    size = int(found.group(1)) if found else DEFAULT_MAX_ARRAY
    if size < 1:
        raise SweepError("this cluster allows no job arrays (MaxArraySize = 0); use `bias-train sweep run` in a job")
    return size


def ask(command: Sequence[str], *, accept: str | None = None) -> str:
    """Run one of Slurm's commands and return what it prints; nothing where it fails with ``accept`` in its message.

    Raises:
        SweepError: with the command's own words, if it fails or is missing.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
    except FileNotFoundError as error:
        raise SweepError(
            f"{command[0]} is not on this machine: submit where Slurm's commands are, or use `bias-train sweep run`"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SweepError(f"{command[0]} has not answered for {_TIMEOUT_SECONDS} s; try again later") from error
    if done.returncode:
        if accept is not None and accept in done.stderr:
            return ""
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SweepError(f"{command[0]} refused: {words}")
    return done.stdout


def ranges(numbers: Iterable[int]) -> str:
    """Spell array indices as Slurm does.

    Example:
        >>> ranges([0, 1, 2, 5, 7, 8])
        '0-2,5,7-8'
    """
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
