"""Match the scores that captions give to photos with those they give to generated pictures, without pairs."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from losses.base import REAL, Features, Loss, LossError
from losses.chunked import recomputed
from losses.options import at_least, one_of
from losses.scores import UNITS, Unit, cosine_matrix, cosine_of_rows, unit_factor

Compare = Literal["pooled", "caption", "group", "all"]
COMPARE: tuple[Compare, ...] = ("pooled", "caption", "group", "all")
Order = Literal[1, 2]


def wasserstein(first: Tensor, second: Tensor, order: Order = 1) -> Tensor:
    """The exact one-dimensional Wasserstein distance of two empirical distributions, differentiable.

    Both quantile functions are steps; between two neighbouring steps of either, the optimal plan moves the one sorted
    value to the other. With equal counts this is the mean of the sorted differences.

    Args:
        first: [..., n] samples, n >= 1.
        second: [..., m] samples, m >= 1, not necessarily n.
        order: 1 for ``W_1``; 2 for ``W_2 ** 2`` (squared, since the root has no gradient at equality).

    Returns:
        [...] distances, in the samples' unit (squared for order 2).

    Example:
        >>> wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([3.0]))
        tensor(2.5000)
    """
    n, m = first.shape[-1], second.shape[-1]
    device = first.device
    # Levels in units of 1 / (n m): integers, so that steps of the two which coincide do so exactly.
    levels = torch.cat([torch.arange(1, n + 1, device=device) * m, torch.arange(1, m + 1, device=device) * n])
    levels = levels.sort().values
    width = torch.diff(levels, prepend=levels.new_zeros(1)).to(first.dtype) / (n * m)
    # Stable, so that equal scores get the same gradient on every rank and in every run.
    moved = (
        first.sort(dim=-1, stable=True).values[..., (levels - 1) // m]
        - second.sort(dim=-1, stable=True).values[..., (levels - 1) // n]
    )
    return ((moved.square() if order == 2 else moved.abs()) * width).sum(dim=-1)


class ScoreDistribution(Loss):
    """Let captions score photos and generated pictures alike, where no one-to-one twins exist.

    **Optimises**: the distance between two one-dimensional distributions of scores, one per source (all generators
    together). It is symmetric: neither source may lead.

    **Formula**: ``W_1`` (or ``W_2 ** 2``) between the scores of photos and of generated pictures over the global batch.
    With matched scores ``m_i = s(text_i, image_i)``:

    - ``compare="pooled"``: ``W({m_i : photo}, {m_i : generated})``.
    - ``compare="caption"``: the same within each set of equal ``caption_id``, averaged with the weight
      ``n m / (n + m)`` of a comparison of n with m samples (that is, by its precision). ``compare="group"``: within
      equal ``group``.
    - ``compare="all"``: for every caption i, ``W({s_ij : j photo}, {s_ij : j generated})`` over all pictures j but its
      own; then the mean over captions. The own picture is left out because it is of one source only: as the best match
      it would count as that source's lead.

    **Reference**: ours. The distance by sorting is textbook (Peyré and Cuturi 2019, "Computational Optimal Transport",
    remark 2.30).

    **Requirements**: both sources among the anchors of a batch, at least ``min_count`` of each (in a stratum for
    ``"caption"`` and ``"group"``); what has fewer does not count, and the term is zero where nothing does. No twins.
    The two sources' contents must be alike, else the term erases a true difference: pictures drawn at random from the
    same classes or captions. ``"caption"`` and ``"group"`` ask for this within a stratum only, and fit class prompts;
    with one caption per picture they never find both sources.

    **Inputs**: ``text``, ``image``, ``source``, ``logit_scale``; ``caption_id`` or ``group`` where compared by them.
    Only training labels that the batch carries anyway: nothing about the gallery of evaluation, and no source label is
    needed when the retriever is used. Term: ``score_distribution``.

    **Relation to other losses**: with a pair per stratum ``W_1`` is the two-sided `RankHinge` without margin. Pooled
    matching leaves open which pictures gain or lose; use `RankHinge` where twins exist. Small samples of one and the
    same distribution are still apart by about ``spread * sqrt(1/n + 1/m)``: the term does not reach zero, and at a high
    weight it narrows the spread of scores. Hence ``min_count``, and large batches.

    Args:
        compare: which scores form a comparison; see the formula. ``"pooled"`` and the strata see how high a match is
            scored; ``"all"`` sees non-matches too, which hold most of a gallery.
        order: 1 or 2; see `wasserstein`. 2 weighs large gaps more and vanishes smoothly.
        unit: ``"logit"`` reads scores multiplied by the logit scale, without gradient to it; ``"cosine"`` bare cosines.
        min_count: the least number of pictures of each source that makes a comparison, at least 1.
        chunk: with ``"all"``, compare for so many captions at a time, each computed again in the backward pass; 0 holds
            the whole matrix of scores. The values are the same.

    Example:
        >>> import torch
        >>> from losses import Features, ScoreDistribution
        >>> ids = torch.arange(3)
        >>> features = Features(
        ...     image=torch.tensor([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]]), text=torch.tensor([[1.0, 0.0]] * 3),
        ...     logit_scale=torch.tensor(10.0), source=torch.tensor([0, 0, 1]), group=ids, caption_id=ids,
        ... )
        >>> ScoreDistribution(unit="cosine", min_count=1)(features)["score_distribution"]  # (1.0 + 0.4) / 2
        tensor(0.7000)
    """

    def __init__(
        self, compare: Compare = "pooled", order: Order = 1, unit: Unit = "logit", min_count: int = 4, chunk: int = 0
    ) -> None:
        super().__init__()
        one_of(self, "compare", compare, COMPARE)
        if order not in (1, 2):
            raise LossError(f"ScoreDistribution: order must be 1 or 2; got {order!r}")
        one_of(self, "unit", unit, UNITS)
        at_least(self, "min_count", min_count, 1)
        self.compare = compare
        self.order: Order = order
        self.unit: Unit = unit
        at_least(self, "chunk", chunk, 0)
        self.min_count = min_count
        self.chunk = chunk

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"score_distribution": []}``; zero with a graph where no comparison can be made."""
        value = self._every_caption(features) if self.compare == "all" else self._matched(features)
        return {"score_distribution": value}

    def _matched(self, features: Features) -> Tensor:
        """The matched scores of the two sources, by stratum; in full on every rank, since sorting couples all rows."""
        scores = cosine_of_rows(features.text, features.image) * unit_factor(self.unit, features.logit_scale)
        generated = features.source != REAL
        strata = {"caption": features.caption_id, "group": features.group}.get(
            self.compare, torch.zeros_like(features.source)
        )
        _, stratum = torch.unique(strata, return_inverse=True)
        size = torch.bincount(stratum)
        of_generated = torch.bincount(stratum[generated], minlength=size.numel())
        of_real = size - of_generated
        compared = (of_real >= self.min_count) & (of_generated >= self.min_count)

        total = scores.sum() * 0.0
        weights = 0.0
        for index in compared.nonzero().flatten().tolist():
            real, fake = scores[(stratum == index) & ~generated], scores[(stratum == index) & generated]
            weight = real.numel() * fake.numel() / (real.numel() + fake.numel())
            total = total + weight * wasserstein(real, fake, self.order)
            weights += weight
        return total / weights if weights else total

    def _every_caption(self, features: Features) -> Tensor:
        """Each local caption's scores of all pictures but its own; a mean over the captions of the global batch."""
        local = features.local
        generated = features.source != REAL
        distance = cosine_matrix(features.text[local], features.image.sum(dim=0, keepdim=True)).squeeze(1) * 0.0
        counts = torch.zeros_like(generated)
        # Captions of photos and of generated pictures apart: in each block the two counts are the same for all rows.
        for own_source in (~generated, generated):
            own, other = int(own_source.sum()) - 1, int((~own_source).sum())
            if own < self.min_count or other < self.min_count:
                continue
            counts = counts | own_source
            rows = own_source[local].nonzero().flatten()
            if len(rows):
                apart = recomputed(partial(self._distances, features, own_source), rows + local.start, self.chunk)
                distance = distance.index_copy(0, rows, apart)
        return features.mean_over(distance, counts)

    def _distances(self, features: Features, own_source: Tensor, rows: Tensor) -> Tensor:
        """[c] for some captions of the global batch, all of one source."""
        scores = cosine_matrix(features.text[rows], features.image) * unit_factor(self.unit, features.logit_scale)
        others = rows[:, None] != torch.arange(len(features.image), device=rows.device)
        same = scores[:, own_source][others[:, own_source]].view(len(rows), -1)
        return wasserstein(same, scores[:, ~own_source], self.order)
