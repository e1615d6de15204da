"""A correction of all scores by how generated a picture looks, as a linear map of its embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from models.erasure.eraser import LinearEraser
from models.errors import ModelError

_SMALLEST = 1e-2  # singular values of the queries below this share of the largest are noise


def fit_correction(
    x: Tensor, target: Tensor, source: Tensor, text: Tensor, query_target: Tensor, every_query: Tensor | None = None
) -> LinearEraser:
    """Lower every query's score of a picture by ``b * f(picture)``, f telling generated pictures from real ones.

    The score correction of CDC (arXiv 2503.08684, ``s' = s - b f(document)``) with a linear f, which makes it a map of
    embeddings (ours): ``x - b v (w . x)``. ``w`` is Fisher's discriminant between the sources, scaled so that their
    means lie 1 apart, and made blind to the mean of all embeddings, so that a picture of neither kind stays as long as
    it was. ``v`` is the shortest vector that has, by least squares, the product 1 with every query: so all queries'
    scores move alike, and with them no picture's order of classes. ``b``, at strength 1, is the mean by which generated
    pictures outscore real ones of the same target: the correction makes the mean scores equal, before renormalising.

    Erasure makes sources alike on average, in every direction; this leaves them apart but weighs what sets them apart
    against the preference. It helps where generated pictures are preferred for being more typical, each of its own
    class, in no common direction.

    Args:
        x: [n, D] float unit embeddings.
        target: [n] int64 what each shows.
        source: [n] int64, 0 real.
        text: [Q, D] float unit embeddings of queries.
        query_target: [Q] int64.
        every_query: [P, D] queries that are to move alike, though there are no pictures for some; None for ``text``.

    Raises:
        ModelError: where a source is missing, no target has both, or the sources cannot be told apart.
    """
    x, text = x.double(), text.double()
    made = source > 0
    if not bool(made.any()) or bool(made.all()):
        raise ModelError("a score correction needs real and generated pictures, but all are of one source")
    gap = _mean_gap(x, target, made, text, query_target)
    generated, real = x[made].mean(dim=0), x[~made].mean(dim=0)
    centred = torch.where(made[:, None], x - generated, x - real)
    covariance = centred.T @ centred / len(x)
    covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(x.shape[1], dtype=x.dtype)
    both = torch.linalg.solve(covariance, torch.stack([generated - real, (generated + real) / 2], dim=1))
    middle = (generated + real) / 2
    w = both[:, 0] - (both[:, 0] @ middle) / (both[:, 1] @ middle) * both[:, 1]
    apart = float((generated - real) @ w)
    if not apart > 1e-9:
        raise ModelError("the sources cannot be told apart linearly: there is nothing to correct by")
    w = w / apart
    queries = text if every_query is None else every_query.double()
    v = torch.linalg.pinv(queries, rtol=_SMALLEST) @ torch.ones(len(queries), dtype=torch.float64)
    matrix = torch.eye(x.shape[1], dtype=torch.float64) - gap * torch.outer(v, w)
    shifts = queries @ v
    metadata = {
        "method": "correction",
        "rank": 1,
        "mean_gap": gap,
        "queries": len(queries),
        "query_shift_spread": float(shifts.std(correction=0)),
    }
    return LinearEraser(matrix, metadata=metadata)


def _mean_gap(x: Tensor, target: Tensor, made: Tensor, text: Tensor, query_target: Tensor) -> float:
    """Mean over queries of the mean score of generated minus real pictures of their target."""
    ids, dense = torch.cat([target, query_target]).unique(return_inverse=True)
    own, asked = dense[: len(target)], dense[len(target) :]
    means, counts = [], []
    for mask in (made, ~made):
        count = torch.bincount(own[mask], minlength=len(ids))
        total = torch.zeros(len(ids), x.shape[1], dtype=x.dtype).index_add_(0, own[mask], x[mask])
        means.append(total / count.clamp(min=1)[:, None])
        counts.append(count)
    usable = (counts[0] > 0) & (counts[1] > 0) & (ids >= 0)
    rows = usable[asked]
    if not bool(rows.any()):
        raise ModelError("a score correction needs queries whose target has pictures of both sources")
    gap = (text[rows] * (means[0] - means[1])[asked[rows]]).sum(dim=1)
    return float(gap.mean())
