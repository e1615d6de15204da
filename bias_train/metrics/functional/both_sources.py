"""Retrieval of both pictures of a pair: what a mixed gallery costs or gains regardless of the order of the two.

R@k and NDCG@k with two relevant pictures, photo and twin, as in the test scripts of arXiv 2311.14084's authors. The
expectation over ties, and over a random twin where there are several, is ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bias_train.metrics.functional.location import gain_by_rank, hit_by_rank
from bias_train.metrics.functional.ratios import Spec
from bias_train.metrics.functional.shared_ranking import Placement
from bias_train.metrics.functional.source_columns import PAPER_IDEAL, SourceTask
from bias_train.stats import Floats


def both_columns(task: SourceTask, placed: Placement, generated: NDArray[np.bool_]) -> dict[str, Floats]:
    """Per-query measures, zero for queries that do not count.

    Args:
        task: the mixed gallery's evaluation, with pair relevance.
        placed: [Q, W] where each query's pictures stand in it.
        generated: [Q, W] whether each is generated.

    Returns:
        ``R_both@k`` and ``NDCG_both@k``, [Q] each, for cut-offs of at least 2.
    """
    photo = placed.there & ~generated
    twin = placed.there & generated
    share = twin / np.maximum(twin.sum(axis=1, keepdims=True), 1) * task.answered[:, None]
    # A query that counts has one photo.
    above, equal = ((photo * values).sum(axis=1, keepdims=True) for values in (placed.above, placed.equal))
    columns = {}
    for k in _cutoffs(task):
        hit, gain = placed.expected(hit_by_rank(k)), placed.expected(gain_by_rank(k))
        photo_hit, photo_gain = ((photo * values).sum(axis=1, keepdims=True) for values in (hit, gain))
        # In one tie group of e with room for m the two are both among the m in m (m - 1) of e (e - 1) orders; in two
        # groups the lower one has room only where the higher one stands above k as a whole.
        room = np.clip(k - above, 0.0, equal)
        tied = room * (room - 1.0) / np.maximum(equal * (equal - 1.0), 1.0)
        joint = np.where(placed.above == above, tied, photo_hit * hit)
        columns[f"R_both@{k}"] = (share * joint).sum(axis=1)
        columns[f"NDCG_both@{k}"] = (share * (photo_gain + gain)).sum(axis=1) / PAPER_IDEAL
    return columns


def both_specs(task: SourceTask, note: str = "") -> list[Spec]:
    """Share of queries with both pictures in the top k, and NDCG@k with two relevant pictures."""
    if not task.answered.any():
        return []
    return [
        Spec(f"{measure}_both", k, ((f"{measure}_both@{k}", "answered"),), by_slot=True, note=note)
        for measure in ("R", "NDCG")
        for k in _cutoffs(task)
    ]


def _cutoffs(task: SourceTask) -> tuple[int, ...]:
    """One position cannot hold two pictures."""
    return tuple(k for k in task.ks if k >= 2)
