"""Sweeps as arrays of a real cluster: `submit`, `status`, `cancel`, and the job script between them."""

from __future__ import annotations

import csv
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import SlurmCluster, until

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
SMALL = ["--gpus-per-node=0", "--cpus-per-task=1"]

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class Sweep:
    """A sweep file in a folder of its own, and the program as its user calls it there.

    Args:
        cluster: where it is submitted.
        folder: the working folder.
        document: the sweep file.
        venv: where the job script finds ``bias-train``.
    """

    def __init__(self, cluster: SlurmCluster, folder: Path, document: dict[str, Any], venv: Path) -> None:
        self.cluster, self.folder = cluster, folder
        (folder / "sweep.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        self.env = {
            **cluster.env,
            "PYTHONPATH": str(HERE),
            "BIAS_TRAIN_VENV": str(venv),
            "MASTER_ADDR": "127.0.0.1",  # the names of these nodes do not resolve
        }

    def __call__(self, action: str, *options: str) -> str:
        """Run ``bias-train sweep ACTION sweep.yaml OPTIONS``; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "bias_train.cli.main", "sweep", action, "sweep.yaml", *options],
            cwd=self.folder, env=self.env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, *options: str, sbatch: tuple[str, ...] = ()) -> list[str]:
        """Submit; returns the job ids of the new arrays."""
        before = set(self.manifests())
        self("submit", *options, "--", *SMALL, *sbatch)
        new = [json.loads(path.read_text()) for path in sorted(set(self.manifests()) - before)]
        return [str(manifest["job"]) for manifest in new]

    def manifests(self) -> list[Path]:
        return sorted(self.folder.glob("runs/*/submissions/*.json"))

    def status(self) -> list[dict[str, Any]]:
        document: list[dict[str, Any]] = json.loads(self("status", "--json"))
        return document

    def states(self) -> list[str]:
        return [entry["state"] for entry in self.status()]

    def ended(self, array: str) -> list[str]:
        """Wait until no task of an array is left; returns their states by index."""
        final = ["COMPLETED", "FAILED", "CANCELLED"]
        self.cluster.wait(array, final, timeout=240)
        jobs = sorted(self.cluster.jobs(array), key=lambda job: int(job["ArrayTaskId"].split("-")[0]))
        return [job["JobState"] for job in jobs]

    def said(self) -> str:
        """Everything that tasks printed, and the ends of their logs."""
        files = [*self.folder.glob("runs/*/submissions/*.out"), *self.folder.glob("runs/*/*/log.txt")]
        return "\n".join(f"{file}:\n{file.read_text()}" for file in sorted(files))


def test_a_sweep_survives_a_failure_and_a_preemption(cluster: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    base = {
        "include": ["configs/loss/infonce.yaml", "configs/trainer/cpu.yaml"],
        "model": {
            "retriever": {"class_path": "models.OpenClipRetriever", "init_args": {"config": "model.json"}},
            "optimizer": {"lr": 1e-3},
        },
        "data": {
            "class_path": "datamodules.mixed_source.MixedSourceDataModule",
            "init_args": {"train": ["world/train"], "val": ["world/val"], "batch_size": 16, "num_workers": 0},
        },
        "trainer": {
            "max_steps": 5,
            "val_check_interval": 5,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "bias_train.callbacks.source_bias.SourceBias",
                    "init_args": {"ratios": [0.5], "ks": [1, 5], "resamples": 50},
                },
                {"class_path": "trouble.Trouble", "init_args": {"folder": "trouble"}},
            ],
        },
        "logging": {"tensorboard": False, "wandb": False},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    size = ["--size", "32"]
    sweep = Sweep(
        cluster,
        tmp_path,
        {
            "name": "ratio",
            "base": ["base.yaml"],
            "axes": {
                "share": {"key": "data.share", "values": [0, 0.25, 0.5]},
                "seed": {"key": "seed_everything", "values": [0, 1]},
            },
            "setup": [
                {"command": ["world", "world/train", "--samples", 64, *size], "creates": "world/train/index.arrow"},
                {
                    "command": ["world", "world/val", "--samples", 24, "--offset", 64, *size],
                    "creates": "world/val/index.arrow",
                },
            ],
        },
        Path(sys.prefix),
    )
    cells = [entry["id"] for entry in sweep.status()]
    assert len(cells) == 6
    held, bad = cells[1], cells[2]
    for kind, cell in (("hold", held), ("fail", bad)):
        (tmp_path / "trouble" / kind).mkdir(parents=True)
        (tmp_path / "trouble" / kind / cell).touch()

    (array,) = sweep.submit("--limit", "2")
    assert (tmp_path / "world" / "val" / "index.arrow").is_file()
    until((tmp_path / "trouble" / "waits" / held).exists, "the cell that waits", sweep.said, timeout=120)
    told = sweep.status()
    assert told[1]["state"] == "running"
    assert told[1]["job"] == f"{array}_1"
    assert told[1]["nodes"] in ("n1", "n2")
    assert told[5]["state"] == "pending"
    assert told[5]["reason"] == "JobArrayTaskLimit"
    assert "sbatch" not in sweep("submit", "--dry-run")  # all of them are on their way

    # The step, as Slurm itself does: for an array's task scancel takes success for failure, and signals for minutes.
    cluster.signal(f"{cluster.job(f'{array}_1')['JobId']}.0", signal.SIGUSR1)
    until(lambda: sweep.states()[1] == "preempted", "the cell that was preempted", sweep.said)
    assert sweep.ended(array) == [*["COMPLETED"] * 2, "FAILED", *["COMPLETED"] * 3], sweep.said()
    told = sweep.status()
    assert [entry["state"] for entry in told] == ["done", "done", "failed", "done", "done", "done"]
    assert told[2]["error"] == "ValueError: this cell was told to fail"
    assert any("this cell was told to fail" in line for line in told[2]["log"])
    assert cluster.job(f"{array}_1")["Restarts"] == "1"
    assert sweep.submit() == []

    # The failed cell once more: what is done stays as it is.
    done = {cell: (tmp_path / "runs/ratio" / cell / "status.json").stat().st_mtime_ns for cell in cells if cell != bad}
    (tmp_path / "trouble" / "fail" / bad).unlink()
    (again,) = sweep.submit("--retry-failed")
    assert sweep.ended(again) == ["COMPLETED"], sweep.said()
    assert sweep.states() == ["done"] * 6
    for cell, time in done.items():
        assert (tmp_path / "runs/ratio" / cell / "status.json").stat().st_mtime_ns == time

    # Each cell has gone on from its own checkpoints, with its own configuration.
    begun = {cell: (tmp_path / "trouble" / "begun" / cell).read_text().split() for cell in cells}
    assert begun == {cell: ["0", "3"] if cell == held else ["0", "0"] if cell == bad else ["0"] for cell in cells}
    for entry in told:
        config = yaml.safe_load((tmp_path / entry["folder"] / "config.yaml").read_text())
        assert config["data"]["init_args"]["share"] == entry["axes"]["share"]
        assert config["seed_everything"] == entry["axes"]["seed"]
        with (tmp_path / entry["folder"] / "metrics.csv").open(newline="") as file:
            steps = [row["step"] for row in csv.DictReader(file) if row["train/loss"]]
        assert steps == ["0", "1", "2", "3", "4"]
    said = sweep("report")
    assert "missing" not in said
    page = (tmp_path / "runs/ratio/report.html").read_text()
    assert page.count("<html") == 1


@pytest.fixture
def stub(cluster: SlurmCluster, tmp_path: Path) -> Callable[..., Sweep]:
    """Makes sweeps whose cells' training is ``stub_training.py``; everything around it is real."""
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    python = shlex.quote(sys.executable)
    shim = f"""
        #!/bin/bash
        [[ $1 == fit ]] && exec {python} {shlex.quote(str(HERE / "stub_training.py"))} "$@"
        exec {python} -m bias_train.cli.main "$@"
    """
    (venv / "bias-train").write_text("\n".join(line.strip() for line in shim.strip().splitlines()) + "\n")
    (venv / "bias-train").chmod(0o755)

    def make(*acts: str, cells: int = 1) -> Sweep:
        axes = {
            "act": {"key": "act", "values": list(acts)},
            "number": {"key": "number", "values": list(range(cells))},
        }
        return Sweep(cluster, tmp_path, {"name": "stub", "axes": axes}, venv.parent)

    return make


