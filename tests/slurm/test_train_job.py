"""`slurm/train.sbatch` on two nodes: it trains what one process trains, whatever happens to it on the way."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from cluster import SlurmCluster, until
from safetensors.torch import load_file

from bias_train.tracking.lost_rows import logged_steps
from datamodules.world import World, write_world

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "slurm" / "train.sbatch")
PROGRAM = str(Path(sys.executable).with_name("bias-train"))
TWO_NODES = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gpus-per-node=0"]

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen steps of a very small dual encoder; a checkpoint at 5, 10 and 14, an evaluation at 7 and 14."""
    folder = tmp_path_factory.mktemp("training")
    write_world(folder / "train", samples=96, world=World(size=32))
    write_world(folder / "val", samples=24, world=World(size=32), split_offset=96)
    model = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "model.json").write_text(json.dumps(model))
    document = {
        "include": ["configs/loss/rank_hinge.yaml", "configs/trainer/cpu.yaml"],
        "seed_everything": 3,
        "checkpoint_every": 5,
        "model": {
            "retriever": {
                "class_path": "models.open_clip_retriever.OpenClipRetriever",
                "init_args": {"config": str(folder / "model.json")},
            },
            "optimizer": {"lr": 1e-3},
        },
        "data": {
            "class_path": "datamodules.mixed_source.MixedSourceDataModule",
            "init_args": {
                "train": [str(folder / "train")],
                "val": [str(folder / "val")],
                "share": 0.5,
                "batch_size": 16,
                "num_workers": 0,
            },
        },
        "trainer": {
            "max_steps": 14,
            "val_check_interval": 7,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "bias_train.callbacks.source_bias.SourceBias",
                    "init_args": {"ratios": [0.5], "ks": [1, 5], "resamples": 50, "examples": 2, "example_top": 3},
                },
                {"class_path": "bias_train.callbacks.retrieval.Retrieval", "init_args": {"resamples": 50}},
            ],
        },
        "logging": {"tensorboard": False},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


class Submit:
    """Submits the training; ``gates`` are the steps at which its lives wait."""

    def __init__(self, cluster: SlurmCluster, config: Path) -> None:
        self.cluster, self.config = cluster, config

    def __call__(self, folder: Path, *, gates: tuple[int, ...] = ()) -> str:
        document = yaml.safe_load(self.config.read_text())
        document["trainer"]["callbacks"].append(
            {"class_path": "gate.Gate", "init_args": {"folder": str(folder), "steps": list(gates)}}
        )
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(document))
        return self.cluster.sbatch(
            *TWO_NODES, f"--output={folder}/job.out", SCRIPT,
            "--config", str(folder / "config.yaml"), "--run_dir", str(folder / "run"),
            cwd=folder, env=environment(),
        )  # fmt: skip


@pytest.fixture(scope="module")
def submit(cluster: SlurmCluster, config: Path) -> Submit:
    return Submit(cluster, config)


@pytest.fixture(scope="module")
def whole(cluster: SlurmCluster, submit: Submit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a two-node job to which nothing happened."""
    folder = tmp_path_factory.mktemp("whole") / "job"
    cluster.wait(submit(folder), ["COMPLETED"])
    return folder / "run"


def environment() -> dict[str, str]:
    return {
        "PYTHONPATH": str(Path(__file__).parent),
        "BIAS_TRAIN_VENV": sys.prefix,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",  # the names of these nodes do not resolve
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_training(one: Path, two: Path, relative: float) -> None:
    """Sums over two processes are taken in another order than over one."""
    first, second = rows(one / "metrics.csv"), rows(two / "metrics.csv")
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for a, b in zip(first, second, strict=True):
        for name in ("train/loss", "train/contrastive/infonce", "train/debias/rank_hinge", "train/logit_scale"):
            if a[name]:
                assert float(b[name]) == pytest.approx(float(a[name]), rel=relative, abs=1e-5)


def assert_identical(one: Path, two: Path) -> None:
    for table in ("metrics.csv", "records.csv"):
        assert rows(one / table) == rows(two / table)
    weights = [load_file(folder / "retriever.safetensors") for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=0)


def assert_in_wandb(run: Path) -> None:
    """W&B's files have every scalar, though its process was killed with all others of the job."""
    logged = logged_steps(run / "wandb")
    for row in rows(run / "metrics.csv"):
        lacking = [
            name for name, value in row.items() if value and name != "step" and int(row["step"]) not in logged[name]
        ]
        assert not lacking, row["step"]


def log_of(job: dict[str, str]) -> str:
    return Path(job["StdOut"]).read_text()


def begun(folder: Path) -> list[int]:
    """The step that each life went on from."""
    return [int(path.read_text()) for path in sorted(folder.glob("begun-*"))]


def wandb_runs(run: Path) -> list[str]:
    return [path.name.rpartition("-")[2] for path in run.glob("wandb/offline-run-*")]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def at_gate(cluster: SlurmCluster, folder: Path, job: str, life: int) -> list[int]:
    """Wait until both ranks of a life wait; returns their process ids."""
    files = [folder / f"waits-{life}-{rank}" for rank in (0, 1)]

    def there() -> bool:
        assert cluster.job(job)["JobState"] in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), log_of(
            cluster.job(job)
        )
        return all(file.exists() for file in files)

    until(there, f"life {life} at its gate", lambda: log_of(cluster.job(job)), timeout=180)
    return [int(file.read_text()) for file in files]


