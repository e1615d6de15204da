"""Nothing that happens to W&B stops a training: no server, a silent one, one that falls silent, a dead process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from offline_run import parts_of, read
from wandb_server import environment, own_environment, serving, silent_port

KILL = """
import lightning.pytorch as pl
import psutil

class KillWandb(pl.Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            killed = [child for child in psutil.Process().children(recursive=True) if "wandb" in child.name()]
            assert killed
            for child in killed:
                child.kill()
            psutil.wait_procs(killed)
"""


@pytest.fixture(scope="module")
def plain(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small configuration with W&B and without example rankings, whose upload takes more of a server."""
    document = yaml.safe_load(config.read_text())
    document["trainer"]["callbacks"][0]["init_args"]["examples"] = 0
    document["logging"] = {"tensorboard": False, "wandb_mode": "online", "wandb_timeout_s": 3.0}
    folder = tmp_path_factory.mktemp("plain")
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    (folder / "killing.py").write_text(KILL)
    return folder / "config.yaml"


def fit(plain: Path, run: Path, variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bias_train.cli.main", "fit", "--config", str(plain), "--run_dir", str(run), *arguments],
        env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


def said_of_wandb(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in (done.stdout + done.stderr).splitlines() if "W&B" in line or "wandb:" in line]


def losses(history: list[dict[str, Any]]) -> list[int]:
    return [row["trainer/global_step"] for row in history if "train/loss" in row]


def assert_trained(done: subprocess.CompletedProcess[str], run: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((run / "status.json").read_text())["state"] == "done"


@pytest.mark.parametrize("kind", ["refusing", "stalling"])
def test_without_a_server_the_run_is_kept_offline(plain: Path, tmp_path: Path, kind: str) -> None:
    with silent_port(kind) as address:
        done = fit(plain, tmp_path / "run", environment(address))
    assert_trained(done, tmp_path / "run")
    (line,) = said_of_wandb(done)
    assert "W&B could not start online" in line
    assert "kept in the run folder; send it with `bias-train wandb sync`" in line
    (part,) = parts_of(tmp_path / "run")
    assert part.id == (tmp_path / "run" / "wandb_id.txt").read_text().strip()
    assert losses(part.history) == list(range(6))
    assert part.exit_code == 0


def test_without_a_key_the_run_is_kept_offline(plain: Path, tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    with silent_port("refusing") as address:
        done = fit(plain, tmp_path / "run", {**variables, "WANDB_BASE_URL": address, "HOME": str(tmp_path)})
    assert_trained(done, tmp_path / "run")
    (line,) = said_of_wandb(done)
    assert "W&B could not start online" in line
    assert losses(parts_of(tmp_path / "run")[0].history) == list(range(6))


def test_with_a_server_the_run_is_sent_as_it_goes(plain: Path, tmp_path: Path) -> None:
    with serving() as server:
        done = fit(plain, tmp_path / "run", environment(server.address), "--logging.wandb_timeout_s=60")
    assert_trained(done, tmp_path / "run")
    assert said_of_wandb(done) == []
    (run,) = server.upserts
    assert run == (tmp_path / "run" / "wandb_id.txt").read_text().strip()
    assert losses(list(server.history[run].values())) == list(range(6))
    assert server.exit_codes == {run: 0}


def test_a_server_that_falls_silent_in_mid_run_holds_nothing_up(plain: Path, tmp_path: Path) -> None:
    with serving() as server:
        server.stall_after = "UpsertBucket"
        done = fit(plain, tmp_path / "run", environment(server.address), "--logging.wandb_timeout_s=15")
    assert_trained(done, tmp_path / "run")
    assert not server.history
    (line,) = said_of_wandb(done)
    assert "did not take all in time; `wandb sync --include-online" in line
    (file,) = (tmp_path / "run").glob("wandb/run-*/*.wandb")
    assert losses(read(file).history) == list(range(6))


def test_where_wandb_dies_training_goes_on(plain: Path, tmp_path: Path) -> None:
    callback = f"--trainer.callbacks+={json.dumps({'class_path': 'killing.KillWandb'})}"
    variables = {**own_environment(), "PYTHONPATH": str(plain.parent)}
    done = fit(plain, tmp_path / "run", variables, "--logging.wandb_mode=offline", callback)
    assert_trained(done, tmp_path / "run")
    (line,) = said_of_wandb(done)
    assert "W&B failed" in line
    assert "nothing more is logged there" in line
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 1 + 6


def test_a_wait_of_no_time_is_refused(plain: Path, tmp_path: Path) -> None:
    done = fit(plain, tmp_path / "run", own_environment(), "--logging.wandb_timeout_s=0")
    assert done.returncode == 2
    assert "logging.wandb_timeout_s takes seconds above 0" in done.stderr
