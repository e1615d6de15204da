"""A residual map of queries trained until neutral ones lean to no group's words."""

from __future__ import annotations

from typing import Any

from losses import GroupSpread, Loss
from losses.group_spread import Spread
from models.remedies.base import Calibration
from models.remedies.trained_heads import TrainedHeads


class NeutralText(TrainedHeads):
    """A residual of queries that evens out how near they are to each group's queries (after SANER, Hirota et al. 2024).

    See :class:`losses.GroupSpread` for what is the paper's. The map is trained on the calibration's neutral words,
    where the paper has captions from which the words for groups were taken out; queries that name a group are kept
    where they are (ours). Labels of pictures play no part.

    Args:
        weight: of the spread, which is in cosines and small.
        spread: ``"std"`` or ``"range"``.
        options: of :class:`models.remedies.trained_heads.TrainedHeads`; only queries are mapped.
    """

    method = "neutral text"
    needs = frozenset({"words", "group_prompts"})

    def __init__(self, weight: float = 20.0, spread: Spread = "std", **options: Any) -> None:
        super().__init__(weight=weight, **{**options, "side": "text"})
        self.spread: Spread = spread

    def loss(self, calibration: Calibration) -> Loss:
        """The spread over groups."""
        return GroupSpread(self.spread)
