"""Train under the condition that neither source leads on average; the weight finds itself."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.base import Features, Loss
from losses.options import above, at_least, one_of
from losses.scores import UNITS, Unit, cosine_of_rows, unit_factor


class ConstrainedGap(Loss):
    """Hold the mean gap of photos and generated twins within a tolerance, by two Lagrange multipliers.

    **Optimises**: the other losses, subject to ``|m| <= epsilon`` where ``m`` is the mean over the P pairs of the
    global batch of ``d_i = s(c_i, g_i) - s(c_i, r_i)``, how much higher caption i scores the generated picture.

    **Formula**: constraints ``h = (m - epsilon, -m - epsilon) <= 0`` with multipliers ``u = (u_1, u_2) >= 0``. The term
    is their augmented Lagrangian, ``sum_k [max(0, u_k + penalty * h_k) ** 2 - u_k ** 2] / (2 penalty)``, and
    ``sum_k u_k h_k`` where the penalty is 0. After each optimiser step's first forward the multipliers ascend:
    ``u_k <- min(max(0, u_k + dual_rate * h_k), limit)``. A lead of either source makes its multiplier grow until the
    lead is gone; within the tolerance multipliers shrink, and the term with them.

    **Reference**: ours for this use. The augmented Lagrangian of inequalities is Rockafellar's (1973); gradient ascent
    on multipliers beside descent on weights is the differential multiplier method (Platt and Barr 1988), whose penalty
    damps the oscillation of the two.

    **Requirements**: pairs in the batch (``data.twin_share`` above 0, shards with twins), several of them, since the
    mean of few is noise. A weight of 1: another one scales what the multipliers have found, and they find anew.

    **Inputs**: ``text``, ``image``, ``source``, ``twin``, ``has_twin``, ``logit_scale``, ``step``. Term:
    ``constrained_gap``, which may be negative. The logit scale gets no gradient.

    **State**: the buffers ``multipliers`` [2] and ``last_step`` [], saved and restored with a checkpoint. They follow
    from gathered features, so all ranks hold the same; they move in training mode only, once an optimiser step: not
    with a further batch of accumulated gradients, nor a second call at the same step. They have the parameters'
    precision: in ``bf16-true`` a change of less than about a 250th of them is lost.

    **Relation to other losses**: the two-sided `RankHinge` charges every pair for its gap, also where the gaps cancel,
    and needs a weight; this one leaves pairs free and asks for equality on average. Groups may lead in opposite
    directions under it. Equal means are not equal shares of a top k: the source whose scores spread wider leads there,
    which epsilon can make up for.

    Args:
        epsilon: the tolerated mean gap, not below 0, in ``unit``.
        dual_rate: how fast the multipliers move, above 0: their change at a step where the gap is 1 beyond tolerance.
        penalty: the quadratic part, not below 0; 0 is the plain Lagrangian.
        limit: the most that a multiplier may reach, above 0: a condition that cannot be met must not take over the run.
        unit: ``"logit"`` reads scores multiplied by the logit scale, ``"cosine"`` bare cosines; see `SourcePairLoss`.

    Example:
        >>> import torch
        >>> from losses import ConstrainedGap, Features
        >>> text, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=torch.tensor([[0.6, 0.8], [0.8, 0.6]]), text=text, logit_scale=torch.tensor(10.0),
        ...     source=torch.zeros(2, dtype=torch.int64), group=ids, caption_id=ids,
        ...     twin=torch.tensor([[0.8, 0.6], [0.8, 0.6]]), has_twin=torch.tensor([True, True]),
        ... )
        >>> loss = ConstrainedGap(epsilon=0.5, dual_rate=0.1, penalty=1.0)
        >>> loss(features)["constrained_gap"]  # gaps 2 and 0, mean 1: 0.5 beyond tolerance, 0.5 ** 2 / 2
        tensor(0.1250)
        >>> loss.multipliers
        tensor([0.0500, 0.0000])
    """

    needs_twin = True
    multipliers: Tensor
    last_step: Tensor

    def __init__(
        self,
        epsilon: float = 0.1,
        dual_rate: float = 0.01,
        penalty: float = 0.1,
        limit: float = 10.0,
        unit: Unit = "logit",
    ) -> None:
        super().__init__()
        at_least(self, "epsilon", epsilon, 0.0)
        above(self, "dual_rate", dual_rate, 0.0)
        at_least(self, "penalty", penalty, 0.0)
        above(self, "limit", limit, 0.0)
        one_of(self, "unit", unit, UNITS)
        self.epsilon = epsilon
        self.dual_rate = dual_rate
        self.penalty = penalty
        self.limit = limit
        self.unit: Unit = unit
        self.register_buffer("multipliers", torch.zeros(2))
        self.register_buffer("last_step", torch.tensor(-1))

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"constrained_gap": []}``; zero with a graph, and multipliers left alone, where there is no pair.

        Raises:
            LossError: if the batch carries no twins.
        """
        real, generated, paired = features.sources_of_pairs()
        # Of the whole batch on every rank: a term that is not linear in the mean cannot be split by rows.
        gap = cosine_of_rows(features.text, generated) - cosine_of_rows(features.text, real)
        gap = gap * unit_factor(self.unit, features.logit_scale)
        pairs = paired.sum()
        mean = torch.where(paired, gap, torch.zeros_like(gap)).sum() / pairs.clamp(min=1)
        beyond = torch.stack([mean, -mean]) - self.epsilon
        # A copy: the buffer moves below, while the graph still needs its value.
        multipliers = self.multipliers.to(beyond.dtype, copy=True)
        if self.penalty > 0:
            charged = torch.relu(multipliers + self.penalty * beyond)
            term = (charged.square() - multipliers.square()).sum() / (2 * self.penalty)
        else:
            term = (multipliers * beyond).sum()
        if self.training and torch.is_grad_enabled():
            self._ascend(beyond.detach(), pairs > 0, features.step)
        return {"constrained_gap": torch.where(pairs > 0, term, mean * 0.0)}

    @torch.no_grad()
    def _ascend(self, beyond: Tensor, measured: Tensor, step: int) -> None:
        # All on the device, without reading a number off it. What is not finite is refused by the caller.
        moves = measured & (self.last_step != step) & torch.isfinite(beyond).all()
        moved = (self.multipliers + self.dual_rate * beyond.to(self.multipliers.dtype)).clamp(0.0, self.limit)
        self.multipliers.copy_(torch.where(moves, moved, self.multipliers))
        self.last_step.copy_(torch.where(moves, torch.full_like(self.last_step, step), self.last_step))
