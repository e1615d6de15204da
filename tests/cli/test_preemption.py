"""A training that is asked to stop does so at a step's end, on all ranks, and goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

# Raises the signal in one rank, at a step of training or within an evaluation, in a first life only.
CALLBACK = """
import os, signal
from pathlib import Path
import lightning.pytorch as pl

class Ask(pl.Callback):
    def __init__(self, sign: str, rank: int = 0, step: int = 2, where: str = "train") -> None:
        self.sign, self.rank, self.step, self.where = signal.Signals[sign], rank, step, where

    def ask(self, trainer, where):
        if where == self.where and trainer.global_step == self.step and trainer.global_rank == self.rank:
            if trainer.ckpt_path is None:
                os.kill(os.getpid(), self.sign)
                os.kill(os.getpid(), self.sign)  # asking twice is asking once

    def on_train_batch_start(self, trainer, *_):
        self.ask(trainer, "train")

    def on_validation_batch_start(self, trainer, *_):
        self.ask(trainer, "validation")
"""


@pytest.fixture(scope="module")
def asking(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration without Weights & Biases, and the callback beside it."""
    folder = tmp_path_factory.mktemp("asking")
    (folder / "asking.py").write_text(CALLBACK)
    document = {"include": [str(config)], "logging": {"wandb": False, "tensorboard": False}}
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    return folder


def fit(asking: Path, run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bias_train.cli.main", "fit", "--config", str(asking / "config.yaml"), "--run_dir",
         str(run), *arguments],
        env={**os.environ, "PYTHONPATH": str(asking)}, cwd=asking, capture_output=True, text=True, check=False,
    )  # fmt: skip


def ask(sign: str, **options: object) -> str:
    callbacks = [{"class_path": "asking.Ask", "init_args": {"sign": sign, **options}}]
    return f"--trainer.callbacks+={json.dumps(callbacks[0])}"


@pytest.fixture(scope="module")
def unbroken(asking: Path) -> Path:
    done = fit(asking, asking / "unbroken")
    assert done.returncode == 0, done.stderr
    return asking / "unbroken"


def test_a_signal_ends_training_at_a_step_and_resuming_goes_on(asking: Path, unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped = fit(asking, run, ask("SIGTERM"))
    assert stopped.returncode == 143, stopped.stderr
    assert "stopped by SIGTERM after step 3" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("preempted", 3)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step=3.ckpt"]
    assert not (run / "retriever.safetensors").exists()
    resumed = fit(asking, run, "--resume=auto")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    for name in ("metrics.csv", "records.csv", "retriever.safetensors"):
        assert (run / name).read_bytes() == (unbroken / name).read_bytes(), name


def test_one_rank_that_is_asked_stops_all_at_one_step(asking: Path, tmp_path: Path) -> None:
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    whole = fit(asking, tmp_path / "whole", *two)
    assert whole.returncode == 0, whole.stderr
    stopped = fit(asking, tmp_path / "run", *two, ask("SIGUSR1", rank=1, step=1))
    assert stopped.returncode == 138, stopped.stderr
    assert "stopped by SIGUSR1 after step 3" in stopped.stderr  # heard one step later
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "preempted"
    resumed = fit(asking, tmp_path / "run", *two, "--resume=auto")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("metrics.csv", "retriever.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_an_evaluation_is_cut_short_where_a_checkpoint_is_there(asking: Path, unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped = fit(asking, run, ask("SIGTERM", step=3, where="validation"))
    assert stopped.returncode == 143, stopped.stderr
    assert "after step 3" in stopped.stderr
    assert len((run / "records.csv").read_text().splitlines() if (run / "records.csv").exists() else []) <= 1
    resumed = fit(asking, run, "--resume=auto")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("metrics.csv", "records.csv", "retriever.safetensors"):
        assert (run / name).read_bytes() == (unbroken / name).read_bytes(), name
