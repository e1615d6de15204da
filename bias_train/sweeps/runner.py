"""Runs a sweep's missing cells here, each in a process of its own.

Every cell gets a fresh process, so that no state leaks from one training into the next and a crash takes one cell only.
The processes are forked from a server that has imported the heavy libraries once, which saves each cell those seconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bias_train.files import write_json
from bias_train.sweeps import child
from bias_train.sweeps.cells import Cell
from bias_train.sweeps.errors import SweepError
from bias_train.sweeps.files import empty, last_lines, read_json
from bias_train.sweeps.spec import SetupStep
from bias_train.sweeps.status import LOG, STATUS, read_status, record_failure, record_interruption

FIT = "bias_train.cli.fit:fit"
COMMAND = "bias_train.cli.main:main"
PRELOAD = ("torch", "lightning", "bias_train.cli.fit")
# Continues from the newest checkpoint in the run folder, where an interrupted attempt left one.
RESUME = "--resume=auto"
GRACE_SECONDS = 20.0  # a training may write a checkpoint before it ends
LOG_LINES = 12
STAMPS = "setup.json"
_POLL_SECONDS = 0.5

Result = Literal["done", "failed", "busy", "preempted"]


@dataclass(frozen=True)
class Outcome:
    """What a run of the sweep did about one cell.

    Attributes:
        cell: the cell.
        result: ``done``, ``failed``, ``busy`` where another process has the cell, or ``preempted`` where somebody else
            asked its process to stop, which it did with a checkpoint.
        ran: False if it was done, or had failed, before.
        error: one line about the failure.
    """

    cell: Cell
    result: Result
    ran: bool
    error: str = ""


class Interrupted(KeyboardInterrupt):
    """The sweep was ended by a signal; what was done is kept.

    Attributes:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"ended by {signal.Signals(signum).name}")
        self.signum = signum


@dataclass
class _Running:
    cell: Cell
    process: ForkServerProcess
    task: TaskID


