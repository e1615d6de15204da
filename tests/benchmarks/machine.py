"""What a benchmark ran on: processor, memory, system and the versions that matter."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

# Whatever a contender decodes, resizes or ships pictures with.
DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "webdataset",
    "open_clip_torch",
    "simplejpeg",
    "opencv-python-headless",
    "pillow",
    "numpy",
    "pyarrow",
)


def processor() -> str:
    """Name the processor's model; the architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions(python: str | None = None) -> dict[str, str]:
    """Look up installed versions without importing anything.

    Args:
        python: another environment's interpreter; None for this one.
    """
    if python is None:
        found = {}
        for name in DISTRIBUTIONS:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return {"python": platform.python_version(), **found}
    code = (
        "import importlib.metadata as m, platform, sys\n"
        "print('python', platform.python_version())\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, m.version(name))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    out = subprocess.run([python, "-c", code, *DISTRIBUTIONS], capture_output=True, text=True, check=True).stdout
    return dict(row.split() for row in out.splitlines())


def describe() -> dict[str, Any]:
    """Describe this machine; ``load_average`` tells whether it was quiet when the benchmark began."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
        "versions": versions(),
    }


def line(machine: dict[str, Any]) -> str:
    """Say it in one line, for below a table."""
    listed = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']}; load average at the start {machine['load_average'][0]}; {listed}"
    )


def warn_if_busy(machine: dict[str, Any]) -> None:
    """Say that figures will be poor where something else is running."""
    if machine["load_average"][0] > 0.5:
        print(
            f"note: the load average is {machine['load_average'][0]}: something else is running here, so that rates "
            "will be low and ratios uncertain",
            file=sys.stderr,
        )
