from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from bias_train.cli import shards_plan
from bias_train.cli.main import main
from datamodules.index import ShardIndex
from datamodules.mixed_source import MixedSourceDataModule

Train = Callable[..., Path]


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What training is really given, batch by batch."""
    batches: list[dict[str, Any]] = []
    handed_out = MixedSourceDataModule.on_before_batch_transfer

    def noted(self: MixedSourceDataModule, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        if "skipped" in batch:
            batches.append({name: batch[name] for name in ("key", "caption", "source")})
        return handed_out(self, batch, dataloader_idx)

    monkeypatch.setattr(MixedSourceDataModule, "on_before_batch_transfer", noted)
    return batches


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no byte of a shard be read."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a shard was read")

    monkeypatch.setattr(ShardIndex, "read_bytes", refuse)


def listed(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [f"{row['key']}.{row['view']}" if row["view"] else row["key"] for row in rows]


def plan(*arguments: object) -> int:
    return main(["shards", "plan", *map(str, arguments)])


def test_it_lists_what_a_run_was_given(
    train: Train, delivered: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = train("--data.share=0.3"), tmp_path / "plan.jsonl"
    monkeypatch.setattr(ShardIndex, "read_bytes", None)
    # The environment of the run's process must not tell the seed.
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    assert plan("--run", folder, "--steps", "0:6", "--captions", "--output", out) == 0
    rows = listed(out)
    assert names(rows) == [key for batch in delivered[:6] for key in batch["key"]]
    assert [row["caption_text"] for row in rows] == [text for batch in delivered[:6] for text in batch["caption"]]
    codes = [code for batch in delivered[:6] for code in batch["source"].tolist()]
    assert [row["source"] for row in rows] == [("real", "world-gen")[code] for code in codes]


@pytest.mark.usefixtures("no_reading")
def test_a_run_to_come_is_listed_from_its_configuration(
    config: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.jsonl"
    options = [
        "--config",
        config,
        "--data.share=0.25",
        "--data.twin_share=0",
        "--model.optimizer.lr=3",
        "--seed_everything",
        "9",
    ]
    assert plan(*options, "--steps=4:6", "--world-size", 4, "--output", out) == 0
    rows = listed(out)
    assert [(row["step"], row["rank"], row["row"]) for row in rows] == [
        (step, rank, row) for step in (4, 5) for rank in range(4) for row in range(4)
    ]
    assert sum(row["source"] == "world-gen" for row in rows) == 8
    assert "steps 4 to 5, 32 slots\nreal: 24 slots, 75.00%\nworld-gen: 8 slots, 25.00%\n" in capsys.readouterr().out
    assert plan(*options, "--seed_everything=10", "--steps=4:6", "--output", out) == 0
    assert names(listed(out)) != names(rows)


@pytest.mark.usefixtures("no_reading")
def test_forms_of_the_file_hold_the_same(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {suffix: tmp_path / "new" / f"plan.{suffix}" for suffix in ("csv", "parquet", "jsonl")}
    for at_once, suffix in zip((65_536, 16, 40), files, strict=True):  # in one piece and in several
        monkeypatch.setattr(shards_plan, "_ROWS_AT_ONCE", at_once)
        assert plan("--config", config, "--data.twin_share=0.5", "--steps=0:7", "--output", files[suffix]) == 0
    rows = listed(files["jsonl"])
    assert len(rows) == 7 * 16
    assert pyarrow.parquet.read_table(files["parquet"]).to_pylist() == rows
    with files["csv"].open(newline="") as file:
        written = list(csv.DictReader(file))
    assert written == [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["plan.csv", "plan.jsonl", "plan.parquet"]


def test_a_sample_and_a_source_are_looked_up(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everything, some = tmp_path / "all.jsonl", tmp_path / "some.jsonl"
    options = ["--config", config, "--data.twin_share=0.5", "--steps=0:20"]
    assert plan(*options, "--output", everything) == 0
    rows = listed(everything)
    key = rows[0]["key"]
    assert plan(*options, "--key", key, "--output", some) == 0
    assert listed(some) == [row for row in rows if row["key"] == key]
    assert f"listed: {len(listed(some))} slots" in capsys.readouterr().out
    assert plan(*options, "--source", "world-gen", "--output", some) == 0
    assert listed(some) == [row for row in rows if row["source"] == "world-gen"]


def test_the_printed_table_is_cut_and_says_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", config, "--data.twin_share=0"]
    assert plan(*options, "--steps=0:2") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["step", "position", "rank", "row", "key", "source", "caption", "shard", "epoch"]
    assert [line.split()[:2] for line in out[1:3]] == [["0", "0"], ["0", "1"]]
    assert "32 slots" in out[-3]
    assert plan(*options, "--steps=0:10") == 0
    assert "… and 120 more slots: --output FILE.csv" in capsys.readouterr().out
    assert plan(*options, "--steps=0:2", "--data.batch_size=2", "--key=scene-000000000", "--data.seed=1") == 0
    assert capsys.readouterr().out.endswith("listed: 0 slots\n")


def test_another_plan_than_the_run_followed_is_refused(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("--trainer.max_steps=3")
    capsys.readouterr()
    assert plan("--run", folder, "--data.share=0.25") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "followed another mixing plan" in error
    assert "(share was 0.5, is 0.25)" in error
    assert plan("--run", folder, "--data.share=0.25", "--force") == 0
    taken = capsys.readouterr()
    assert "world-gen: 4 slots, 25.00%" in taken.out
    assert "not the plan that the run followed (share was 0.5, is 0.25)" in taken.err
    train("--resume=auto", "--data.share=0.25", "--data.force_resume=true")
    capsys.readouterr()
    assert plan("--run", folder, "--steps=3:6") == 0
    assert capsys.readouterr().err == ""
    assert plan("--run", folder, "--steps=2:6") == 0
    assert "before step 3 the run followed another plan, see plan.before-3.json" in capsys.readouterr().err
    (folder / "plan.json").write_text("[]")
    assert plan("--run", folder) == 2
    assert "plan.json: is no record of a plan" in capsys.readouterr().err
    (folder / "plan.json").unlink()
    assert plan("--run", folder) == 0
    assert "records no plan" in capsys.readouterr().err


def test_the_runs_number_of_processes_is_the_default(train: Train, tmp_path: Path) -> None:
    folder, out = train("--trainer.max_steps=1"), tmp_path / "plan.jsonl"
    file = folder / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "world_size": 2}))
    assert plan("--run", folder, "--output", out) == 0
    assert [row["rank"] for row in listed(out)] == [0] * 8 + [1] * 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --run FOLDER of a run, or --config FILE"),
        (["--steps=3:3"], "--steps 3:3: is empty"),
        (["--steps=5:3"], "--steps 5:3: is empty"),
        (["--steps=-1:3"], "--steps -1:3: steps count from 0"),
        (["--steps=3"], "--steps 3: write A:B"),
        (["--steps=a:b"], "--steps a:b: write A:B"),
        (["--steps=0:1.5"], "--steps 0:1.5: write A:B"),
        (["--config", "CONFIG", "--world-size=3"], "multiple of the 3 processes"),
        (["--config", "CONFIG", "--source=dalle"], "--source dalle: no shard of data.train holds it"),
        (["--config", "CONFIG", "--key=nobody"], "no shard of data.train holds a sample 'nobody'"),
        (["--config", "CONFIG", "--output=plan.xlsx"], "plan.xlsx: end the file's name in .csv, .parquet, .jsonl"),
        (["--config", "CONFIG", "--data.shar=0.5"], "Option 'shar' is not accepted"),
        (["--config", "CONFIG", "--nonsense"], "nonsense"),
        (["--config", "CONFIG", "--data.train=[nowhere]"], "nowhere"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--run", "nowhere"], "nowhere: holds no config.yaml"),
    ],
)
def test_a_wrong_question_is_one_clear_error(
    config: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(*(str(config) if argument == "CONFIG" else argument for argument in arguments)) == 2
    taken = capsys.readouterr()
    assert message in taken.err
    assert len(taken.err.splitlines()) == 1
    assert taken.out == ""


def test_nothing_is_left_of_a_file_that_cannot_be_written(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    assert plan("--config", config, "--output", tmp_path / "taken" / "plan.csv") == 2
    assert "cannot write" in capsys.readouterr().err

    def broken(listing: shards_plan._Listing) -> Iterator[pyarrow.Table]:
        yield listing.schema.empty_table()
        raise ZeroDivisionError

    monkeypatch.setattr(shards_plan._Listing, "__iter__", broken)
    with pytest.raises(ZeroDivisionError):
        plan("--config", config, "--output", tmp_path / "new" / "plan.csv")
    assert not list((tmp_path / "new").iterdir())


def test_no_retriever_is_imported(config: Path) -> None:
    code = f"import sys; from bias_train.cli.main import main; main(['shards', 'plan', '--config', {str(config)!r}]); print([m for m in ('open_clip', 'models.open_clip_retriever', 'wandb') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_other_commands_still_refuse_what_they_do_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["shards", "inspect", "folder", "--data.share=0.5"])
    assert "unrecognized arguments: --data.share=0.5" in capsys.readouterr().err
