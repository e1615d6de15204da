"""Offline W&B runs in run folders: which there are, which are still to be sent, and sending them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bias_train.errors import RunError
from bias_train.tracking.wandb_file import has_ended

QUIET_S = 600.0  # W&B writes system metrics every 15 s: a file without an end that is silent for so long was cut off
_PREFIX = "offline-run-"

Result = Literal["sent", "failed", "running", "waiting"]


@dataclass(frozen=True)
class Part:
    """One offline folder of W&B: what one start of a run has logged.

    Attributes:
        file: the ``.wandb`` file.
        run_dir: the run folder that holds it.
        id: W&B's id of the run, the same for all parts of it.
        started: when it was started, ``YYYYMMDD_HHMMSS``.
    """

    file: Path
    run_dir: Path
    id: str
    started: str

    @property
    def synced(self) -> bool:
        """Whether W&B's own command has marked it as sent."""
        return self.file.with_name(f"{self.file.name}.synced").exists()


@dataclass(frozen=True)
class Sent:
    """What became of one part.

    Attributes:
        part: the part.
        result: ``sent``; ``failed``; ``running`` where a process still writes it; ``waiting`` where an earlier part of
            the run must be sent first.
        message: why, '' where it was sent.
    """

    part: Part
    result: Result
    message: str = ""


def find_parts(roots: Sequence[Path]) -> list[list[Part]]:
    """Find the offline runs under some folders.

    Args:
        roots: run folders, folders that hold some (a sweep's), or W&B's own.

    Returns:
        Runs in the order of their folders, each with its parts in the order in which they were started.

    Raises:
        RunError: if a root is no folder.
    """
    runs: dict[tuple[Path, str], dict[Path, Part]] = {}
    for root in roots:
        if not root.is_dir():
            raise RunError(f"{root} is no folder; name run folders, or a folder that holds some")
        files = root.glob("*.wandb") if root.name.startswith(_PREFIX) else root.rglob(f"{_PREFIX}*/*.wandb")
        for file in sorted(files):
            started, _, identity = file.parent.name.removeprefix(_PREFIX).partition("-")
            wandb_dir = file.resolve().parent.parent
            run_dir = wandb_dir.parent if wandb_dir.name == "wandb" else wandb_dir
            runs.setdefault((run_dir, identity), {})[file.resolve()] = Part(file, run_dir, identity, started)
    return [sorted(runs[key].values(), key=lambda part: part.started) for key in sorted(runs)]


def send_run(parts: Sequence[Part], options: Iterable[str] = ()) -> list[Sent]:
    """Send what is left of one run, in order: W&B appends a later part to the earlier ones.

    Args:
        parts: all parts of the run, in order.
        options: further arguments of ``wandb sync``.

    Returns:
        One entry for each part that was not sent before.
    """
    outcomes: list[Sent] = []
    failed = False
    for place, part in enumerate(parts):
        if part.synced:
            continue
        ended, latest = has_ended(part.file), place == len(parts) - 1
        if failed:
            outcomes.append(Sent(part, "waiting", "an earlier part must be sent first"))
        elif latest and not ended and time.time() - part.file.stat().st_mtime < QUIET_S:
            # W&B would take it for crashed, mark it as sent, and leave out whatever is logged from now on.
            outcomes.append(Sent(part, "running", "is sent when it has ended"))
        else:
            outcomes.append(send(part, options, first=place == 0))
            failed = outcomes[-1].result == "failed"
    return outcomes


def send(part: Part, options: Iterable[str] = (), *, first: bool = True) -> Sent:
    """Send one part by ``wandb sync``.

    That command exits with 0 also where it fails: its mark beside the file is what tells.

    Args:
        part: what to send.
        options: further arguments of ``wandb sync``.
        first: whether it is the run's first part.
    """
    command = sync_command(part, options)
    try:
        done = subprocess.run(
            command, env=_environment(first), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        return Sent(part, "failed", str(error))
    if part.synced:
        return Sent(part, "sent")
    return Sent(part, "failed", _reason(done.stdout + done.stderr) or f"wandb sync ended with {done.returncode}")


def sync_command(part: Part, options: Iterable[str] = ()) -> list[str]:
    """Return the command that sends one part."""
    return [sys.executable, "-m", "wandb", "sync", *options, str(part.file.parent)]


def unreachable(timeout_s: float) -> str | None:
    """Say why W&B's server cannot be reached, None where it answers.

    ``wandb sync`` itself tries for minutes, for each run.
    """
    import requests
    from wandb.sdk import wandb_setup

    address = wandb_setup.singleton().settings.base_url
    try:
        requests.get(address, timeout=timeout_s, stream=True).close()
    except requests.RequestException as error:
        kind = "does not answer" if isinstance(error, requests.Timeout) else "cannot be reached"
        return f"{address} {kind}"
    return None


def _environment(first: bool) -> dict[str, str]:
    environment = dict(os.environ)
    # An offline mode or a run's id that the shell sets for trainings is not meant for sending.
    for name in ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_SILENT"):
        environment.pop(name, None)
    if not first:
        environment["WANDB_RESUME"] = "allow"  # append to what the run has; otherwise a part replaces the one before
    return environment


def _reason(output: str) -> str:
    lines = [line.strip().removeprefix("wandb:").strip() for line in output.splitlines()]
    telling = [line for line in lines if "ERROR" in line or "Error" in line] or [line for line in lines if line]
    return telling[-1].removeprefix("ERROR").strip() if telling else ""
