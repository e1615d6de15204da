"""Paired runs: contenders take turns, and each round gives one ratio, so that a machine's drift cancels."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Ratio:
    """The quotient of two contenders' figures over the rounds they ran in turn.

    Attributes:
        median: of the rounds' quotients.
        low: the smallest.
        high: the largest.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Divide round by round.

    >>> str(ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]))
    '2.00 (2.00 to 3.00)'
    """
    quotients = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))


def in_turn(
    contenders: dict[Name, Callable[[int], float]], rounds: int, on_turn: Callable[[Name, float], None] | None = None
) -> dict[Name, list[float]]:
    """Run A B C A B C ... and collect each contender's figures, one a round; each is called with the round's number.

    >>> in_turn({"a": lambda number: number + 0.5, "b": lambda number: 2.0}, 2)
    {'a': [0.5, 1.5], 'b': [2.0, 2.0]}
    """
    figures: dict[Name, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            figure = run(number)
            figures[name].append(figure)
            if on_turn is not None:
                on_turn(name, figure)
    return figures
