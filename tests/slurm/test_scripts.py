"""The scripts that a user submits are sound shell, and Slurm takes them as they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cluster import SlurmCluster

FOLDER = Path(__file__).resolve().parents[2] / "slurm"
SCRIPTS = sorted(FOLDER.glob("*.sbatch"))

pytestmark = pytest.mark.slurm


def test_there_are_scripts() -> None:
    assert "train.sbatch" in [path.name for path in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_slurm_would_take_it(cluster: SlurmCluster, script: Path) -> None:
    cluster.run("sbatch", "--test-only", str(script))
