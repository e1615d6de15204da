"""``bias-train demo``: the whole idea in one command, on a world that it renders itself."""

from __future__ import annotations

import argparse
import os

SWEEP = "configs/sweep/demo.yaml"


def _jobs() -> int:
    """One training a core, up to four: small models gain nothing from more threads."""
    return max(1, min(4, os.cpu_count() or 1))


def main(argv: list[str]) -> int:
    """Render, train at several generated shares with and without a debias loss, report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bias-train demo",
        description="Render a small world, train retrievers on mixes of its photos and generated pictures, with and "
        f"without a debias loss, and write the report. Everything goes to runs/demo; the grid is {SWEEP}. A demo that "
        "was interrupted goes on where it was.",
    )
    parser.add_argument("-j", "--jobs", type=int, default=_jobs(), help="trainings at a time (default: %(default)s)")
    options = parser.parse_args(argv)

    from bias_train.cli import sweep

    code = sweep.main(["run", SWEEP, "--jobs", str(options.jobs)])
    if code >= 128:  # interrupted: a report of half a demo would look like a result
        return code
    return sweep.main(["report", SWEEP]) or code