def folders(sweep: Sweep) -> list[Path]:
    return [sweep.folder / entry["folder"] for entry in sweep.status()]


def attempts(folder: Path) -> int:
    return len((folder / "attempts").read_text().splitlines())


def test_two_arrays_of_one_sweep_at_once_train_each_cell_once(
    cluster: SlurmCluster, stub: Callable[..., Sweep]
) -> None:
    sweep = stub("hold", cells=6)
    (first,) = sweep.submit()
    until(lambda: all((folder / "rank-0").exists() for folder in folders(sweep)), "all cells", sweep.said)
    assert sweep.submit() == []  # `submit` sees what is on its way, so the second array has to be made by hand
    script, manifest = str(ROOT / "slurm" / "sweep.sbatch"), str(sweep.manifests()[0])
    out = f"--output={sweep.folder}/second_%a.out"
    second = cluster.sbatch("--array=0-5", out, *SMALL, script, manifest, cwd=sweep.folder, env=sweep.env)
    assert sweep.ended(second) == ["COMPLETED"] * 6
    for index in range(6):
        assert "left alone: another process trains it" in (sweep.folder / f"second_{index}.out").read_text()
    assert sweep.states() == ["running"] * 6
    (sweep.folder / "runs/stub/go").touch()
    assert sweep.ended(first) == ["COMPLETED"] * 6
    assert sweep.states() == ["done"] * 6
    assert [attempts(folder) for folder in folders(sweep)] == [1] * 6


