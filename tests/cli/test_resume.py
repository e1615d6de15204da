"""A run that was killed goes on as if it had not been: nothing measured is lost, and nothing is measured twice."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bias_train.callbacks.retrieval import Retrieval

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
