"""A sweep of fifty head-only trainings on real pictures, after one pass of the frozen towers over them.

    python tests/benchmarks/sweep.py [--work FOLDER] [--jobs 2] [--json FILE] [--check]

Runs ``configs/sweep/cifake_heads.yaml`` by the command that users type, in a folder of its own, from its first cell to
the end of its last: start, training, evaluation and checkpoint of every cell count. The setup (shards, and the one
encoding pass) is timed apart. ``--work`` keeps it, so that a second benchmark need not repeat it; the cells are trained
anew. Needs the pictures of CIFAKE in ``../shared/data``, or where BIAS_TRAIN_DATA points.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
from tables import add_output, markdown, put_out

ROOT = Path(__file__).resolve().parent.parent.parent
SWEEP = "configs/sweep/cifake_heads.yaml"
PROGRAM = str(Path(sys.executable).with_name("bias-train"))
TARGET = 300.0  # seconds for all cells


def timed(command: list[str], folder: Path) -> float:
    """Run a command and return how long it took in seconds, its start included."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - start


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Set up, then run the sweep; the result is what --json writes."""
    from bias_train.sweeps.cells import expand
    from bias_train.sweeps.spec import load_sweep

    data = Path(os.environ.get("BIAS_TRAIN_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not (data / "cifake_real.tar").is_file():
        sys.exit(f"the pictures of CIFAKE are not at {data}; set BIAS_TRAIN_DATA to the folder that holds them")
    project = work / "project"
    project.mkdir(parents=True, exist_ok=True)
    (work / "shared").mkdir(exist_ok=True)
    if not (work / "shared" / "data").exists():  # the sweep's paths are relative to the project's root
        (work / "shared" / "data").symlink_to(data)
    result: dict[str, Any] = {"machine": machine.describe(), "jobs": options.jobs, "table": []}
    machine.warn_if_busy(result["machine"])
    sweep = load_sweep(ROOT / SWEEP)
    for step in sweep.setup:
        assert step.creates is not None
        if not (project / step.creates).exists():
            seconds = timed([PROGRAM, *step.command], project)
            result["table"].append({"what": f"setup: {' '.join(step.command[:2])}", "seconds": seconds, "met": True})
    shutil.rmtree(project / sweep.root, ignore_errors=True)
    cells = expand(sweep)
    seconds = timed([PROGRAM, "sweep", "run", str(ROOT / SWEEP), "--jobs", str(options.jobs)], project)
    result["cells"] = len(cells)
    result["table"].append(
        {"what": f"{len(cells)} cells", "seconds": seconds, "target": TARGET, "met": seconds <= TARGET}
    )
    return result


def report(result: dict[str, Any]) -> str:
    """Lay out the result for people, as Markdown."""
    rows = [
        [
            line["what"],
            f"{line['seconds']:.1f}",
            f"{line['target']:g}" if "target" in line else "",
            ("met" if line["met"] else "MISSED") if "target" in line else "",
        ]
        for line in result["table"]
    ]
    return (
        f"{markdown(['step', 's', 'at most', ''], rows)}\n\n{result['jobs']} at once; {machine.line(result['machine'])}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="keep shards and features here (default: drop them)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="cells that train at once (default: 2)")
    add_output(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, (options.work or Path(folder)).resolve())
    return put_out(options, result, report(result), result["table"])


if __name__ == "__main__":
    sys.exit(main())