class Runner:
    """Runs cells with ``jobs`` processes at once.

    Args:
        jobs: how many cells train at once; the CPU's threads are divided among them.
        retry_failed: start failed cells anew, in an emptied folder.
        fit: ``module:function`` that trains from a list of arguments and raises on failure. It keeps ``status.json``
            in the run folder and leaves its state at ``done``.
        command: ``module:function`` that runs a ``bias-train`` command for the setup and returns its exit code.
        preload: modules to import once, in the processes' server. One server serves a whole Python process, so the
            first runner's choice holds.
        console: where progress and failures go.
        grace: seconds between asking a training to end and killing it.
    """

    def __init__(
        self,
        *,
        jobs: int = 1,
        retry_failed: bool = False,
        fit: str = FIT,
        command: str = COMMAND,
        preload: Sequence[str] = PRELOAD,
        console: Console | None = None,
        grace: float = GRACE_SECONDS,
    ) -> None:
        if jobs < 1:
            raise SweepError(f"--jobs must be at least 1, got {jobs}")
        self.jobs = jobs
        self.retry_failed = retry_failed
        self.fit = fit
        self.command = command
        self.console = console or Console(stderr=True)
        self.grace = grace
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = max(1, cores // jobs) if jobs > 1 and "OMP_NUM_THREADS" not in os.environ else None

    def prepare(self, steps: Sequence[SetupStep], root: Path) -> None:
        """Run the setup commands that have not run yet, on this terminal.

        Raises:
            SweepError: if one fails, or does not create what it should.
            Interrupted: if a signal ended it.
        """
        for step in unprepared(steps, root):
            words = list(step.command)
            name = step.spell()
            self.console.print(f"[bold]setup[/] {name}", highlight=False)
            process = self._context.Process(target=child.run_command, args=(self.command, words))
            with _Signals() as signals:
                process.start()
                while process.exitcode is None:
                    if signals.received is not None:
                        process.terminate()
                        process.join(self.grace)
                        process.kill()
                        process.join()
                    process.join(_POLL_SECONDS)
                signals.check()
            if process.exitcode:
                raise SweepError(f"the setup command `{name}` failed with exit code {process.exitcode}")
            if step.creates is None:
                root.mkdir(parents=True, exist_ok=True)
                write_json(root / STAMPS, {"commands": [*_stamped(root), words]})
            elif not step.creates.exists():
                raise SweepError(f"the setup command `{name}` did not create {step.creates}; correct its 'creates'")

    def run(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Train the cells that are not done, and report on all of them, in their order.

        A cell that fails is reported with its log's last lines, and the others go on.

        Raises:
            Interrupted: on SIGINT or SIGTERM, after the running trainings have ended. Their next run resumes them.
        """
        outcomes: dict[str, Outcome] = {}
        waiting: list[Cell] = []
        for cell in cells:
            status = read_status(cell.folder)
            if status.state == "done":
                outcomes[cell.id] = Outcome(cell, "done", ran=False)
            elif status.state == "failed" and not self.retry_failed:
                outcomes[cell.id] = Outcome(cell, "failed", ran=False, error=status.error or status.last_line)
            else:
                waiting.append(cell)
        before = len(outcomes)
        if before:
            failed = sum(outcome.result == "failed" for outcome in outcomes.values())
            note = f", {failed} of them failed (--retry-failed starts those anew)" if failed else ""
            self.console.print(f"{before} of {len(cells)} cells were finished before{note}", highlight=False)

        with self._progress() as progress, _Signals() as signals:
            overall = progress.add_task(f"{len(cells)} cells", total=len(cells), completed=before, detail="")
            running: list[_Running] = []
            waiting.reverse()
            try:
                while waiting or running:
                    signals.check()
                    while waiting and len(running) < self.jobs:
                        running.append(self._start(waiting.pop(), progress))
                    wait([item.process.sentinel for item in running], timeout=_POLL_SECONDS)
                    for item in [item for item in running if item.process.exitcode is not None]:
                        running.remove(item)
                        outcome = self._finish(item, progress)
                        outcomes[outcome.cell.id] = outcome
                    self._show(progress, overall, running, outcomes)
            finally:
                self._end(running, signals)
        return [outcomes[cell.id] for cell in cells]

    def _start(self, cell: Cell, progress: Progress) -> _Running:
        if read_status(cell.folder).state == "failed":
            empty(cell.folder)
        cell.folder.mkdir(parents=True, exist_ok=True)
        write_json(cell.folder / "cell.json", cell.document())
        arguments = (self.fit, [*cell.argv(), RESUME], cell.folder, self._threads)
        process = self._context.Process(target=child.run_cell, args=arguments, name=cell.id)
        process.start()
        self.console.print(f"[bold]start[/]  {cell.id}", highlight=False)
        return _Running(cell, process, progress.add_task(cell.id, total=1.0, detail="starting"))

    def _finish(self, item: _Running, progress: Progress) -> Outcome:
        cell, code = item.cell, item.process.exitcode
        item.process.join()
        progress.remove_task(item.task)
        if code == child.BUSY:
            self.console.print(f"[yellow]busy[/]   {cell.id}: another process trains it", highlight=False)
            return Outcome(cell, "busy", ran=False, error="another process trains it")
        state = read_json(cell.folder / STATUS).get("state")
        if code == 0 and state == "done":
            self.console.print(f"[green]done[/]   {cell.id}", highlight=False)
            return Outcome(cell, "done", ran=True)

        if state == "preempted":
            self.console.print(f"[yellow]stopped[/] {cell.id}, with a checkpoint", highlight=False)
            return Outcome(cell, "preempted", ran=True, error="was asked to stop; the next run goes on with it")

        error = str(read_json(cell.folder / STATUS).get("error") or "") if state == "failed" else ""
        lines = last_lines(cell.folder / LOG, LOG_LINES)
        if not error:
            error = _reason(code, lines, state)
            record_failure(cell.folder, error)
        _signal_group(item.process, signal.SIGKILL)  # loader workers that a crash has left
        self.console.print(f"[red]failed[/] {cell.id}: ", end="", highlight=False)
        self.console.print(error, markup=False, highlight=False)
        for line in lines:
            self.console.print(f"    {line}", markup=False, highlight=False)
        self.console.print(f"  whole log: {cell.folder / LOG}", markup=False, highlight=False)
        return Outcome(cell, "failed", ran=True, error=error)

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            # Cells take minutes: an estimate over rich's default of 30 s would see no progress at all.
            speed_estimate_period=24 * 3600.0,
        )

    def _show(
        self, progress: Progress, overall: TaskID, running: Sequence[_Running], outcomes: dict[str, Outcome]
    ) -> None:
        under_way = 0.0
        for item in running:
            status = read_status(item.cell.folder)
            under_way += status.fraction
            detail = f"step {status.step}/{status.max_steps}" if status.step is not None else "starting"
            rate = f", {status.rate:.2f}/s" if status.rate else ""
            progress.update(item.task, completed=status.fraction, detail=detail + rate)
        failed = sum(outcome.result == "failed" for outcome in outcomes.values())
        detail = f"{len(outcomes) - failed} done" + (f", {failed} failed" if failed else "")
        progress.update(overall, completed=len(outcomes) + under_way, detail=detail)

    def _end(self, running: Sequence[_Running], signals: _Signals) -> None:
        """End what still runs: ask, wait, kill. After an ordinary end nothing is left to do."""
        for item in running:
            _signal_group(item.process, signal.SIGTERM)
        deadline = time.monotonic() + self.grace
        asked = signals.count
        while any(item.process.exitcode is None for item in running):
            # A second Ctrl-C means: no more waiting.
            if time.monotonic() > deadline or signals.count > asked:
                break
            wait([item.process.sentinel for item in running if item.process.exitcode is None], timeout=0.1)
        for item in running:
            _signal_group(item.process, signal.SIGKILL)
            item.process.join()
            record_interruption(item.cell.folder)


def unprepared(steps: Sequence[SetupStep], root: Path) -> list[SetupStep]:
    """List the setup commands that have not run yet.

    Args:
        steps: the sweep's setup.
        root: the sweep's folder, which holds the stamps of those that create no file.
    """
    done = _stamped(root)
    return [
        step
        for step in steps
        if not (step.creates.exists() if step.creates is not None else list(step.command) in done)
    ]


def _stamped(root: Path) -> list[list[str]]:
    commands: list[list[str]] = read_json(root / STAMPS).get("commands", [])
    return commands


def _reason(code: int | None, lines: Sequence[str], state: Any) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    if code == 0:
        return f"the training returned but left its state at {state!r} instead of 'done'"
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or list(lines)
    return said[-1] if said else f"exit code {code} and an empty log"


def _signal_group(process: ForkServerProcess, signum: int) -> None:
    if process.pid is None:
        return
    try:
        os.killpg(process.pid, signum)
    except ProcessLookupError:
        # It ended, or has not made its group yet.
        if process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signum)


class _Signals:
    """Notes SIGINT and SIGTERM instead of raising from them, since a process half started could not be ended.

    Outside the main thread Python allows no handlers, and nothing is noted.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.count = 0
        self._previous: dict[int, Any] = {}

    def check(self) -> None:
        """Raise :class:`Interrupted` if a signal came."""
        if self.received is not None:
            raise Interrupted(self.received)

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        self.count += 1
