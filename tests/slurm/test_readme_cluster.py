"""The README's way from a clone to a submitted sweep, word for word, on a real cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def commands() -> list[str]:
    section = (ROOT / "README.md").read_text().split("## On your cluster", 1)[1]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line.split(" #")[0].strip() for line in block[1].splitlines()]


def test_five_commands_lead_to_a_submitted_sweep(cluster: SlurmCluster, tmp_path: Path) -> None:
    clone, install, dry, submit, status = commands()
    # The one liberty: what is installed already serves the clone, too. (`make demo` in a clone is tried elsewhere.)
    install = f"ln -s {sys.prefix} .venv && touch .venv/ready && {install}"
    script = [clone.replace("URL", str(ROOT)), install, dry, "echo ---", submit, "echo ---", status]
    environment = {**cluster.env, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-euxc", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    dried, _, stood = done.stdout.split("---\n")
    assert "sbatch" in dried
    (job,) = re.findall(r"^job (\d+): 4 cells", done.stderr, re.MULTILINE)
    queued = cluster.run("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%P %T").split("\n")
    assert [line.split()[0] for line in queued if line] == ["gpu"] * 4
    assert len(re.findall(r"pending|running", stood.split("│", 1)[1])) >= 4
    cluster.run("scancel", job)
