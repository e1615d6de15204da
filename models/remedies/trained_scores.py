"""Residual maps trained until neutral words score every group as they score all."""

from __future__ import annotations

from typing import Any

from losses import GroupScores, Loss
from losses.distribution import Order
from models.remedies.base import Calibration
from models.remedies.sides import Side
from models.remedies.trained_heads import TrainedHeads


class ScoreMatching(TrainedHeads):
    """Trained on the distance of each group's scores to all scores, word by word (after FairCLIP, Luo et al. 2024).

    See :class:`losses.GroupScores` for what is the paper's; the residual maps are ours. Equal distributions of scores
    are equal chances of every rank: each group's share of the top k becomes its share of the pool.

    Args:
        side: what is mapped.
        weight: of the distance.
        order: 1 or 2, of the distance.
        options: of :class:`models.remedies.trained_heads.TrainedHeads`.
    """

    method = "score matching"
    needs = frozenset({"words"})

    def __init__(self, side: Side = "both", weight: float = 1.0, order: Order = 1, **options: Any) -> None:
        super().__init__(side=side, weight=weight, **options)
        self.order: Order = order

    def loss(self, calibration: Calibration) -> Loss:
        """The distance of score distributions."""
        return GroupScores(order=self.order)
