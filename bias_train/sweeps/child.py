"""What runs in a cell's own process.

Kept apart from the runner and free of heavy imports, since every child imports this module first.
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from bias_train.cli.main import user_message
from bias_train.preemption import Preempted
from bias_train.sweeps.claim import Claim
from bias_train.sweeps.status import LOG, record_interruption

BUSY = 75  # EX_TEMPFAIL: another process has the cell

_orphaned = threading.Event()


def resolve(target: str) -> Callable[..., Any]:
    """Import ``module:function``."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def run_cell(target: str, argv: list[str], folder: Path, threads: int | None) -> None:
    """Train one cell in this process and exit: 0 trained, 1 failed, 75 another process has it, 143 asked to stop.

    Args:
        target: ``module:function`` that takes the arguments and raises on failure.
        argv: the training's arguments.
        folder: the run folder; the process's output is appended to its log.
        threads: CPU threads for tensor operations; None leaves the library's default.
    """
    # A group of its own: a terminal's Ctrl-C reaches the runner alone, which ends the whole group in order.
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    claim = Claim.take(folder)
    if claim is None:
        os._exit(BUSY)
    _redirect(folder / LOG)
    _end_with_parent()
    code = 1
    try:
        _limit_threads(threads)
        _be_relaunchable(argv)
        resolve(target)(argv)
        code = 0
    except Preempted as stop:
        code = 128 + stop.signum
        print(f"{stop}")
    except SystemExit as error:
        # An argument parser refuses so, having said why.
        code = 0 if error.code in (None, 0) and not _orphaned.is_set() else 1
    except BaseException as error:
        message = user_message(error)
        if message is None:
            traceback.print_exc()
        else:
            print(f"error: {message}", file=sys.stderr)
    if code and _orphaned.is_set():
        record_interruption(folder)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not claim.release(): the lock must outlive every exit handler, which may still write into the folder.
    sys.exit(code)


def run_command(target: str, argv: list[str]) -> None:
    """Run one of the program's commands in this process, on the terminal, and exit with its code."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _end_with_parent()
    try:
        sys.exit(resolve(target)(argv))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _redirect(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    # Line by line, so that the log of a killed process holds what it said last.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="replace")
    print(f"--- started {datetime.now().isoformat(timespec='seconds')}, process {os.getpid()}")


def _end_with_parent() -> None:
    """End this process if the runner dies without ending it: nobody would watch what an orphan trains."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        _orphaned.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def _be_relaunchable(argv: list[str]) -> None:
    """Look like ``bias-train fit ARGV``: Lightning starts a node's other ranks by running the main module again."""
    sys.argv = ["bias-train", "fit", *argv]
    sys.modules["__main__"] = importlib.import_module("bias_train.cli.main")


def _limit_threads(threads: int | None) -> None:
    if threads is None:
        return
    if "torch" in sys.modules:  # preloaded: its thread pool no longer reads the environment
        sys.modules["torch"].set_num_threads(threads)
    else:
        os.environ["OMP_NUM_THREADS"] = str(threads)
