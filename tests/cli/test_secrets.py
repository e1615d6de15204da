"""What is given as a secret by mistake ends in an error, and in no file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("location", ["https://user:hunter2@host/set", "s3://bucket/set?X-Amz-Signature=hunter2"])
def test_a_location_with_a_secret_is_refused_before_anything_is_written(
    config: Path, tmp_path: Path, location: str
) -> None:
    command = [sys.executable, "-m", "bias_train.cli.main", "fit", "--config", str(config), "--run_dir", "run"]
    done = subprocess.run(
        [*command, f'--data.train=["{location}"]'], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "which would end up in logs" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]
