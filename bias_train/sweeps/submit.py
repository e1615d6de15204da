"""Sends a sweep's missing cells to Slurm: a manifest and an array for each part that the cluster takes at once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bias_train.sweeps.cells import Cell
from bias_train.sweeps.claim import Claim
from bias_train.sweeps.errors import SweepError
from bias_train.sweeps.manifest import FOLDER, Manifest, draft
from bias_train.sweeps.queue import CellJobs, ask, ranges
from bias_train.sweeps.spec import Sweep
from bias_train.sweeps.status import CellStatus

_LONGEST_CANCEL = 500  # tasks a command, far below any limit on a command's length


@dataclass(frozen=True)
class Array:
    """One array to submit.

    Attributes:
        manifest: its cells.
        command: the command that submits it.
    """

    manifest: Manifest
    command: tuple[str, ...]

    def spell(self) -> str:
        """Return the shell command."""
        return shlex.join(self.command)


def missing(
    cells: Sequence[Cell], statuses: Sequence[CellStatus], jobs: dict[str, CellJobs], *, retry_failed: bool = False
) -> list[Cell]:
    """Choose the cells that nobody trains, nor will: neither done, nor running, nor in the queue.

    Args:
        cells: all cells.
        statuses: their states.
        jobs: what Slurm has of them.
        retry_failed: choose failed ones too.
    """
    left_alone = {"done", "running", *(() if retry_failed else ("failed",))}
    return [
        cell
        for cell, status in zip(cells, statuses, strict=True)
        if status.state not in left_alone and not jobs.get(cell.id, CellJobs()).live
    ]


def plan_arrays(
    sweep: Sweep,
    cells: Sequence[Cell],
    *,
    script: Path,
    max_array: int,
    limit: int | None = None,
    retry_failed: bool = False,
    sbatch: Sequence[str] = (),
) -> list[Array]:
    """Divide cells into arrays, without writing anything.

    Args:
        sweep: the sweep.
        cells: what to train.
        script: the job script.
        max_array: tasks an array may have.
        limit: tasks that may run at once, over all arrays.
        retry_failed: whether failed cells are started anew.
        sbatch: further options of sbatch, which win over the script's.

    Raises:
        SweepError: for a limit that the number of arrays cannot hold.
    """
    if max_array < 1:
        raise SweepError(f"--max-array must be at least 1, got {max_array}")
    if limit is not None and limit < 1:
        raise SweepError(f"--limit must be at least 1, got {limit}")
    parts = [cells[start : start + max_array] for start in range(0, len(cells), max_array)]
    if limit is not None and limit < len(parts):
        raise SweepError(
            f"{len(cells)} cells make {len(parts)} arrays, each of which runs at least one task: --limit {limit} "
            f"cannot be held; use --limit {len(parts)} or more, or submit fewer cells at a time with --only"
        )
    arrays = []
    for number, manifest in enumerate(draft(sweep.root, sweep.name, parts, retry_failed=retry_failed)):
        # Slurm limits an array alone, so the arrays share the limit out.
        most = "" if limit is None else f"%{limit // len(parts) + (number < limit % len(parts))}"
        command = (
            "sbatch",
            "--parsable",
            f"--array=0-{len(manifest.entries) - 1}{most}",
            f"--job-name={sweep.name}",
            f"--output={manifest.file.with_suffix('')}_%a.out",
            *sbatch,
            str(script),
            str(manifest.file),
        )
        arrays.append(Array(manifest, command))
    return arrays


class SubmissionLock:
    """Keeps two submissions of one sweep from choosing the same cells.

    Raises:
        SweepError: on entering, if another one is under way.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._root = sweep.root
        self._claim: Claim | None = None

    def __enter__(self) -> SubmissionLock:
        self._claim = Claim.take(self._root / FOLDER)
        if self._claim is None:
            raise SweepError(f"another `sweep submit` works in {self._root}; try again when it has ended")
        return self

    def __exit__(self, *_: object) -> None:
        if self._claim is not None:
            self._claim.release()


def submit_array(array: Array) -> str:
    """Write the manifest, submit the array, note its job id in the manifest, and return it.

    Raises:
        SweepError: with sbatch's words, if it refuses; the manifest is removed then.
    """
    array.manifest.save()
    try:
        said = ask(array.command)
    except SweepError:
        array.manifest.file.unlink()
        raise
    job = said.strip().split(";")[0]  # on several clusters: ID;CLUSTER
    array.manifest.submitted(job).save()
    return job


def cancel_commands(cells: Sequence[Cell], jobs: dict[str, CellJobs]) -> list[list[str]]:
    """The commands that take cells' tasks out of the queue and end those that run."""
    wanted: dict[str, list[int]] = {}
    for cell in cells:
        for task in jobs.get(cell.id, CellJobs()).live:
            array, _, index = task.id.partition("_")
            wanted.setdefault(array, []).append(int(index))
    return [
        ["scancel", f"{array}_[{ranges(indices[start : start + _LONGEST_CANCEL])}]"]
        for array, indices in wanted.items()
        for start in range(0, len(indices), _LONGEST_CANCEL)
    ]
