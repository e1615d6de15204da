"""``bias-train demo``: the whole idea in one command, on a world that it renders itself."""

from __future__ import annotations

import argparse

SWEEP = "configs/sweep/demo.yaml"


def main(argv: list[str]) -> int:
    """Render, train at several generated shares with and without a debias loss, report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bias-train demo",
        description="Render a small world, train retrievers on mixes of its photos and generated pictures, with and "
        f"without a debias loss, and write the report. Everything goes to runs/demo; the grid is {SWEEP}. A demo that "
        "was interrupted goes on where it was.",
    )
    parser.add_argument("-j", "--jobs", type=int, default=1, help="trainings at a time (default: %(default)s)")
    options = parser.parse_args(argv)

    from bias_train.cli import report, sweep
    from bias_train.sweeps.spec import load_sweep

    failed = sweep.main(["run", SWEEP, "--jobs", str(options.jobs)])
    root = load_sweep(SWEEP).root
    return report.main([str(root), "--output", str(root / "report.html")]) or failed
