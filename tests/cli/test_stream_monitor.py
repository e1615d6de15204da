"""What the monitor of the stream logs, against the plan and against the stream itself."""

from __future__ import annotations

import csv
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import TQDMProgressBar
from test_fit import _history

from bias_train.callbacks import stream_monitor
from bias_train.cli.run_plan import plan_of_run
from datamodules.index import ShardIndex, build_index
from datamodules.plan_table import plan_table
from datamodules.stream import MixedStream

Train = Callable[..., Path]

TIMED = {"images_per_second", "wait_seconds", "wait_share", "evaluation_share", "cache_hits", "cache_misses"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def data_rows(folder: Path) -> list[dict[str, float]]:
    """The steps and the scalars of data in ``metrics.csv``."""
    found = [
        {name: float(value) for name, value in row.items() if value and (name == "step" or name.startswith("data/"))}
        for row in rows(folder / "metrics.csv")
    ]
    return [row for row in found if len(row) > 1]


def shares(folder: Path, batches_a_step: int = 1) -> list[dict[str, float]]:
    """What the plan says about the shares after each optimiser step."""
    source = plan_table(plan_of_run(folder), range(6 * batches_a_step))["source"].to_pylist()
    ends = range(16 * batches_a_step, len(source) + 1, 16 * batches_a_step)
    return [
        {"step": step, **{f"data/share/{name}": source[:end].count(name) / end for name in ("real", "world-gen")}}
        for step, end in enumerate(ends)
    ]


@pytest.fixture
def corrupt(world: Path, tmp_path: Path) -> Path:
    """The shards of training, in which every sixth picture's header is overwritten."""
    folder = tmp_path / "corrupt"
    shutil.copytree(world / "train", folder)
    index = ShardIndex.load(folder)
    with (folder / index.shards[0].name).open("r+b") as file:
        for offset in index.offset[::6].tolist():
            file.seek(offset)
            file.write(b"no JPEG at all")
    build_index(folder).save()
    return folder


def test_the_mixture_so_far_is_that_of_the_plan(train: Train) -> None:
    folder = train("--data.share=0.3")
    found = data_rows(folder)
    assert [row.pop("data/skipped") for row in found] == [0] * 6
    assert found == [pytest.approx(row) for row in shares(folder)]
    assert found[-1]["data/share/world-gen"] == pytest.approx(0.3, abs=1 / 96)


def test_it_is_logged_as_often_as_the_trainer_logs(train: Train) -> None:
    folder = train("--data.share=0.3", "--trainer.log_every_n_steps=2")
    found = data_rows(folder)
    assert [row["step"] for row in found] == [1, 3, 5]
    assert found[1]["data/share/real"] == pytest.approx(shares(folder)[3]["data/share/real"])
    assert "data/skipped" not in rows(train("--trainer.log_every_n_steps=0", name="never") / "metrics.csv")[0]


def test_batches_that_accumulate_are_one_step(train: Train) -> None:
    folder = train("--data.share=0.3", "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=12")
    found = data_rows(folder)
    assert [row.pop("data/skipped") for row in found] == [0] * 6
    assert found == [pytest.approx(row) for row in shares(folder, batches_a_step=2)]


def test_what_depends_on_the_clock_is_kept_apart(train: Train) -> None:
    folder = train("--logging.tensorboard=true", "--logging.wandb=true")
    assert not {name for row in data_rows(folder) for name in row} & {f"data/{name}" for name in TIMED}
    found = rows(folder / "throughput.csv")
    assert [row["step"] for row in found] == [str(step) for step in range(6)]
    assert set(found[0]) == {"step", *TIMED}
    for row in found:
        assert all(float(row[name]) >= 0 for name in TIMED)
        assert float(row["wait_share"]) <= 1
    names = {f"data/{name}" for name in TIMED} | {"data/share/real", "data/share/world-gen", "data/skipped"}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert names <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("data/images_per_second")] == list(range(6))
    history, _ = _history(sorted(folder.glob("wandb/offline-run-*/*.wandb")))
    assert names <= set(history)


def test_anchors_and_twins_are_counted_and_evaluations_are_not_timed(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(stream_monitor, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    folder = train("--data.twin_share=0.25", "--trainer.limit_val_batches=0")
    twins = plan_table(plan_of_run(folder), range(6))["twin_source"].to_pylist()
    expected = [16 + sum(source is not None for source in twins[at : at + 16]) for at in range(0, 96, 16)]
    # The clock is looked at once when training starts and once a step: a second each.
    assert [float(row["images_per_second"]) for row in rows(folder / "throughput.csv")] == expected
    folder = train("--data.twin_share=0.25", "--trainer.num_sanity_val_steps=0", name="evaluated")
    # Twice more in an evaluation (after the third step), one second of which is the step's.
    expected[3] /= 2
    assert [float(row["images_per_second"]) for row in rows(folder / "throughput.csv")] == expected
    spent = [float(row["evaluation_share"]) for row in rows(folder / "throughput.csv")]
    assert spent == pytest.approx([0, 0, 0, 1 / 5, 1 / 6, 1 / 7])


def skipped_so_far(folder: Path) -> Iterator[int]:
    stream = MixedStream(plan_of_run(folder), (32, 32))
    return itertools.accumulate(len(stream.batch(step)["skipped"]) for step in range(6))


def test_pictures_that_cannot_be_read_are_counted_also_over_a_restart(train: Train, corrupt: Path) -> None:
    options = [f"--data.train=[{corrupt}]", "--data.max_bad_share=1", "--model.schedule.total_steps=6"]
    whole = train(*options, name="whole")
    found = [row["data/skipped"] for row in data_rows(whole)]
    assert found == list(skipped_so_far(whole))
    assert found[0] > 0
    assert [row["data/skipped/undecodable"] for row in data_rows(whole)] == found
    train(*options, "--trainer.max_steps=3", name="cut")
    cut = train(*options, "--resume=auto", name="cut")
    assert data_rows(cut) == data_rows(whole)
    assert [row["step"] for row in rows(cut / "throughput.csv")] == [str(step) for step in range(6)]


def test_two_processes_log_what_one_does(train: Train, config: Path, corrupt: Path, tmp_path: Path) -> None:
    options = [f"--data.train=[{corrupt}]", "--data.max_bad_share=1"]
    one = train(*options, name="one")
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--run_dir=two"]
    command = [sys.executable, "-m", "bias_train.cli.main", "fit", "--config", str(config), *options, *two]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert data_rows(tmp_path / "two") == data_rows(one)
    assert all(float(row["images_per_second"]) > 0 for row in rows(tmp_path / "two" / "throughput.csv"))


def test_the_progress_bar_shows_it(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    get_metrics = TQDMProgressBar.get_metrics

    def noted(*arguments: Any) -> dict[str, Any]:
        shown.append(get_metrics(*arguments))
        return shown[-1]

    monkeypatch.setattr(TQDMProgressBar, "get_metrics", noted)
    train()
    assert {"img/s", "wait", "gen", "skip"} <= set(shown[-1])
    assert (shown[-1]["gen"], shown[-1]["skip"]) == (0.5, 0)
