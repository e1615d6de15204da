"""Counterfactual views as an array of a real cluster: two tasks make what one process makes.

Of twins, one task is taken away in the middle.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from cluster import SlurmCluster, until
from tiny_pipeline import save_tiny_pipeline

from bias_train.cli.synthesize import main
from datamodules.sample import Sample
from datamodules.writer import ShardWriter

TESTS = Path(__file__).resolve().parents[1]
SCRIPT = TESTS.parent / "slurm" / "synthesize.sbatch"

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_an_array_with_a_requeued_task_makes_what_one_process_makes(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pipeline = save_tiny_pipeline(tmp_path / "pipeline")
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "photos", samples_per_shard=3) as writer:
        for number in range(12):
            picture = np.kron(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
            writer.write(Sample(f"k{number}", (f"a red dog {number}", "the cat with a ball")), picture)
    options = ["--generator", f"tiny={pipeline}", "--device", "cpu", "--steps", "2"]
    assert main(["twins", str(tmp_path / "photos"), str(tmp_path / "whole"), *options]) == 0

    # What the job script calls is the real command; in its first life, the second task stands still on the way.
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    gated = " ".join(shlex.quote(str(part)) for part in (sys.executable, TESTS / "gated_synthesis.py", tmp_path))
    (venv / "bias-train").write_text(
        f'#!/bin/bash\nshift\ncount=-\n[[ $SLURM_ARRAY_TASK_ID == 1 ]] && count=4\nexec {gated} $count "$@"\n'
    )
    (venv / "bias-train").chmod(0o755)
    array = cluster.sbatch(
        "--array=0-1", "--gpus-per-node=0", "--cpus-per-task=1", str(SCRIPT), "photos", "twins", *options,
        cwd=tmp_path, env={"BIAS_TRAIN_VENV": str(venv.parent), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def said() -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(tmp_path.glob("*.out")))

    until((tmp_path / "waits").exists, "the task that stands still", said, timeout=180)
    kept = list(tmp_path.glob("twins/.synthesis/*/tiny/*.zip"))
    assert kept
    assert not (tmp_path / "twins" / "index.arrow").exists()
    cluster.requeue(f"{array}_1")
    cluster.wait(array, ["COMPLETED"], timeout=240)
    assert cluster.job(f"{array}_1")["Restarts"] == "1"
    assert files(tmp_path / "twins") == files(tmp_path / "whole"), said()
    assert "12 samples, 24 pictures in 4 shards (real, tiny)" in said()


def test_an_array_edits_objects_as_one_process_does(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "coco", samples_per_shard=2) as writer:
        for number in range(8):
            picture = rng.integers(100, 120, (120, 160, 3), dtype=np.uint8)
            objects = [
                {"category": category, "box": place, "polygons": [], "crowd": False}
                for category, place in (("dog", [20, 60, 36, 30]), ("frisbee", [100, 20, 24, 24]))
            ]
            captions = (f"A dog and a frisbee in park {number}", "A frisbee next to a dog")
            writer.write(Sample(f"k{number}", captions, meta={"objects": objects}), picture)
    assert main(["decorrelated", str(tmp_path / "coco"), str(tmp_path / "whole"), "--all-objects"]) == 0
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "bias-train").write_text(f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m bias_train.cli.main "$@"\n')
    (venv / "bias-train").chmod(0o755)
    array = cluster.sbatch(
        "--array=0-1", "--gpus-per-node=0", "--cpus-per-task=1", str(SCRIPT), "decorrelated", "coco", "edited",
        "--all-objects", cwd=tmp_path, env={"BIAS_TRAIN_VENV": str(venv.parent), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    cluster.wait(array, ["COMPLETED"], timeout=240)
    whole = files(tmp_path / "whole")
    assert any(name.endswith(".tar") for name in whole)
    assert files(tmp_path / "edited") == whole
