"""Residual maps of both sides trained to take the same out of pictures of a group as out of its words."""

from __future__ import annotations

from typing import Any

from losses import JointAlignment, Loss
from models.remedies.base import Calibration
from models.remedies.trained_heads import TrainedHeads


class JointResidual(TrainedHeads):
    """Residuals of pictures and queries, aligned in what they remove (after Joint Vision-Language, CVPR 2025).

    See :class:`losses.JointAlignment` for what is the paper's and what is simplified; the paper's maps of pictures have
    two layers more. Explicit queries ("a woman") lose what they live on, by design.

    Args:
        weight: of the two terms together.
        distillation: weight of the first among them.
        alignment: of the second.
        temperature: of both.
        options: of :class:`models.remedies.trained_heads.TrainedHeads`; both sides are mapped.
    """

    method = "joint residual"
    needs = frozenset({"group_prompts"})

    def __init__(
        self,
        weight: float = 1.0,
        distillation: float = 0.3,
        alignment: float = 0.7,
        temperature: float = 0.07,
        **options: Any,
    ) -> None:
        super().__init__(weight=weight, **{**options, "side": "both"})
        self.distillation, self.alignment, self.temperature = distillation, alignment, temperature

    def loss(self, calibration: Calibration) -> Loss:
        """Distillation and alignment."""
        return JointAlignment(self.distillation, self.alignment, self.temperature)

    def _kept(self, calibration: Calibration) -> list[Any]:
        # To keep the groups' queries where they are would be against the term itself.
        return [what for what in super()._kept(calibration) if what != "group_prompts"]