def test_a_requeue_and_a_kill_are_gone_on_from(cluster: SlurmCluster, stub: Callable[..., Sweep]) -> None:
    sweep = stub("hold", "kill")
    (array,) = sweep.submit()
    held, killed = folders(sweep)
    until((held / "rank-0").exists, "the cell that holds", sweep.said)
    cluster.requeue(f"{array}_0")
    # The training had the time to write its checkpoint: nobody killed it on the way.
    until(lambda: sweep.states()[0] == "preempted", "the preempted cell", sweep.said)
    waiting = sweep.status()[0]
    assert waiting["job"] in ("", f"{array}_0")
    assert sweep.ended(array) == ["COMPLETED"] * 2, sweep.said()
    assert sweep.states() == ["done", "done"]
    assert [attempts(folder) for folder in (held, killed)] == [2, 2]
    assert [cluster.job(f"{array}_{index}")["Restarts"] for index in (0, 1)] == ["1", "1"]
    assert "exit code 137, without a word; back into the queue" in (killed / "log.txt").read_text()


def test_cancelled_cells_can_be_submitted_again(cluster: SlurmCluster, stub: Callable[..., Sweep]) -> None:
    sweep = stub("hold", cells=3)
    (array,) = sweep.submit("--limit", "1")
    first, *_ = folders(sweep)
    until((first / "rank-0").exists, "the cell that holds", sweep.said)
    assert "3 tasks cancelled: 1 running" in sweep("cancel").replace("\n", " ")
    sweep.ended(array)
    assert sweep.states() == ["preempted", "lost", "lost"], sweep.said()
    (sweep.folder / "runs/stub/go").touch()
    (array,) = sweep.submit("--only", "number=0", "--only", "number=2")
    assert sweep.ended(array) == ["COMPLETED"] * 2
    assert sweep.states() == ["done", "lost", "done"]


def test_a_cell_may_span_nodes(stub: Callable[..., Sweep]) -> None:
    sweep = stub("train", "break")
    (array,) = sweep.submit(sbatch=("--nodes=2",))
    assert sweep.ended(array) == ["COMPLETED", "FAILED"], sweep.said()
    # One process failed and srun ended the other: a failure, though srun's own code is that of the signal.
    assert sweep.states() == ["done", "failed"], sweep.said()
    folder, broken = folders(sweep)
    assert attempts(broken) == 1
    assert sorted(path.name for path in folder.glob("rank-*")) == ["rank-0", "rank-1"]
    words = (folder / "attempts").read_text().split()
    assert words[-3:] == ["--resume=auto", "--trainer.num_nodes=2", "--trainer.devices=1"]
