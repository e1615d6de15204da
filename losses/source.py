"""Debias terms on pairs: one caption, a photo, and an AI-generated picture of the same thing.

All of them read the gap ``d_i = s(c_i, g_i) - s(c_i, r_i)``: how much higher caption i scores the generated picture
than the photo. Both pictures are judged by the same caption embedding.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.base import Features, Loss
from losses.draw import DRAWS, Draw, draw_pairs
from losses.options import above, at_least, one_of, share
from losses.scores import UNITS, Unit, cosine_of_rows, unit_factor

Reduction = Literal["mean", "sum"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum")


class SourcePairLoss(Loss):
    """What the terms on pairs share: the gap, the random part of the pairs, and the reduction.

    With P pairs in the global batch and a penalty ``f``, the term is ``sum_{i drawn} f(d_i)``, divided by P for the
    mean. The mean divides by all pairs and not by the drawn ones, so that p sets the strength: 0 is plain tuning and 1
    the strongest push, in either reduction.

    Args:
        p: the share of pairs that count in a step, in [0, 1]: the tolerance to generated pictures that outrank photos.
        draw: ``"bernoulli"`` draws each pair with probability p; ``"fixed"`` draws exactly ``floor(p * P)`` pairs, none
            while ``p * P < 1``. A function of (seed, step, global row): alike on all ranks, and for any number of them.
        reduction: ``"mean"``, or ``"sum"`` over the *global* batch: the weight then belongs to a batch size, not to a
            number of processes.
        unit: ``"logit"`` reads scores multiplied by the logit scale (up to 100), ``"cosine"`` reads bare cosines. A
            weight that is right for one is 100 times off for the other. The scale gets no gradient.
    """

    needs_twin = True

    def __init__(
        self,
        p: float = 1.0,
        draw: Draw = "bernoulli",
        reduction: Reduction = "mean",
        unit: Unit = "logit",
    ) -> None:
        super().__init__()
        share(self, "p", p)
        one_of(self, "draw", draw, DRAWS)
        one_of(self, "reduction", reduction, REDUCTIONS)
        one_of(self, "unit", unit, UNITS)
        self.p = p
        self.draw: Draw = draw
        self.reduction = reduction
        self.unit: Unit = unit

    def twins_read(self, rows: int, *, seed: int, step: int) -> Tensor | None:
        """See :meth:`losses.Loss.twins_read`. How many a fixed draw takes depends on all pairs, so it names none."""
        if self.p == 1 or self.draw == "fixed":
            return None
        return draw_pairs(torch.ones(rows, dtype=torch.bool), self.p, self.draw, seed=seed, step=step)

    @abstractmethod
    def penalty(self, gap: Tensor) -> Tensor:
        """[B] gaps to [B] penalties, elementwise."""

    def reduce_pairs(self, features: Features) -> Tensor:
        """The term, a scalar that follows the reduction contract; zero with a graph where no pair is drawn."""
        real, generated, paired = features.sources_of_pairs()
        local = features.local
        caption = features.text[local]
        gap = cosine_of_rows(caption, generated[local]) - cosine_of_rows(caption, real[local])
        drawn = draw_pairs(paired, self.p, self.draw, seed=features.seed, step=features.step)
        total = features.sum_over(self.penalty(gap * unit_factor(self.unit, features.logit_scale)), drawn)
        return total / paired.sum().clamp(min=1) if self.reduction == "mean" else total


class RankHinge(SourcePairLoss):
    """Charge a caption for scoring the generated picture above the photo.

    **Optimises**: the order of the two pictures of a pair (one-sided), or their equality (two-sided).

    **Formula**: one-sided ``f(d) = max(0, d + margin)``: free once the photo leads by the margin. Two-sided
    ``f(d) = max(0, |d| - margin)``: free while neither leads by more than the margin. ``squared`` takes the square of
    either. In all, a drawn pair counts f, others nothing; summed, or divided by all pairs.

    **Reference**: one-sided, margin 0, is the debias term of "Generative Ghost" (arXiv 2502.07327), after the authors'
    code: ``RankHinge(p=0.5, draw="fixed", reduction="sum")`` at weight 0.002; the code also holds the Bernoulli draw.
    With ``p=1`` and the mean it is the penalty of "Neural Retrievers are Biased Towards LLM-Generated Content"
    (arXiv 2310.20501), after the authors' code, at weight 0.1. Two-sided, squared and margin are ours, and so is the
    stopped gradient to the logit scale: in that code it flows.

    **Requirements**: pairs in the batch (``data.twin_share`` above 0, shards with twins).

    **Inputs**: ``text``, ``image``, ``source``, ``twin``, ``has_twin``, ``logit_scale``; ``seed`` and ``step`` for the
    draw. Term: ``rank_hinge``.

    **Relation to other losses**: added to `InfoNCE` or `SigLIP`. It stops at equality (or at the margin) where
    `PairwiseSoftmax` goes on pushing; with two sides it cannot over-correct. The two-sided term without margin is the
    Wasserstein distance of `ScoreDistribution` within each pair.

    Args:
        two_sided: charge a lead of either source.
        margin: not below 0, in ``unit``; see the formula for its two senses.
        squared: charge the square, in ``unit`` squared: the pull is proportional to the gap, so that it fades near
            equality, and few large gaps outweigh many small ones.
        p: share of the pairs that count in a step; see `SourcePairLoss`, also for the others.
        draw: ``"bernoulli"`` or ``"fixed"``.
        reduction: ``"mean"`` or ``"sum"``.
        unit: ``"logit"`` or ``"cosine"``.

    Example:
        >>> import torch
        >>> from losses import Features, RankHinge
        >>> text, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=torch.tensor([[0.6, 0.8], [0.0, 1.0]]), text=text, logit_scale=torch.tensor(10.0),
        ...     source=torch.zeros(2, dtype=torch.int64), group=ids, caption_id=ids,
        ...     twin=torch.tensor([[0.8, 0.6], [0.6, 0.8]]), has_twin=torch.tensor([True, True]),
        ... )
        >>> RankHinge()(features)["rank_hinge"]  # the first pair's gap is 10 (0.8 - 0.6), the second's is negative
        tensor(1.0000)
        >>> RankHinge(two_sided=True, unit="cosine", reduction="sum")(features)["rank_hinge"]
        tensor(0.4000)
    """

    def __init__(
        self,
        two_sided: bool = False,
        margin: float = 0.0,
        squared: bool = False,
        p: float = 1.0,
        draw: Draw = "bernoulli",
        reduction: Reduction = "mean",
        unit: Unit = "logit",
    ) -> None:
        super().__init__(p=p, draw=draw, reduction=reduction, unit=unit)
        at_least(self, "margin", margin, 0.0)
        self.two_sided = two_sided
        self.margin = margin
        self.squared = squared

    def penalty(self, gap: Tensor) -> Tensor:
        """The hinge of each gap."""
        hinge = F.relu(gap.abs() - self.margin) if self.two_sided else F.relu(gap + self.margin)
        return hinge.square() if self.squared else hinge

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"rank_hinge": []}``.

        Raises:
            LossError: if the batch carries no twins.
        """
        return {"rank_hinge": self.reduce_pairs(features)}


