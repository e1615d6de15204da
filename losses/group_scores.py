"""Match the scores that neutral queries give to each group of people with those that they give to all."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from losses.base import Features, Loss, LossError
from losses.distribution import Order, wasserstein
from losses.options import at_least, one_of
from losses.people import balance
from losses.scores import cosine_matrix, unit_factor

ScoreUnit = Literal["spread", "logit", "cosine"]
SCORE_UNITS: tuple[ScoreUnit, ...] = ("spread", "logit", "cosine")

_LEAST_SPREAD = 1e-6


class GroupScores(Loss):
    """Let every neutral query score each group of people as it scores all of them.

    **Optimises**: the distance between a group's distribution of scores and that of all people, for every neutral
    prompt. Where it is zero, every group has the same share of every top k as of the pool.

    **Formula**: ``mean_k mean_g W({s_ik : i in g}, {s_ik : all i})`` with ``s_ik = cos(person_i, prompt_k)`` in
    ``unit``, the G groups of at least ``min_count`` people in the global batch, and ``W`` the exact one-dimensional
    ``W_1`` (or ``W_2 ** 2``) by sorting, which takes unequal numbers. ``"spread"`` divides a prompt's scores by their
    standard deviation over all people, with gradient: the term cannot be lowered by squeezing all scores together.

    **Reference**: Luo et al. 2024, "FairCLIP: Harnessing Fairness in Vision-Language Learning" (paper): a distance of
    each group's scores to the batch's. There it is Sinkhorn's on the scores of matched pairs; the published code scores
    by something else, normalises one side only, and gives one side no gradient. Here both sides are the same scores
    with gradient, the distance is exact instead of regularised, and the scores are those of neutral prompts, so that no
    captions of people are needed. The unit ``"spread"`` is ours.

    **Requirements**: people of at least two groups in the batch (`FacesDataModule`; balanced sampling gives "all" equal
    parts of every group); the term is zero otherwise.

    **Inputs**: ``person``, ``person_group``, ``prompt``; ``logit_scale`` for the unit. Term: ``group_scores``. Figure:
    ``groups_left_out``, groups of the batch that have fewer than ``min_count`` people.

    **Relation to other losses**: `PromptAdversary` learns what tells groups apart, over all prompts together; this one
    needs no head and no schedule. `ScoreDistribution` is the same for the two sources of pictures. Small samples of one
    distribution are still apart, see there: large batches, few groups, or a small weight.

    Args:
        order: 1 or 2; see `wasserstein`.
        unit: ``"spread"``, or ``"logit"`` (multiplied by the logit scale, without gradient to it) or ``"cosine"``.
        min_count: people that make a group, at least 2.

    Example:
        >>> import torch
        >>> from losses import Features, GroupScores
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=ids, group=ids, caption_id=ids,
        ...     person=torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.6, 0.8]]),
        ...     person_group=torch.tensor([0, 0, 1, 1]), prompt=eye[:1],
        ... )
        >>> GroupScores(unit="cosine")(features)["group_scores"]  # half of each group's mass moves by 0.4
        tensor(0.2000)
    """

    needs_people = True
    needs_prompts = True

    def __init__(self, order: Order = 1, unit: ScoreUnit = "spread", min_count: int = 2) -> None:
        super().__init__()
        if order not in (1, 2):
            raise LossError(f"GroupScores: order must be 1 or 2; got {order!r}")
        one_of(self, "unit", unit, SCORE_UNITS)
        at_least(self, "min_count", min_count, 2)
        self.order: Order = order
        self.unit: ScoreUnit = unit
        self.min_count = min_count

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"group_scores": []}``; zero with a graph where fewer than two groups are large enough.

        Raises:
            LossError: if people or prompts are missing.
        """
        person, group = features.people()
        balanced = balance(group, self.min_count)
        self.figures = {"groups_left_out": balanced.left_out.to(person.dtype)}
        # In full on every rank, since sorting couples all rows.
        scores = cosine_matrix(features.prompts(), person)
        total = scores.sum() * 0.0
        if not bool(balanced.compared):
            return {"group_scores": total}
        everyone = scores[:, balanced.members]
        if self.unit == "spread":
            spread = everyone.var(dim=1, correction=0, keepdim=True).clamp(min=_LEAST_SPREAD**2).sqrt()
            everyone, scores = everyone / spread, scores / spread
        else:
            factor = unit_factor(self.unit, features.logit_scale)
            everyone, scores = everyone * factor, scores * factor
        counted = torch.unique(group[balanced.members]).tolist()
        for code in counted:
            total = total + wasserstein(scores[:, group == code], everyone, self.order).mean()
        return {"group_scores": total / len(counted)}
