"""Where generated pictures lie relative to real ones, and the projection that takes it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.erasure.eraser import LinearEraser
from models.errors import ModelError

Relevance = Literal["pair", "label"]


@dataclass(frozen=True)
class Displacements:
    """Differences of embeddings, generated minus real.

    Attributes:
        rows: [n, D] float64.
        kind: "pair": one for each twin, against its photo; "class": one for each class and generator, between the
            means; "mean": one for each generator, between the means over all.
    """

    rows: Tensor
    kind: Literal["pair", "class", "mean"]


def displacements(x: Tensor, target: Tensor, source: Tensor, relevance: Relevance) -> Displacements:
    """Measure them.

    Pairs are the published form (arXiv 2604.06163, authors' code). What stands in where there are none is ours: means
    within a class, each class counting alike so that none lends its content to the direction; over all pictures where
    not even classes are shared.

    Args:
        x: [n, D] float embeddings.
        target: [n] int64 what a picture shows: a scene, or a class; -1 where unknown.
        source: [n] int64, 0 real, one code above 0 a generator.
        relevance: whether targets are scenes ("pair") or classes ("label").

    Raises:
        ModelError: where one of the sources is missing.
    """
    x = x.double()
    real = source == 0
    generators = [int(code) for code in source.unique() if code > 0]
    if not generators or not bool(real.any()):
        raise ModelError("a displacement needs real and generated pictures, but all are of one source")
    shared = sorted({t for t in target[real].tolist() if t >= 0} & set(target[~real].tolist()))
    if not shared:
        return Displacements(torch.stack([x[source == code].mean(0) - x[real].mean(0) for code in generators]), "mean")
    ids, dense = torch.tensor(shared), torch.full_like(target, -1)
    place = torch.searchsorted(ids, target.clamp(min=0)).clamp(max=len(ids) - 1)
    known = (target >= 0) & (ids[place] == target)
    dense[known] = place[known]
    photo = _means(x, dense, real, len(ids))[0]
    if relevance == "pair":
        twins = (dense >= 0) & ~real
        return Displacements(x[twins] - photo[dense[twins]], "pair")
    rows = []
    for code in generators:
        mean, count = _means(x, dense, source == code, len(ids))
        rows.append((mean - photo)[count > 0])
    return Displacements(torch.cat(rows), "class")


def _means(x: Tensor, dense: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Means [size, D] of the masked rows by dense id, and their counts [size]."""
    chosen = mask & (dense >= 0)
    count = torch.bincount(dense[chosen], minlength=size)
    total = torch.zeros(size, x.shape[1], dtype=x.dtype).index_add_(0, dense[chosen], x[chosen])
    return total / count.clamp(min=1)[:, None], count


def fit_projection(found: Displacements, rank: int = 1) -> LinearEraser:
    """The orthogonal projection that removes the mean displacement, and further directions of displacement.

    ``x - U U^T x``. The first direction is the mean displacement's: applied to all pictures at strength 1 without
    renormalising it makes the mean of generated minus real exactly zero (arXiv 2604.06163, authors' code; rank 1). The
    others (ours) are the leading right singular vectors, uncentred, of what the first one leaves of the displacements.

    Args:
        found: displacements.
        rank: directions to remove.

    Raises:
        ModelError: where the displacements have fewer directions, or cancel to nothing.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
        >>> fit_projection(Displacements(rows, "pair")).matrix.tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    rows = found.rows.double()
    width = rows.shape[1]
    if not 1 <= rank <= min(len(rows), width - 1):
        raise ModelError(
            f"rank is {rank}; {len(rows)} displacements ({found.kind}) of width {width} give 1 to "
            f"{min(len(rows), width - 1)} directions"
        )
    mean = rows.mean(dim=0)
    scale = rows.norm(dim=1).max()
    if not bool(mean.norm() > 1e-9 * scale):
        raise ModelError("the displacements cancel: generated pictures lie nowhere else than real ones, on average")
    first = mean / mean.norm()
    directions = [first]
    if rank > 1:
        left = rows - (rows @ first)[:, None] * first
        _, size, vectors = torch.linalg.svd(left, full_matrices=False)
        if not bool(size[rank - 2] > 1e-9 * scale):
            raise ModelError(f"rank is {rank}, but the displacements span fewer directions; lower it")
        directions += list(vectors[: rank - 1])
    basis = torch.stack(directions, dim=1)
    matrix = torch.eye(width, dtype=torch.float64) - basis @ basis.T
    metadata = {"method": "projection", "rank": rank, "displacements": found.kind, "displacement_count": len(rows)}
    return LinearEraser(matrix, metadata=metadata)
