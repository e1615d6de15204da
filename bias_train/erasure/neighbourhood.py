"""Whether pictures that show the same still lie together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bias_train.stats import Ints

_CHUNK = 1024


@dataclass(frozen=True)
class Neighbourhood:
    """Cosines within and between targets, over the pictures of known target.

    Attributes:
        same: mean cosine of two pictures of one target.
        other: mean cosine of two pictures of different targets.
        nearest: share of the pictures whose nearest neighbour has their target (ties count in parts), among those that
            have a companion at all.
        pictures: of known target.
        targets: with at least two pictures.
    """

    same: float
    other: float
    nearest: float
    pictures: int
    targets: int

    @property
    def gap(self) -> float:
        """Same minus other."""
        return self.same - self.other


def neighbourhood(x: Tensor, target: Ints) -> Neighbourhood | None:
    """Measure [n, D] unit vectors by [n] targets, -1 being unknown; None where no target has two pictures."""
    known = np.flatnonzero(target >= 0)
    ids, dense, counts = np.unique(target[known], return_inverse=True, return_counts=True)
    if len(ids) == 0 or counts.max() < 2:
        return None
    rows = x[torch.from_numpy(known)].double()
    sums = torch.zeros(len(ids), rows.shape[1], dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(dense), rows)
    own = float(rows.square().sum())
    # |sum of rows|^2 is the sum of all cosines, those with oneself included: no table of pairs is needed.
    within = float(sums.square().sum()) - own
    total = float(rows.sum(dim=0).square().sum()) - own
    pairs_within = float((counts * (counts - 1)).sum())
    pairs = float(len(known)) * (len(known) - 1)
    other = (total - within) / (pairs - pairs_within) if pairs > pairs_within else np.nan
    return Neighbourhood(
        same=within / pairs_within,
        other=other,
        nearest=_nearest(rows.float(), torch.from_numpy(dense), torch.from_numpy(counts)),
        pictures=len(known),
        targets=int((counts > 1).sum()),
    )


def _nearest(rows: Tensor, dense: Tensor, counts: Tensor) -> float:
    hits, asked = 0.0, 0
    for start in range(0, len(rows), _CHUNK):
        place = torch.arange(start, min(start + _CHUNK, len(rows)))
        scores = rows[place] @ rows.T
        scores[torch.arange(len(place)), place] = -torch.inf
        best = scores == scores.amax(dim=1, keepdim=True)
        right = (best & (dense[place][:, None] == dense[None, :])).sum(dim=1) / best.sum(dim=1)
        companion = counts[dense[place]] > 1
        hits += float(right[companion].sum())
        asked += int(companion.sum())
    return hits / asked
