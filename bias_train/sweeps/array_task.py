"""One array task of a submitted sweep: trains its cell, and decides what becomes of a training that ended.

Runs as the job's batch process and holds the cell's claim for as long as it lives; the training itself is the step that
it launches, on one node or many.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from bias_train.files import write_json
from bias_train.slurm import job_id, requeue
from bias_train.sweeps.cells import current_fingerprint
from bias_train.sweeps.claim import Claim
from bias_train.sweeps.errors import SweepError
from bias_train.sweeps.files import empty, last_lines, read_json
from bias_train.sweeps.manifest import Entry, Manifest
from bias_train.sweeps.status import JOB, LOG, STATUS, record_failure, record_interruption

MAX_RESTARTS = 10
RESUME = "--resume=auto"
# A kill in each of the first attempts may be chance; later ones go on only if they get any further.
_FREE_RESTARTS = 3
_REASON_LINES = 40
_BEGIN = "--- started "
_LAUNCHER = ("srun: ", "slurmstepd")
_EXIT = re.compile(r"srun: error: \S+: tasks? [^:]+: (?:Exited with exit code (\d+)|\S+)")
_STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGUSR1}


def run_task(
    manifest: Manifest, index: int, launcher: Sequence[str] = ("bias-train",), *, max_restarts: int = MAX_RESTARTS
) -> int:
    """Train the cell of an array task.

    A cell that is done, that another process has, or that has failed (unless the submission starts failed ones anew)
    is left alone.

    Args:
        manifest: the submission.
        index: the task's number.
        launcher: the command that starts ``bias-train``, by ``srun`` on a cluster; ``fit`` and the cell's arguments
            are added.
        max_restarts: how often a task that was killed without a word is put back into the queue.

    Returns:
        0 if the cell is done or was left alone; 1 if its training failed or was given up; 138 or 143 if it was stopped
        with a checkpoint, which is when the training or Slurm itself has put the task back.

    Raises:
        SweepError: if the manifest has no such index, or the cell's definition has changed since the submission.
    """
    if not 0 <= index < len(manifest.entries):
        raise SweepError(f"{manifest.file} has no cell {index}; it has 0 to {len(manifest.entries) - 1}")
    entry = manifest.entries[index]
    claim = Claim.take(entry.folder)
    if claim is None:
        return _say(entry, "left alone: another process trains it")
    try:
        # With the claim held, none of read_status here: it would look at the lock, and by that drop it.
        job = job_id()
        mine = job is not None and read_json(entry.folder / JOB).get("job") == job
        state = read_json(entry.folder / STATUS).get("state")
        if state == "done":
            return _say(entry, "left alone: it is done")
        if state == "failed" and not mine and not manifest.retry_failed:
            return _say(entry, "left alone: it has failed (`sweep submit --retry-failed` starts it anew)")
        if current_fingerprint(entry.document) != entry.document["fingerprint"]:
            _note(entry.folder, "not trained: its configuration files have changed since the submission; submit again")
            raise SweepError(f"{entry.id}: its configuration files have changed since the submission; submit again")
        if state == "failed" and not mine:
            empty(entry.folder)
        return _train(entry, [*launcher, "fit", *entry.document["argv"], RESUME, *_placement()], job, max_restarts)
    finally:
        claim.release()


def _train(entry: Entry, command: Sequence[str], job: str | None, max_restarts: int) -> int:
    folder = entry.folder
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    write_json(folder / "cell.json", entry.document)
    write_json(folder / JOB, {"job": job, "restarts": restarts, "host": platform.node()})
    before = read_json(folder / STATUS)
    checkpoints = _checkpoints(folder)
    descriptor = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    where = f"job {job}, restart {restarts}, " if job else ""
    now = datetime.now().isoformat(timespec="seconds")
    os.write(descriptor, f"{_BEGIN}{now}, {where}{platform.node()}\n".encode())
    _say(entry, f"begins, restart {restarts}")
    try:
        code, ending = _launch(command, descriptor)
    finally:
        os.close(descriptor)
    after = read_json(folder / STATUS)
    state = after.get("state") if after != before else None  # what an earlier attempt said does not count

    if code == 0 and state == "done":
        return _say(entry, "done")
    said = _lines_of_attempt(folder / LOG)
    code = _first_exit(said) or code
    if code in _STOPPED and state == "preempted":
        by = "as Slurm ends the job" if ending else "on a signal"
        return _say(entry, f"stopped {by}, with a checkpoint at step {after.get('step')}", code)
    if ending:  # Slurm has put the task back, or wants it gone; what the training made of that does not count
        record_interruption(folder)
        return _say(entry, "stopped as Slurm ends the job, before it could write a checkpoint", code)
    lines = [line for line in said if not line.startswith(_LAUNCHER)]
    # A launcher that could not start anything fails with 1 too.
    if code in (0, 2) or (code == 1 and lines):
        if state != "failed" or not after.get("error"):
            record_failure(folder, _reason(code, lines, state))
        return _say(entry, f"failed: {read_json(folder / STATUS).get('error')} (log: {folder / LOG})", 1)

    # Whatever the others of several processes made of one's end, it was not the training that failed.
    record_interruption(folder)
    farther = bool(_checkpoints(folder) - checkpoints)
    if restarts < max_restarts and (restarts < _FREE_RESTARTS or farther):
        _note(folder, f"the training ended with exit code {code}, without a word; back into the queue")
        _say(entry, f"exit code {code}; back into the queue (restart {restarts + 1} of at most {max_restarts})", 1)
        if requeue():
            signal.pause()  # until Slurm ends this process: an exit now could still be taken for the task's result
        return 1
    _note(folder, f"the training ended with exit code {code}, without a word; given up after {restarts} restarts")
    return _say(entry, f"exit code {code}; given up after {restarts} restarts", 1)


def _launch(command: Sequence[str], log: int) -> tuple[int, bool]:
    """Run the training; what Slurm sends to this process too is the training's to hear.

    Returns:
        Its exit code, and whether this process was asked to end meanwhile.
    """
    process: subprocess.Popen[bytes] | None = None
    in_slurm = "SLURM_JOB_ID" in os.environ
    ending = False

    def hear(signum: int, frame: FrameType | None) -> None:
        nonlocal ending
        ending = ending or signum == signal.SIGTERM
        # Slurm signals the step itself, and srun would kill it at once on SIGTERM.
        if not in_slurm and process is not None:
            process.send_signal(signum)

    before: dict[int, Any] = {signum: signal.signal(signum, hear) for signum in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        # A session of its own keeps signals to this process's group from the launcher.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        code = process.wait()
    except FileNotFoundError as error:
        raise SweepError(f"{command[0]} is not on the PATH; correct `environment` in the job script") from error
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return (code if code >= 0 else 128 - code), ending


def _placement() -> list[str]:
    """Options by which the training knows the processes that srun starts, one for each GPU."""
    nodes, tasks = os.environ.get("SLURM_JOB_NUM_NODES"), os.environ.get("SLURM_NTASKS_PER_NODE")
    return [f"--trainer.num_nodes={nodes}", f"--trainer.devices={tasks}"] if nodes and tasks else []


def _checkpoints(folder: Path) -> set[tuple[str, int]]:
    found = set()
    for path in (folder / "checkpoints").glob("*.ckpt"):
        try:
            found.add((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:  # replaced by a newer one meanwhile
            continue
    return found


def _lines_of_attempt(log: Path) -> list[str]:
    lines = last_lines(log, _REASON_LINES)
    begins = [number for number, line in enumerate(lines) if line.startswith(_BEGIN)]
    return lines[begins[-1] + 1 :] if begins else lines


def _first_exit(lines: Sequence[str]) -> int | None:
    """The exit code of the first of several processes to fail; srun ends the others, and returns the highest code.

    Example:
        >>> _first_exit(["srun: error: n2: task 1: Exited with exit code 1", "srun: error: n1: task 0: Terminated"])
        1
        >>> _first_exit(["srun: error: n2: task 1: Killed", "srun: error: n1: task 0: Exited with exit code 1"])
    """
    for line in lines:
        found = _EXIT.match(line)
        if found:
            return int(found.group(1)) if found.group(1) else None
    return None


def _reason(code: int, lines: Sequence[str], state: Any) -> str:
    if code == 0:
        return f"the training returned but left its state at {state!r} instead of 'done'"
    said = [line.split("error: ", 1)[1] for line in lines if line.startswith(("error: ", "bias-train fit: error: "))]
    return said[-1] if said else (lines[-1] if lines else f"exit code {code} and an empty log")


def _note(folder: Path, line: str) -> None:
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(f"--- {line}\n")


def _say(entry: Entry, what: str, code: int = 0) -> int:
    print(f"{entry.id}: {what}", flush=True)
    return code
