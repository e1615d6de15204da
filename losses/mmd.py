"""Match the distributions of the two sources' embeddings: maximum mean discrepancy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from losses.base import Features, Loss, LossError
from losses.chunked import recomputed
from losses.options import above, at_least, one_of
from losses.populations import PICTURES, WITHIN, Pictures, Within, populations
from losses.scores import cosine_matrix

# The median of the distances is settled by far fewer pictures than a large batch holds.
MEDIAN_OF = 1024


class SourceMMD(Loss):
    """Embed photos and generated pictures alike in distribution, by their maximum mean discrepancy.

    **Optimises**: the squared distance of the two sources' mean embeddings in the space of a kernel that tells any two
    distributions apart. It is symmetric: both sources move.

    **Formula**: with ``k(x, y) = mean_b exp(-|x - y|^2 / (2 s_b^2))``, n photos x and m generated pictures y of the
    global batch, ``mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j)`` (unbiased; may be
    negative), or the same with i = j (biased; at least 0). Within strata, their mean with the weight ``n m / (n + m)``
    of each.

    **Reference**: Gretton et al. 2012, "A Kernel Two-Sample Test", equations 3 (unbiased) and 5 (biased), and its
    section 8 for the median as bandwidth. Several bandwidths at once as in Long et al. 2015, "Learning Transferable
    Features with Deep Adaptation Networks". Its use against source bias, and the strata, are ours.

    **Requirements**: both sources among a batch's pictures, at least ``min_count`` of each (in a stratum); what has
    fewer does not count. Contents must be alike, else the term erases a true difference: pairs, or pictures drawn at
    random from the same classes or captions. For ``pictures="pairs"`` the data must draw twins.

    **Inputs**: ``image``, ``source``; for pairs ``twin`` and ``has_twin``; ``caption_id`` or ``group`` for strata.
    Captions and logit scale play no part: distances are those of unit vectors, in [0, 2]. Term: ``source_mmd``, at
    most 2.

    **Relation to other losses**: the strong form of `SourceCORAL`, which compares mean and covariance only.
    `ScoreDistribution` compares the scores by the captions at hand, and leaves free what no caption reads;
    `TwinConsistency` asks for equality pair by pair. Over a whole batch the distributions may agree while one source's
    pictures lie nearer to their captions; strata see that. The biased form falls when all pictures of a source come
    closer to each other, so that it narrows the embedding on small samples; the unbiased form does not, on average.

    Args:
        pictures: ``"anchors"``, or ``"pairs"`` where there are twins; see `losses.populations`.
        within: ``"batch"`` compares the sources as a whole, ``"caption"`` and ``"group"`` within equal ids: for class
            prompts, ``"caption"`` compares class by class.
        bandwidth: ``s`` above 0, or ``"median"``: of the distances between the batch's pictures (at most 1,024 of
            them, evenly spaced; strata together), without gradient.
        multiples: each bandwidth is ``s`` times one of these, above 0.
        unbiased: see the formula; needs at least two pictures of each source.
        min_count: the least number of pictures of each source that makes a comparison.
        chunk: compare so many pictures with all others at a time, each computed again in the backward pass; 0 holds the
            whole matrix. The values are the same.

    Example:
        >>> import torch
        >>> from losses import Features, SourceMMD
        >>> ids = torch.arange(2)
        >>> features = Features(
        ...     image=torch.tensor([[1.0, 0.0], [0.0, 1.0]]), text=torch.eye(2), logit_scale=torch.tensor(10.0),
        ...     source=torch.tensor([0, 1]), group=ids, caption_id=ids,
        ... )
        >>> loss = SourceMMD(bandwidth=1.0, multiples=[1.0], unbiased=False, min_count=1)
        >>> loss(features)["source_mmd"]  # 1 + 1 - 2 exp(-2 / 2)
        tensor(1.2642)
    """

    def __init__(
        self,
        pictures: Pictures = "anchors",
        within: Within = "batch",
        bandwidth: float | Literal["median"] = "median",
        multiples: Sequence[float] = (0.5, 1.0, 2.0),
        unbiased: bool = True,
        min_count: int = 4,
        chunk: int = 0,
    ) -> None:
        super().__init__()
        one_of(self, "pictures", pictures, PICTURES)
        one_of(self, "within", within, WITHIN)
        if isinstance(bandwidth, str):
            one_of(self, "bandwidth", bandwidth, ("median",))
        else:
            above(self, "bandwidth", bandwidth, 0.0)
        if not len(multiples):
            raise LossError(f"{type(self).__name__}: multiples is empty; give at least one factor above 0")
        for multiple in multiples:
            above(self, "multiples", multiple, 0.0)
        at_least(self, "min_count", min_count, 2 if unbiased else 1)
        self.pictures: Pictures = pictures
        self.within: Within = within
        self.bandwidth = bandwidth
        self.multiples = tuple(multiples)
        self.unbiased = unbiased
        self.min_count = min_count
        at_least(self, "chunk", chunk, 0)
        self.chunk = chunk
        self.needs_twin = pictures == "pairs"

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"source_mmd": []}``; zero with a graph where no comparison can be made.

        Raises:
            LossError: if pairs are asked for and the batch carries no twins.
        """
        found = populations(features, self.pictures, self.within)
        # Zero by a factor and not by a constant: every rank must reach every gathered tensor.
        nothing = features.image.sum() * 0.0 + (0.0 if features.twin is None else features.twin.sum() * 0.0)
        compared = found.compared(self.min_count)
        rows = found.local & compared
        n, m = found.real_count.double(), found.generated_count.double()
        n, m = n.clamp(min=1), m.clamp(min=1)
        total_weight = _weight_of_strata(n, m, found.stratum, compared)
        bandwidth = self._bandwidth(found.picture.detach())

        def part(rows: Tensor) -> Tensor:
            """[c] sums over all pictures, for some of them."""
            own = rows[:, None] == torch.arange(len(found.picture), device=rows.device)
            distance = (2 - 2 * cosine_matrix(found.picture[rows], found.picture)).clamp(min=0)
            # To itself it is nothing but rounding, whose sign would decide whether the gradient passes.
            kernel = self._kernel(distance.masked_fill(own, 0.0), bandwidth)
            fake_row, fake_column = found.generated[rows, None], found.generated[None, :]
            same_stratum = found.stratum[rows, None] == found.stratum[None, :]
            count = torch.where(found.generated, m, n)[rows, None]
            within = 1 / (count * (count - 1).clamp(min=1)) if self.unbiased else 1 / count.square()
            if self.unbiased:
                within = torch.where(own, 0.0, within)
            across = -1 / (n * m)[rows, None]
            coefficient = torch.where(fake_row == fake_column, within, across) * same_stratum
            coefficient = coefficient * (n * m / (n + m))[rows, None] / total_weight.clamp(min=1e-12)
            return (kernel * coefficient.to(kernel.dtype)).sum(dim=1)

        value = recomputed(part, rows.nonzero().flatten(), self.chunk).sum() * features.world_size
        return {"source_mmd": value + nothing}

    def _bandwidth(self, picture: Tensor) -> Tensor | float:
        if not isinstance(self.bandwidth, str):
            return self.bandwidth
        if picture.shape[0] < 2:
            return 1.0
        spaced = picture[:: -(-picture.shape[0] // MEDIAN_OF)]
        distance = (2 - 2 * cosine_matrix(spaced, spaced)).clamp(min=0).sqrt()
        above_diagonal = torch.triu(torch.ones_like(distance, dtype=torch.bool), diagonal=1)
        # Where most pictures coincide the median is 0, which is no bandwidth.
        return distance[above_diagonal].median().clamp(min=1e-3)

    def _kernel(self, squared_distance: Tensor, bandwidth: Tensor | float) -> Tensor:
        parts = [torch.exp(-squared_distance / (2 * (bandwidth * multiple) ** 2)) for multiple in self.multiples]
        return torch.stack(parts).mean(dim=0)


def _weight_of_strata(n: Tensor, m: Tensor, stratum: Tensor, compared: Tensor) -> Tensor:
    """The sum of ``n m / (n + m)`` over the strata that are compared; every picture carries its stratum's share."""
    each = n * m / (n + m) / (n + m)
    return torch.where(compared, each, torch.zeros_like(each)).sum()
