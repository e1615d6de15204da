"""A run that was killed goes on as if it had not been: nothing measured is lost, and nothing is measured twice."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bias_train.callbacks.retrieval import Retrieval
from bias_train.callbacks.stream_monitor import StreamMonitor

NO_SANITY_CHECK = ["--trainer.num_sanity_val_steps=0"]
Train = Callable[..., Path]


class Killed(BaseException):
    """Stands in for a kill: nothing catches it, and whatever would tidy up after an error is left out."""


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type, str, int], None]]:
    """End training at the n-th call of a method, leaving the run folder as it is at that moment."""

    def at(owner: type, method: str, call: int) -> None:
        original = getattr(owner, method)
        calls = 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, method, counted)

    return at


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal_tables(one: Path, two: Path) -> None:
    assert rows(one / "records.csv") == rows(two / "records.csv")
    assert rows(one / "metrics.csv") == rows(two / "metrics.csv")


@pytest.mark.parametrize("evaluation", [1, 2])
def test_an_evaluation_that_a_kill_cut_short_is_made_again(
    train: Train, kill: Callable[[type, str, int], None], evaluation: int
) -> None:
    whole = train(name="whole")
    # One evaluation's records come from two callbacks, and the kill falls between them.
    kill(Retrieval, "on_validation_epoch_end", evaluation)
    with pytest.raises(Killed):
        train(*NO_SANITY_CHECK, name="killed")
    killed = train("--resume=auto", *NO_SANITY_CHECK, name="killed")
    assert_equal_tables(killed, whole)
    assert json.loads((killed / "status.json").read_text())["step"] == 6
    weights = [load_file(folder / "retriever.safetensors") for folder in (killed, whole)]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=0)


def test_an_evaluation_that_a_broken_checkpoint_undid_is_made_again(
    train: Train, kill: Callable[[type, str, int], None]
) -> None:
    options = [*NO_SANITY_CHECK, "--checkpoint_every=1"]
    whole = train(*options, name="whole")
    kill(StreamMonitor, "on_train_batch_start", 4)  # after the evaluation at step 3
    with pytest.raises(Killed):
        train(*options, name="killed")
    (whole.parent / "killed" / "checkpoints" / "step=3.ckpt").unlink()
    kill(Retrieval, "on_validation_epoch_end", 1)  # at step 3 again, whose checkpoint is there before
    with pytest.raises(Killed):
        train(*options, "--resume=auto", name="killed")
    assert_equal_tables(train(*options, "--resume=auto", name="killed"), whole)


def test_dropout_goes_on_as_it_would_have(train: Train, config: Path, tmp_path: Path) -> None:
    model = json.loads((config.parent / "model.json").read_text())
    model["vision_cfg"]["patch_dropout"] = 0.5
    (tmp_path / "model.json").write_text(json.dumps(model))
    options = [f"--model.retriever.config={tmp_path / 'model.json'}", "--model.schedule.total_steps=6"]
    whole = train(*options, name="whole")
    train(*options, "--trainer.max_steps=3", name="cut")
    cut = train(*options, "--resume=auto", name="cut")
    assert_equal_tables(cut, whole)


def test_what_a_start_measured_before_its_first_checkpoint_is_not_counted_twice(
    train: Train, kill: Callable[[type, str, int], None]
) -> None:
    options = ["--trainer.num_sanity_val_steps=-1", "--checkpoint_every=6"]
    whole = train(*options, name="whole")
    kill(Retrieval, "on_validation_epoch_end", 2)  # the first is the evaluation before training
    with pytest.raises(Killed):
        train(*options, name="killed")
    assert not list((whole.parent / "killed" / "checkpoints").glob("*.ckpt"))
    assert_equal_tables(train(*options, "--resume=auto", name="killed"), whole)


def test_an_asynchronous_run_is_a_synchronous_one(train: Train) -> None:
    one = train("--checkpoint_every=1", name="one")
    two = train("--checkpoint_every=1", "--checkpoint_async=true", name="two")
    assert_equal_tables(one, two)
    states = [torch.load(f / "checkpoints" / "step=6.ckpt", weights_only=False)["state_dict"] for f in (one, two)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert [path.name for path in (two / "checkpoints").iterdir()] == ["step=6.ckpt"]


def test_an_end_that_missed_the_schedule_is_saved(train: Train, tmp_path: Path) -> None:
    train("--trainer.max_steps=4", "--checkpoint_every=3")
    stale = tmp_path / "run" / "checkpoints" / "step=5.ckpt"
    stale.write_bytes(b"of a start that went another way")
    os.utime(stale, (0, 0))
    train("--trainer.max_steps=5", "--checkpoint_every=3", "--resume=auto")
    assert torch.load(stale, weights_only=False)["global_step"] == 5
