"""The demo shows what it promises: a bias that mixing teaches, and a loss that takes it back at no cost."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest


def figures(run: Path) -> dict[str, float]:
    """Relative Delta of R@1 in an evenly mixed gallery, and R@1 and R@10 of photos among photos, at the last step."""
    wanted = {("relative_delta_R", "1", "0.5"): "delta", ("t2i_R", "1", "0.0"): "R@1", ("t2i_R", "10", "0.0"): "R@10"}
    found: dict[str, float] = {}
    with (run / "records.csv").open(newline="") as file:
        for row in csv.DictReader(file):  # in the order of steps
            if (row["name"], row["k"], row["ratio"]) in wanted and row["generator"] == "all":
                found[wanted[row["name"], row["k"], row["ratio"]]] = float(row["value"])
    return found


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_shows_the_bias_and_takes_it_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bias_train.cli.main", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    root = tmp_path / "runs" / "demo"
    assert (root / "report.html").is_file()
    assert "report: runs/demo/report.html" in done.stdout
    (none,), (some,), (half,), (debiased,) = (
        [figures(path) for path in root.glob(pattern)]
        for pattern in ("share=0_loss=none_*", "share=0.25_*", "share=0.5_loss=none_*", "share=0.5_loss=two-sided*")
    )
    assert none["delta"] > some["delta"] > half["delta"]
    assert half["delta"] < -30
    taken_back = (debiased["delta"] - half["delta"]) / (none["delta"] - half["delta"])
    assert taken_back >= 0.8
    for name in ("R@1", "R@10"):
        assert debiased[name] >= half[name] - 0.02
