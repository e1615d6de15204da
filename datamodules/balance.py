"""Weights on samples under which groups are equally represented, and uncorrelated with other attributes.

After M4 (Alabdulmohsin et al. 2024, "CLIP the Bias: How Useful is Balancing Data in Multimodal Learning?", after a
summary): weights q that minimise

    sum_kr max(0, |E[q (s_k - pi_k) y_r]| - eps_D) + sum_k max(0, |E[q (s_k - pi_k)]| - eps_R)

for indicators s of groups, y of other attributes, and wanted shares pi. Of the weights that do so, ours are those
nearest to 1: a small multiple of ``E[(q - 1)^2] / 2`` is added. Samples with equal labels then have equal weights, so
that the problem is as large as the number of combinations of labels, and not of samples. It is solved in the dual,
which has a multiplier for each moment in a box, by accelerated proximal ascent with restarts (Beck and Teboulle 2009,
"A fast iterative shrinkage-thresholding algorithm"; O'Donoghue and Candès 2015, "Adaptive restart for accelerated
gradient schemes").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.hashing import mix

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Balanced:
    """Weights and what they achieve.

    Attributes:
        weight: [N] float64, within the bounds, of mean 1.
        representation: [K] float64, ``E[q (s_k - pi_k)]``.
        association: [K, R] float64, ``E[q (s_k - pi_k) y_r]``.
        beyond: the sum of what the moments are beyond their tolerances; 0 where all are met.
    """

    weight: Floats
    representation: Floats
    association: Floats
    beyond: float


def balancing_weights(
    groups: Floats,
    others: Floats,
    target: Floats,
    *,
    eps_association: float = 0.0,
    eps_representation: float = 0.0,
    low: float = 0.1,
    high: float = 10.0,
    penalty: float = 1000.0,
    rounds: int = 50_000,
) -> Balanced:
    """Find the weights.

    Args:
        groups: [N, K] s, indicators of the groups (or any numbers).
        others: [N, R] y, indicators of what the groups shall be uncorrelated with; R may be 0.
        target: [K] pi, the wanted means of s.
        eps_association: tolerance of each ``E[q (s_k - pi_k) y_r]``.
        eps_representation: tolerance of each ``E[q (s_k - pi_k)]``.
        low: least weight, in [0, 1].
        high: largest weight, at least 1. Bounds keep rare combinations from standing for too many others; where they
            do not let all moments be met, the sum of what remains is as small as it gets.
        penalty: on what remains, against the distance of weights from 1.
        rounds: of the solver, at most.

    Raises:
        DataError: for no samples, shapes that do not fit, values that are not finite, or bounds that exclude 1.

    Example:
        >>> women, doctor = np.array([1.0, 1, 1, 0, 0, 0, 0, 0]), np.array([[0.0], [0], [1], [1], [1], [1], [0], [0]])
        >>> found = balancing_weights(women[:, None], doctor, np.array([0.5]))
        >>> [float(round((found.weight * part).mean(), 3)) for part in (women, women * doctor[:, 0], doctor[:, 0])]
        [0.5, 0.214, 0.429]
    """
    _check(groups, others, target, low, high)
    labels, row, count = np.unique(
        np.concatenate([groups, others], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    row = row.reshape(-1)
    kinds = groups.shape[1]
    share = count / count.sum()
    centred = labels[:, :kinds] - target
    crossed = (centred[:, :, None] * labels[:, None, kinds:]).reshape(len(labels), -1)
    moments = np.concatenate([centred, crossed], axis=1).T  # [J, combinations]
    tolerance = np.repeat([eps_representation, eps_association], [kinds, crossed.shape[1]])
    weight = _solve(moments, tolerance, share, low, high, penalty, rounds)
    reached = moments @ (share * weight)
    return Balanced(
        weight[row],
        reached[:kinds],
        reached[kinds:].reshape(kinds, -1),
        float(np.maximum(np.abs(reached) - tolerance, 0.0).sum()),
    )


def copies(weight: Floats, group: Ints, total: int, *key: int) -> Ints:
    """Turn weights into whole numbers of copies.

    Args:
        weight: [N] not negative, some above 0.
        group: [N] the group of each sample.
        total: copies in all.
        key: of the order in which what is left over falls to samples.

    Returns:
        [N] int64 of sum ``total``; each is its due ``total * weight / sum(weight)``, rounded down or up, and so is
        every group's sum.

    Example:
        >>> copies(np.array([0.5, 0.5, 0.5, 2.5]), np.array([0, 0, 1, 1]), 8, 1).tolist()[-1]
        5
    """
    # Totals of a running sum are rounded, in an order in which groups stand together. A sum of whole numbers is exact,
    # so that the last total is what it should be.
    order = np.lexsort((mix(*key, np.arange(len(weight))), group))
    due = np.cumsum(weight[order]) * (total / weight.sum())
    edges = np.concatenate([[0], np.floor(due + 0.5).astype(np.int64)])
    edges[-1] = total
    found = np.empty(len(weight), dtype=np.int64)
    found[order] = np.diff(edges)
    return found


def _check(groups: Floats, others: Floats, target: Floats, low: float, high: float) -> None:
    if len(groups) == 0:
        raise DataError("there are no samples to balance")
    if len(others) != len(groups) or target.shape != groups.shape[1:]:
        raise DataError(
            f"balancing takes [N, K] groups, [N, R] others and [K] targets, not {groups.shape}, {others.shape}, "
            f"{target.shape}"
        )
    if not all(np.isfinite(values).all() for values in (groups, others, target)):
        raise DataError("balancing takes finite numbers; leave samples out whose labels are not known")
    if not 0.0 <= low <= 1.0 <= high:
        raise DataError(f"balancing: weights have mean 1, so bounds must hold 1 between them, not {low:g} and {high:g}")


def _solve(
    moments: Floats, tolerance: Floats, share: Floats, low: float, high: float, penalty: float, rounds: int
) -> Floats:
    """Weights of combinations: [P], for moments [J, P] and shares [P] of the combinations."""
    scale = np.sqrt((moments**2) @ share)
    used = scale > 0  # what is zero throughout is met by any weights
    moments, tolerance, scale = moments[used], tolerance[used], scale[used]
    if not len(moments):
        return np.ones(len(share))
    # In units of its own size each moment has about the same say in the steps.
    moments, tolerance, most = moments / scale[:, None], tolerance / scale, penalty * scale
    rate = 1.0 / float(np.linalg.eigvalsh((moments * share) @ moments.T)[-1])
    dual = ahead = np.zeros(len(moments))
    shift, pace = 0.0, 1.0
    weight = np.ones(len(share))
    for step in range(rounds):
        weight, shift = _weights(ahead @ moments, share, low, high, shift)
        reached = moments @ (share * weight)
        moved = ahead + rate * reached
        fresh = np.clip(np.sign(moved) * np.maximum(np.abs(moved) - rate * tolerance, 0.0), -most, most)
        if float((ahead - fresh) @ (fresh - dual)) > 0:  # momentum leads astray
            pace = 1.0
        following = (1.0 + np.sqrt(1.0 + 4.0 * pace**2)) / 2.0
        ahead, dual, pace = fresh + (pace - 1.0) / following * (fresh - dual), fresh, following
        if step % 10 == 0:
            weight, shift = _weights(dual @ moments, share, low, high, shift)
            reached = moments @ (share * weight)
            left = most @ np.maximum(np.abs(reached) - tolerance, 0.0)
            gap = left - dual @ reached + tolerance @ np.abs(dual)
            if gap < 1e-9:
                break
    return _weights(dual @ moments, share, low, high, shift)[0]


def _weights(push: Floats, share: Floats, low: float, high: float, shift: float) -> tuple[Floats, float]:
    """The weights of mean 1 within bounds that are nearest to ``1 - push``, and the shift that gives them their mean.

    The mean of ``clip(1 - push + shift)`` rises with the shift in straight pieces: Newton's method, kept in a bracket.
    """
    below, above = float(push.min()) + low - 1.0, float(push.max()) + high - 1.0
    shift = min(max(shift, below), above)
    for _ in range(100):
        raw = 1.0 - push + shift
        weight = np.clip(raw, low, high)
        missing = 1.0 - float(share @ weight)
        if abs(missing) < 1e-13:
            break
        below, above = (shift, above) if missing > 0 else (below, shift)
        slope = float(share @ ((raw > low) & (raw < high)))
        shift = shift + missing / slope if slope > 0 else (below + above) / 2
        if not below < shift < above:
            shift = (below + above) / 2
    return weight, shift
