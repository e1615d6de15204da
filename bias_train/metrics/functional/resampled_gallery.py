"""Top lists of a resampled gallery, for a few queries over many pictures.

With label relevance the queries are a handful of fixed class prompts, and what is sampled are the pictures. Ranking
2,000 resampled galleries anew would be slow, and is not needed: a resample holds the same pictures in the same order,
each as often as it was drawn. So a query is sorted once, the draws are cumulated down that order, and the top k is
where the cumulated count reaches k. Own construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bias_train.metrics.functional.ranking import discounts
from bias_train.stats import Floats


@dataclass(frozen=True)
class TopCounts:
    """Sums over the top k, one entry per query or per resample (n); a pair stands for (real, generated).

    Attributes:
        hits: 2 x [n] relevant pictures of each source in the top k.
        gain: 2 x [n] their summed discounts.
        shown: [n] generated pictures in the top k, relevant or not.
        shown_gain: [n] their summed discounts.
    """

    hits: tuple[Floats, Floats]
    gain: tuple[Floats, Floats]
    shown: Floats
    shown_gain: Floats


def resampled_top_counts(
    scores: NDArray[np.float32],
    relevant: NDArray[np.bool_],
    generated: NDArray[np.bool_],
    counts: NDArray[np.integer],
    ks: tuple[int, ...],
) -> dict[int, TopCounts]:
    """Top-k sums of one query in every resampled gallery.

    Args:
        scores: [M] of the query with each picture.
        relevant: [M] whether the picture answers it.
        generated: [M] whether it is generated.
        counts: [M, B] how often each resample holds each picture.
        ks: cut-offs, each at most M.

    Returns:
        By cut-off; entries are [B] float64. Tied pictures share their positions equally.
    """
    top = max(ks)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # Draws have mean one, so little more than k pictures are needed; lists that still fall short are doubled.
    depth = min(len(order), int(top + 10 * np.sqrt(top)) + 20)
    while True:
        # Whole tie groups only: half a group would favour whichever of its pictures came first.
        depth = int(np.searchsorted(-ranked, -ranked[depth - 1], side="right"))
        weight = counts[order[:depth]].astype(np.int32)
        reached = np.cumsum(weight, axis=0, dtype=np.int32)
        if depth == len(order) or int(reached[-1].min()) >= top:
            break
        depth = min(len(order), 2 * depth)
    shown = generated[order[:depth]]
    hit = relevant[order[:depth]]
    starts = np.flatnonzero(np.r_[True, ranked[1:depth] != ranked[: depth - 1]])
    masks = (hit & ~shown, hit & shown, shown)
    tied = len(starts) < depth
    if tied:
        group = np.add.reduceat(weight, starts, axis=0)
        reached = np.cumsum(group, axis=0, dtype=np.int32)
        # Share of each kind within its tie group; a group that was not drawn takes no position.
        shares = [
            np.add.reduceat(weight * mask[:, None], starts, axis=0) / np.maximum(group, 1).astype(np.float64)
            for mask in masks
        ]
        weight = group
    before = reached - weight
    found: dict[int, TopCounts] = {}
    for k in ks:
        table = np.concatenate([[0.0], np.cumsum(discounts(k).numpy())])
        end, begin = np.minimum(reached, k), np.minimum(before, k)
        taken, gained = end - begin, table[end] - table[begin]
        if tied:
            sums = [(share * taken).sum(axis=0) for share in shares]
            gains = [(share * gained).sum(axis=0) for share in shares]
        else:
            sums = [taken[mask].sum(axis=0).astype(np.float64) for mask in masks]
            gains = [gained[mask].sum(axis=0) for mask in masks]
        found[k] = TopCounts((sums[0], sums[1]), (gains[0], gains[1]), sums[2], gains[2])
    return found


def resampled_win_rate(
    scores: NDArray[np.floating], generated: NDArray[np.bool_], counts: NDArray[np.integer]
) -> Floats:
    """Chance that a random generated picture scores above a random real one, in every resample.

    The area under the curve of the score as a detector of generation, among pictures that are all relevant.

    Args:
        scores: [R] of the query's relevant pictures.
        generated: [R] whether each is generated.
        counts: [R, B] how often each resample holds each.

    Returns:
        [B] float64 in [0, 1], a tie counting half; NaN where a source is missing.
    """
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weight = counts[order].astype(np.float64)
    kind = generated[order][:, None]
    above = np.add.reduceat(weight * kind, starts, axis=0)
    real = np.add.reduceat(weight * ~kind, starts, axis=0)
    below = np.cumsum(real, axis=0) - real / 2.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return (above * below).sum(axis=0) / (above.sum(axis=0) * real.sum(axis=0))