class PairwiseSoftmax(SourcePairLoss):
    """Let the photo win the pair in a softmax over its two pictures.

    **Optimises**: the probability ``sigmoid(-beta * d)`` that the caption picks the photo; two-sided, that it picks
    either with probability 1/2.

    **Formula**: one-sided ``f(d) = softplus(beta * d)``, the cross-entropy of the softmax over (photo, generated)
    against (1, 0). Two-sided ``f(d) = (softplus(beta * d) + softplus(-beta * d)) / 2``, against (1/2, 1/2); its least
    value is log 2. Reduced as in `SourcePairLoss`.

    **Reference**: ours. The form is RankNet's (Burges et al. 2005, equation 3) on the two sources of a pair.

    **Requirements**: pairs in the batch (``data.twin_share`` above 0, shards with twins).

    **Inputs**: as `RankHinge`. Term: ``pairwise_softmax``.

    **Relation to other losses**: a smooth `RankHinge`; as beta grows, ``f / beta`` tends to it. One-sided, its gradient
    never reaches zero, so that a large weight ends in favouring photos: prefer a small p or the two-sided form, whose
    pull is proportional to the gap near equality where the hinge's is constant.

    Args:
        beta: the sharpness, above 0, per ``unit``.
        two_sided: aim at equality instead of at the photo's lead.
        p: share of the pairs that count in a step; see `SourcePairLoss`, also for the others.
        draw: ``"bernoulli"`` or ``"fixed"``.
        reduction: ``"mean"`` or ``"sum"``.
        unit: ``"logit"`` or ``"cosine"``.

    Example:
        >>> import torch
        >>> from losses import Features, PairwiseSoftmax
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=torch.zeros(2, dtype=torch.int64),
        ...     group=ids, caption_id=ids, twin=eye, has_twin=torch.tensor([True, True]),
        ... )
        >>> PairwiseSoftmax()(features)["pairwise_softmax"]  # no gap: log 2
        tensor(0.6931)
    """

    def __init__(
        self,
        beta: float = 1.0,
        two_sided: bool = False,
        p: float = 1.0,
        draw: Draw = "bernoulli",
        reduction: Reduction = "mean",
        unit: Unit = "logit",
    ) -> None:
        super().__init__(p=p, draw=draw, reduction=reduction, unit=unit)
        above(self, "beta", beta, 0.0)
        self.beta = beta
        self.two_sided = two_sided

    def penalty(self, gap: Tensor) -> Tensor:
        """The cross-entropy of each pair's softmax."""
        logit = self.beta * gap
        return (F.softplus(logit) + F.softplus(-logit)) / 2 if self.two_sided else F.softplus(logit)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"pairwise_softmax": []}``.

        Raises:
            LossError: if the batch carries no twins.
        """
        return {"pairwise_softmax": self.reduce_pairs(features)}
