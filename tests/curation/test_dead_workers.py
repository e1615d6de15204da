"""A worker process that ends by itself is one error that says what it was at work on."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from datamodules.crew import Crew
from datamodules.errors import DataError


def make() -> Callable[[int], int]:
    return work


def work(task: int) -> int:
    if task == 3:
        os._exit(7)
    return 10 * task


def name(task: int) -> str:
    return f"picture {task}"


def fill(found: list[int]) -> None:
    with Crew(make, 2, name) as crew:
        for made in crew(range(6)):
            found.append(made)


def test_what_was_in_hand_is_named() -> None:
    found: list[int] = []
    with pytest.raises(DataError, match=r"worker process ended, at work on picture \d.*run the same command again"):
        fill(found)
    assert found == [10 * task for task in range(len(found))]
    assert len(found) <= 3


def test_others_go_through() -> None:
    with Crew(make, 2, name) as crew:
        assert list(crew([0, 1, 2, 4, 5])) == [0, 10, 20, 40, 50]
