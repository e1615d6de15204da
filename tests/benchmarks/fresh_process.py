"""What a command costs in a process of its own, its start included."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence


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