def test_two_nodes_train_what_one_process_does(
    cluster: SlurmCluster, whole: Path, config: Path, tmp_path: Path
) -> None:
    # In a shell of salloc, as one would try a configuration out: no srun, one process.
    out = cluster.run(
        "salloc", "--nodes=1", "--ntasks=1", PROGRAM, "fit", "--config", str(config), "--run_dir", "one",
        cwd=tmp_path, env=environment(),
    )  # fmt: skip
    assert "run folder: one" in out
    assert json.loads((tmp_path / "one" / "environment.json").read_text())["world_size"] == 1
    assert json.loads((whole / "environment.json").read_text())["world_size"] == 2
    assert json.loads((whole / "environment.json").read_text())["nodes"] == 2
    assert_same_training(tmp_path / "one", whole, relative=1e-3)


def test_torchrun_trains_the_same(whole: Path, config: Path, tmp_path: Path) -> None:
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node=2", "--no-python"]
    done = subprocess.run(
        [*torchrun, PROGRAM, "fit", "--config", str(config), "--run_dir", "two", "--trainer.devices=2"],
        cwd=tmp_path, env={**os.environ, **environment()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert_identical(tmp_path / "two", whole)


def test_a_requeue_a_warning_and_a_kill_leave_no_trace(
    cluster: SlurmCluster, submit: Submit, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    job = submit(folder, gates=(1, 6, 11))
    at_gate(cluster, folder, job, life=0)
    cluster.requeue(job)
    at_gate(cluster, folder, job, life=1)
    cluster.signal(job, signal.SIGUSR1)
    _, second = at_gate(cluster, folder, job, life=2)
    os.kill(second, signal.SIGKILL)
    ended = cluster.wait(job, ["COMPLETED"])
    assert ended["Restarts"] == "3"
    # Ranks agree during the step after the one in which they were asked; the kill costs what came after step 10.
    assert begun(folder) == [0, 3, 8, 10], log_of(ended)
    assert_identical(folder / "run", whole)
    assert set(wandb_runs(folder / "run")) == {(folder / "run" / "wandb_id.txt").read_text().strip()}
    assert len(wandb_runs(folder / "run")) == 4
    assert_in_wandb(folder / "run")


def test_a_node_that_fails_costs_the_steps_since_a_checkpoint(
    cluster: SlurmCluster, submit: Submit, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    job = submit(folder, gates=(6,))
    first, _ = at_gate(cluster, folder, job, life=0)
    node = cluster.job(job)["BatchHost"]
    cluster.kill_slurmd(node)
    until(lambda: not alive(first), "the end of the first rank")
    cluster.wait_node(node, ["DOWN"])
    cluster.wait(job, ["PENDING"])
    cluster.start_slurmd(node)
    ended = cluster.wait(job, ["COMPLETED"])
    assert ended["Restarts"] == "1"
    assert begun(folder) == [0, 5], log_of(ended)
    assert_identical(folder / "run", whole)
    assert_in_wandb(folder / "run")
