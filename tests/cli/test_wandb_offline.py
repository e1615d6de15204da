"""Offline W&B runs, read back from their files: one run over restarts, its place in a sweep, its bounds."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from offline_run import parts_of, read, written
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bias_train.callbacks.source_bias import SourceBias
from bias_train.callbacks.stream_monitor import StreamMonitor
from bias_train.errors import RunError
from bias_train.preemption import Preempted
from bias_train.tracking.coordinates import coordinates

Train = Callable[..., Path]
ALL = ["--logging.wandb=true", "--logging.tensorboard=true", "--logging.project=trial"]


def fit_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bias_train.cli.main", "fit", *arguments]


def test_a_run_that_was_stopped_and_went_on_is_one_run(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: StreamMonitor, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(StreamMonitor, "on_train_batch_start", stop)
        with pytest.raises(Preempted):
            train(*ALL)
    folder = train(*ALL, "--resume=auto")
    first, second = parts_of(folder)
    assert {first.id, second.id} == {(folder / "wandb_id.txt").read_text().strip()}
    assert (first.preempting, first.exit_code) == (True, 1)
    assert (second.preempting, second.exit_code) == (False, 0)
    steps = [[row["trainer/global_step"] for row in part.history if "train/loss" in row] for part in (first, second)]
    assert steps == [[0, 1, 2, 3], [4, 5]]


def test_what_a_killed_start_did_not_write_is_logged_by_the_next(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: StreamMonitor, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(StreamMonitor, "on_train_batch_start", stop)
        with pytest.raises(Preempted):
            train(*ALL)
    file = written(next(tmp_path.glob("run/wandb/offline-run-*/*.wandb")))
    os.truncate(file, file.stat().st_size // 2)  # as where W&B's own process is killed with all others of a job
    before = read(file)
    folder = train(*ALL, "--resume=auto")
    after = read(written(sorted(folder.glob("wandb/offline-run-*/*.wandb"))[1]))
    with (folder / "metrics.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    whole = {(int(row["step"]), name) for row in rows for name, value in row.items() if value and name != "step"}
    first, second = (
        {(row["trainer/global_step"], name) for row in run.history for name in row if name in rows[0]}
        for run in (before, after)
    )
    assert first < whole
    assert not first >= {entry for entry in whole if entry[0] < 4}
    assert first | second == whole
    assert {name for _, name in first & second} <= {"epoch"}  # nothing twice but what belongs to several rows


def test_every_scalar_is_in_all_loggers(train: Train) -> None:
    folder = train(*ALL)
    with (folder / "metrics.csv").open(newline="") as file:
        in_csv = set(next(csv.reader(file))) - {"step"}
    with (folder / "throughput.csv").open(newline="") as file:
        in_csv |= {f"data/{name}" for name in next(csv.reader(file)) if name != "step"}
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    # TensorBoard's logger adds an empty figure to its page of hyperparameters.
    assert set(events.Tags()["scalars"]) - {"hp_metric"} == in_csv
    (run,) = parts_of(folder)
    pictures = {"bias/source/examples"}
    assert run.names() - {"trainer/global_step"} == in_csv | pictures
    # What a project's table of runs shows is the last of each.
    last = {name: row[name] for row in run.history for name in in_csv if name in row}
    assert {name: run.summary[name] for name in in_csv} == last
    assert in_csv >= {"train/loss", "bias/source/relative_delta_R@1/ratio=0.5", "retrieval/t2i_R@1/ratio=0"}


def test_a_run_holds_its_whole_configuration_and_no_key(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    folder = train(*ALL, "--data.share=0.25")
    (run,) = parts_of(folder)
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: value for name, value in run.config.items() if name != "_wandb"} == resolved
    assert run.config["data"]["init_args"]["share"] == 0.25
    assert (run.project, run.name, run.group, run.tags) == ("trial", "run", "", [])
    assert not [path for path in folder.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


def test_a_run_names_the_commit_it_was_started_at(config: Path, tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    command = fit_command("--config", str(config), "--run_dir", "run", "--logging.wandb=true", "--trainer.max_steps=1")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (run,) = parts_of(tmp_path / "run")
    assert run.commit == commit.stdout.strip()


@pytest.fixture
def cell(tmp_path: Path) -> dict[str, Any]:
    """A run folder of a sweep."""
    document = {"sweep": "mixing", "id": "x_1", "axes": {"share": 0.5, "loss": "rank_hinge", "seed": 1}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "cell.json").write_text(json.dumps(document))
    return document


def test_a_cell_of_a_sweep_is_grouped_tagged_and_named(train: Train, cell: dict[str, Any]) -> None:
    folder = train(*ALL, "--trainer.max_steps=1")
    (run,) = parts_of(folder)
    assert (run.group, run.name) == ("mixing", "share=0.5 loss=rank_hinge seed=1")
    assert run.tags == ["share=0.5", "loss=rank_hinge", "seed=1"]
    assert run.config["cell"] == cell


def test_what_the_user_names_wins_over_the_sweep(train: Train, cell: dict[str, Any]) -> None:
    folder = train(*ALL, "--trainer.max_steps=1", "--logging.group=mine", "--logging.tags=[a,b]")
    (run,) = parts_of(folder)
    assert (run.group, run.tags) == ("mine", ["a", "b"])


def test_a_real_sweep_gives_its_cells_their_places(config: Path, tmp_path: Path) -> None:
    document = {
        "name": "grid",
        "root": "grid",
        "base": [str(config)],
        "axes": {"share": {"key": "data.share", "values": [0.25, 0.5]}},
        "overrides": {"logging.wandb": True, "trainer.max_steps": 1},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "bias_train.cli.main", "sweep", "run", "grid.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [part for folder in sorted(tmp_path.glob("grid/share*")) for part in parts_of(folder)]
    assert [(run.group, run.name, run.tags) for run in runs] == [
        ("grid", "share=0.25", ["share=0.25"]),
        ("grid", "share=0.5", ["share=0.5"]),
    ]


def test_long_coordinates_are_cut_to_what_wandb_takes(tmp_path: Path) -> None:
    axes = {"losses": ["x" * 300], "model": "y" * 300}
    (tmp_path / "cell.json").write_text(json.dumps({"sweep": "z" * 300, "axes": axes}))
    place = coordinates(tmp_path)
    assert [len(tag) for tag in place.tags] == [64, 64]
    assert (len(place.name), len(place.group or "")) == (128, 128)


def test_a_damaged_cell_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "cell.json").write_text('{"sweep": "a", "axes"')
    place = coordinates(tmp_path)
    assert (place.name, place.group, place.tags, place.config) == (tmp_path.name, None, (), {})


def test_two_processes_log_one_run(config: Path, tmp_path: Path) -> None:
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.num_workers=0"]
    command = fit_command("--config", str(config), "--run_dir", "run", "--logging.wandb=true", *two)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.rglob("*.wandb"))) == 1
    (run,) = parts_of(tmp_path / "run")
    assert [row["trainer/global_step"] for row in run.history if "train/loss" in row] == list(range(6))


def is_picture(path: Path) -> bool:
    try:
        Image.open(path).verify()
    except OSError:
        return False
    return True


def examples(**options: Any) -> str:
    callback = {"class_path": "bias_train.callbacks.source_bias.SourceBias"}
    return f"--trainer.callbacks={json.dumps([callback | {'init_args': {'ratios': [0.5], 'resamples': 0} | options}])}"


def test_tables_and_pictures_stay_within_their_bounds(train: Train) -> None:
    options = examples(examples=2, example_top=3, example_size=16, example_tables=3)
    folder = train(*ALL, options, "--trainer.max_steps=12", "--trainer.val_check_interval=1")
    (run,) = parts_of(folder)
    tables = [row for row in run.history if "bias/source/examples" in row]
    assert [row["trainer/global_step"] for row in tables] == [1, 6, 12]
    for row in tables:
        entry = row["bias/source/examples"]
        assert (entry["_type"], entry["nrows"], entry["ncols"]) == ("table-file", 2, 4)
    pictures = [path for path in folder.rglob("wandb/data/**/*") if path.is_file() and is_picture(path)]
    assert 0 < len(pictures) <= 3 * 2 * 3
    assert all(max(Image.open(path).size) <= 16 for path in pictures)
    assert len(list((folder / "examples").glob("*.jpg"))) == 2 * 3
    assert all(max(Image.open(path).size) <= 16 for path in (folder / "examples").glob("*.jpg"))


def test_no_tables_where_none_are_wanted(train: Train) -> None:
    folder = train(*ALL, examples(example_tables=0), "--trainer.max_steps=3")
    (run,) = parts_of(folder)
    assert "bias/source/examples" not in run.names()
    assert (folder / "examples" / "examples.json").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("examples", 101), ("example_top", 0), ("example_size", 4096), ("example_tables", -1)],
)
def test_bounds_are_named(option: str, value: int) -> None:
    with pytest.raises(RunError, match=f"SourceBias: {option} is {value}; give"):
        SourceBias(**{option: value})  # type: ignore[arg-type]
