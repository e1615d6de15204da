"""Two real processes over gloo train what one does."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from written_shards import write_overlaid

from datamodules.world import WorldPeople, write_people_world

TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.num_workers=0"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bias_train.cli.main", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def assert_equal_runs(one: Path, two: Path) -> None:
    first, second = rows(one / "metrics.csv"), rows(two / "metrics.csv")
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for a, b in zip(first, second, strict=True):
        for name in ("train/loss", "train/contrastive/infonce", "train/debias/rank_hinge", "train/logit_scale"):
            if a[name]:
                # Sums in another order, and six optimiser steps that build on them.
                assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-3, abs=1e-5)
    figures = [{(r["name"], r["k"], r["ratio"], r["step"]): r for r in rows(f / "records.csv")} for f in (one, two)]
    assert figures[0].keys() == figures[1].keys()
    for key, record in figures[0].items():
        if key[0] == "pair_win_rate":
            assert float(figures[1][key]["value"]) == pytest.approx(float(record["value"]), abs=0.02)


def test_two_processes_train_what_one_does(config: Path, tmp_path: Path) -> None:
    # Also the pictures of people, which ranks share: 35 in batches of 8 leave one rank a batch less.
    write_people_world(tmp_path / "people", samples=35, people=WorldPeople())
    given = {"shards": ["people"], "words": "people/words.csv", "ks": [10], "minimum": 5, "batch_size": 8}
    callback = {"class_path": "bias_train.callbacks.social_bias.SocialBias", "init_args": given}
    people = f"--trainer.callbacks+={json.dumps(callback)}"
    # And rendered words, which ranks share too: 2 styles of 13 words.
    write_overlaid(tmp_path / "overlaid", 9)
    given = {"shards": ["overlaid"], "word_limit": 13, "styles": ["white/black", "gray/white"], "batch_size": 8}
    callback = {"class_path": "bias_train.callbacks.text_spotting.TextSpotting", "init_args": given}
    text = f"--trainer.callbacks+={json.dumps(callback)}"
    run("fit", "--config", str(config), "--run_dir", "one", people, text, cwd=tmp_path)
    run("fit", "--config", str(config), "--run_dir", "two", people, text, *TWO, cwd=tmp_path)
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["world_size"] == 2
    assert_equal_runs(tmp_path / "one", tmp_path / "two")
    social = [
        [float(row["value"]) for row in rows(tmp_path / name / "records.csv") if row["name"] == "abs_association"]
        for name in ("one", "two")
    ]
    assert len(social[0]) == 2 * 2  # two evaluations by two attributes
    assert social[1] == pytest.approx(social[0], abs=0.02)
    sync = [
        [float(row["value"]) for row in rows(tmp_path / name / "records.csv") if row["name"] == "sync"]
        for name in ("one", "two")
    ]
    assert len(sync[0]) == 2 * 3  # two evaluations of two styles and their mean
    assert sync[1] == pytest.approx(sync[0], abs=0.02)


def test_a_cell_of_a_sweep_may_train_on_two_processes(config: Path, tmp_path: Path) -> None:
    document = {
        "name": "grid",
        "root": "grid",
        "base": [str(config)],
        "axes": {"devices": {"key": "trainer.devices", "values": [1, 2]}},
        "overrides": {"trainer.strategy": "ddp"},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(document))
    run("sweep", "run", "grid.yaml", cwd=tmp_path)
    one, two = sorted(path.parent for path in tmp_path.glob("grid/*/status.json"))
    assert_equal_runs(one, two)
