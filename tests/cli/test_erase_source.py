"""Erasure at the end of a training: what is recorded, what is written, on several ranks and after a restart."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bias_train.callbacks.erase_source import SourceErasure
from bias_train.cli.fit import fit
from bias_train.cli.inputs import retriever_of_run
from bias_train.embed import embed_shards
from bias_train.errors import RunError
from models.erasure import LinearEraser

NAME = "bias_train.callbacks.erase_source.SourceErasure"


def erasing(config: Path, folder: Path, **options: Any) -> str:
    """A configuration that adds the callback to the small one."""
    document = {"trainer": {"callbacks+": [{"class_path": NAME, "init_args": options}]}}
    path = folder / "erasure.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def records(run: Path) -> dict[tuple[str, ...], float]:
    with (run / "records.csv").open(newline="") as file:
        keys = ("step", "axis", "name", "k", "ratio", "label")
        return {tuple(row[k] for k in keys): float(row["value"]) for row in csv.DictReader(file)}


def embedded(run: Path, world: Path, weights: str = "retriever.safetensors") -> torch.Tensor:
    retriever = retriever_of_run(run, weights)
    return embed_shards(retriever, [str(world / "val")]).image


@pytest.mark.parametrize(
    "options", [{"method": "leace"}, {"method": "projection", "strength": "tuned"}], ids=lambda o: o["method"]
)
def test_the_last_figures_and_the_file_are_the_erased_retrievers(
    config: Path, world: Path, train: Callable[..., Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    plain = train(name="plain")
    erased = train("--config", erasing(config, tmp_path, **options), name="erased")
    # Training is the same, and so is every figure before the last step.
    first, second = records(plain), records(erased)
    assert first.keys() == second.keys()
    early = [key for key in first if key[0] != "6"]
    assert early
    assert all(first[key] == pytest.approx(second[key], nan_ok=True) for key in early)
    unerased = embedded(erased, world, "retriever_unerased.safetensors")
    torch.testing.assert_close(unerased, embedded(plain, world))
    eraser = LinearEraser.load(erased / "eraser.safetensors")
    assert eraser.metadata["method"] == options["method"]
    torch.testing.assert_close(embedded(erased, world), eraser.apply(unerased), rtol=0, atol=1e-5)
    # What callbacks recorded at the last step is what the file gives.
    report = json.loads((erased / "erasure.json").read_text())["evaluation"]
    found = {when: {f["name"]: f["value"] for f in report[when]["bias"]} for when in ("before", "after")}
    for when, table in (("before", first), ("after", second)):
        key = next(k for k in table if k[0] == "6" and k[2] == "pair_win_rate" and k[4] == "0.5")
        assert found[when]["pair_win_rate"] == pytest.approx(table[key])
    if options.get("strength", 1.0) == 1.0:
        assert found["before"]["pair_win_rate"] != found["after"]["pair_win_rate"]


def test_a_run_killed_before_it_was_written_ends_alike(
    config: Path, train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = ["--config", erasing(config, tmp_path, method="projection")]
    whole = train(*extra, name="whole")

    class Killed(BaseException):
        pass

    def dies(self: Any, *args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(SourceErasure, "on_train_end", dies)
        with pytest.raises(Killed):
            train(*extra, name="killed")
    killed = train(*extra, "--resume=auto", name="killed")
    assert records(killed) == pytest.approx(records(whole), nan_ok=True)
    for name in ("eraser.safetensors", "retriever.safetensors", "retriever_unerased.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_two_processes_erase_what_one_does(
    config: Path, world: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    extra = ["--config", erasing(config, tmp_path, method="projection", strength="tuned")]
    train(*extra, name="one")
    command = [sys.executable, "-m", "bias_train.cli.main", "fit", "--config", str(config), "--run_dir", "two", *extra]
    two_of_them = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.num_workers=0"]
    done = subprocess.run([*command, *two_of_them], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (LinearEraser.load(tmp_path / name / "eraser.safetensors") for name in ("one", "two"))
    assert one.metadata["fitted_on"] == two.metadata["fitted_on"]
    torch.testing.assert_close(one.at(1.0).matrix, two.at(1.0).matrix, rtol=0, atol=1e-2)
    erased, unerased = (
        embedded(tmp_path / "two", world, f"{name}.safetensors") for name in ("retriever", "retriever_unerased")
    )
    torch.testing.assert_close(erased, two.apply(unerased), rtol=0, atol=1e-5)


def test_what_cannot_work_is_refused_before_the_first_step(
    config: Path, world: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    plain = erasing(config, tmp_path, method="projection")
    average = "--trainer.callbacks+=bias_train.callbacks.weights."
    for number, (options, words) in enumerate(
        (
            ([f"--data.val=[{world / 'train'}]"], "share the shard"),
            (["--trainer.val_check_interval=4"], "does not divide"),
            ([f"{average}InterpolateToStart"], "cannot go together"),
            ([f"{average}ExponentialMovingAverage"], "after the moving average"),
        )
    ):
        with pytest.raises(RunError, match=words):
            train("--config", plain, *options, name=f"refused{number}")
        assert not (tmp_path / f"refused{number}" / "checkpoints").exists()
    for wrong in ({"strength": -1.0}, {"calibration_pictures": 1}, {"figure": "X@1"}, {"method": "none"}):
        with pytest.raises(RunError):
            SourceErasure(**wrong)


def test_without_an_evaluation_the_retriever_is_erased_all_the_same(config: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(config.read_text())
    document["data"]["init_args"]["val"] = []
    document["trainer"]["callbacks"] = [{"class_path": NAME, "init_args": {"method": "projection"}}]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    run = fit(["--config", str(path), "--run_dir", str(tmp_path / "run")])
    assert (run / "eraser.safetensors").is_file()
    assert (run / "retriever_unerased.safetensors").is_file()
