"""Evaluations held under a share of the time, by a clock that the test winds."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from bias_train.callbacks import evaluation_budget
from bias_train.callbacks.evaluation_budget import EvaluationBudget
from bias_train.errors import RunError

Train = Callable[..., Path]
EVERY_STEP = "--trainer.val_check_interval=1"


@pytest.fixture
def evaluated(train: Train, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Train under a budget; return the steps that were evaluated.

    The clock goes on by a second whenever it is looked at: once when an evaluation is due, once within one.
    """

    def run(max_share: float, *arguments: str, name: str = "run") -> list[int]:
        ticks = itertools.count()
        monkeypatch.setattr(evaluation_budget, "perf_counter", lambda: float(next(ticks)))
        callback = [f"--trainer.callbacks+={EvaluationBudget.__module__}.EvaluationBudget"]
        folder = train(*callback, f"--trainer.callbacks.max_share={max_share}", *arguments, name=name)
        with (folder / "records.csv").open(newline="") as file:
            return sorted({int(row["step"]) for row in csv.DictReader(file)})

    return run


def test_an_evaluation_waits_until_it_can_be_afforded(evaluated: Callable[..., list[int]]) -> None:
    # Step 1 is evaluated in a second. At steps 2 and 3 another would make it 2 s of 3 and of 4, at step 4 it is 2 of 5;
    # at step 5 a third would make it 3 s of 7. The last step is evaluated all the same.
    assert evaluated(0.4, EVERY_STEP) == [1, 4, 6]


def test_a_small_share_leaves_the_first_and_the_last(evaluated: Callable[..., list[int]]) -> None:
    assert evaluated(1e-6, EVERY_STEP) == [1, 6]


def test_a_large_share_leaves_all(evaluated: Callable[..., list[int]]) -> None:
    assert evaluated(1e6, EVERY_STEP, name="every") == [1, 2, 3, 4, 5, 6]
    assert evaluated(1e6, "--trainer.val_check_interval=2", name="second") == [2, 4, 6]


def test_the_weights_are_the_same(train: Train, evaluated: Callable[..., list[int]], tmp_path: Path) -> None:
    evaluated(1e-6, EVERY_STEP, name="budget")
    whole = train(EVERY_STEP, name="whole")
    assert (whole / "retriever.safetensors").read_bytes() == (tmp_path / "budget/retriever.safetensors").read_bytes()


def test_a_share_must_be_above_zero() -> None:
    with pytest.raises(RunError, match="max_share is 0"):
        EvaluationBudget(0)
