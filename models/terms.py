"""Named, weighted and scheduled losses."""

from __future__ import annotations

from dataclasses import dataclass

from losses.base import Loss
from models.errors import ModelError


@dataclass
class WeightSchedule:
    """A weight that moves linearly from one value to another and then stays.

    A debias term at full weight from the first step of a run from scratch acts on embeddings that mean nothing yet.

    Attributes:
        start: weight at step 0.
        end: weight from step ``warmup_steps`` on.
        warmup_steps: optimiser steps between the two.

    Example:
        >>> schedule = WeightSchedule(start=0.0, end=2.0, warmup_steps=4)
        >>> [schedule.at(step) for step in (0, 1, 4, 100)]
        [0.0, 0.5, 2.0, 2.0]
    """

    start: float
    end: float
    warmup_steps: int

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ModelError(f"weight.warmup_steps is {self.warmup_steps}; it counts steps, so give 0 or more")

    def at(self, step: int) -> float:
        """The weight at an optimiser step (0 is the first)."""
        if step >= self.warmup_steps:
            return self.end
        return self.start + (self.end - self.start) * step / self.warmup_steps


@dataclass
class LossTerm:
    """One named entry of ``model.losses``.

    Attributes:
        loss: takes the step's features and returns its terms by name.
        weight: factor on the sum of the terms; a number, or a schedule in steps.
    """

    loss: Loss
    weight: float | WeightSchedule = 1.0

    def weight_at(self, step: int) -> float:
        """The weight at an optimiser step (0 is the first)."""
        return self.weight.at(step) if isinstance(self.weight, WeightSchedule) else float(self.weight)
