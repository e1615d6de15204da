"""What a command costs in a process of its own, its start included; the table of several, held against a limit."""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine
from tables import add_output, markdown, put_out

SECONDS, BYTES = 60.0, 2e9  # that an audit may take


def measure_process(command: Sequence[str], cores: int) -> dict[str, float]:
    """Run a command; return seconds, seconds of processor time, and the most bytes that were resident.

    Args:
        command: what to run; its output is dropped.
        cores: how many it may use.
    """
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "bytes": usage.ru_maxrss * 1024}


def row(what: str, found: list[dict[str, float]], *, targeted: bool) -> dict[str, Any]:
    """One line of the table: the slowest and the largest of the rounds."""
    most = {name: max(one[name] for one in found) for name in found[0]}
    met = not targeted or (most["seconds"] <= SECONDS and most["bytes"] <= BYTES)
    return {"what": what, **most, "rounds": found, "targeted": targeted, "met": met}


def report(result: dict[str, Any], size: str) -> str:
    """Lay out a result for people, as Markdown.

    Args:
        result: with "table", "cores" and "machine".
        size: of what was audited.
    """
    head = [size, "s", "s of processor", "GB", f"at most {SECONDS:g} s, {BYTES / 1e9:g} GB"]
    rows = [
        [
            line["what"],
            f"{line['seconds']:.1f}",
            f"{line['cpu_seconds']:.1f}",
            f"{line['bytes'] / 1e9:.2f}",
            ("met" if line["met"] else "MISSED") if line["targeted"] else "",
        ]
        for line in result["table"]
    ]
    return f"{markdown(head, rows)}\n\n{result['cores']} cores used; {machine.line(result['machine'])}"


def run(description: str | None, size: str, rows: Callable[[Path, int, int], list[dict[str, Any]]]) -> int:
    """Read the command line, measure, and put the table out; return the exit code.

    Args:
        description: of the benchmark.
        size: of what is audited.
        rows: measures, given a scratch folder, cores and rounds.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2, help="that the audit may use (default: 2)")
    parser.add_argument("--rounds", type=int, default=1, help="audits of each kind; the slowest counts (default: 1)")
    add_output(parser)
    options = parser.parse_args()
    result = {"machine": machine.describe(), "cores": options.cores, "rounds": options.rounds}
    machine.warn_if_busy(result["machine"])
    with tempfile.TemporaryDirectory() as folder:
        result["table"] = rows(Path(folder), options.cores, options.rounds)
    return put_out(options, result, report(result, size), result["table"])
