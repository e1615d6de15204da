"""Residual maps trained against a classifier of groups: of the scores of neutral words, or of pictures themselves."""

from __future__ import annotations

from typing import Any

from losses import AttributeAdversary, Loss, PromptAdversary
from models.remedies.base import Calibration
from models.remedies.sides import Side
from models.remedies.trained_heads import TrainedHeads


class PromptAdversaryResidual(TrainedHeads):
    """Trained until a small head cannot tell the group from the scores of the neutral words (after Berg et al. 2022).

    See :class:`losses.PromptAdversary` for what is the paper's. There an array of tokens is trained in front of the
    text tower; here, behind both towers, residual maps (ours).

    Args:
        side: what is mapped.
        weight: of the adversary.
        warmup_steps: until the reversal has its full strength.
        options: of :class:`models.remedies.trained_heads.TrainedHeads`. ``words_per_step`` is not for this one: the
            head reads all words, in their order.
    """

    method = "prompt adversary"
    pace = 10.0
    needs = frozenset({"words"})

    def __init__(self, side: Side = "both", weight: float = 1.0, warmup_steps: int = 100, **options: Any) -> None:
        super().__init__(side=side, weight=weight, **{**options, "words_per_step": 2**31})
        self.warmup_steps = warmup_steps

    def loss(self, calibration: Calibration) -> Loss:
        """The adversary."""
        return PromptAdversary(groups=calibration.groups, warmup_steps=self.warmup_steps)


class AttributeResidual(TrainedHeads):
    """A residual of pictures, trained until a classifier cannot tell the group (after DeAR, Seth et al. 2023).

    See :class:`losses.AttributeAdversary` for what is the paper's. Words play no part; expect explicit queries ("a
    woman") to lose what they live on.

    Args:
        weight: of the adversary.
        warmup_steps: until the reversal has its full strength.
        options: of :class:`models.remedies.trained_heads.TrainedHeads`; only pictures are mapped.
    """

    method = "attribute residual"
    pace = 2.0

    def __init__(self, weight: float = 0.3, warmup_steps: int = 100, **options: Any) -> None:
        super().__init__(weight=weight, **{**options, "side": "image"})
        self.warmup_steps = warmup_steps

    def loss(self, calibration: Calibration) -> Loss:
        """The adversary."""
        # A deeper one learns a few thousand pictures by heart, and the residual then learns to fool that.
        return AttributeAdversary([calibration.groups], hidden=0, warmup_steps=self.warmup_steps)
