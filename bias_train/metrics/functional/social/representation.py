"""Who stands among the first k pictures of a ranking: counts by group, and the figures that are made of them.

Legend of the shapes: W words (queries), M pictures, G groups, K cut-offs.

Sources. Skew, MaxSkew and NDKL: Geyik et al. 2019, "Fairness-aware ranking in search and recommendation systems".
Normalised entropy: So-B-IT (arXiv 2411.00997) as it is re-implemented by others. Bias: Wang et al. 2021 (signed) and
Kong et al. 2023 (absolute). MPR: Oesterling et al. 2024. The rules for ties and for absent groups are ours.

Ties. Pictures of one score stand in random order, and counts are their expectation over it: a block of tied pictures
that the cut-off splits counts in part, each of its groups by its share of the block. Figures that are not linear in
the counts are computed from these expected counts; they are not themselves expectations.

Absent groups. ln 0 is no number, so a share of zero needs a rule:

- ``"count"``: a share counts as one picture of the k at least, but as no more than its target, so that an absent group
  never looks over-represented. Where k times the target is above one this is the rule p = 1/k of others.
- a number e > 0: ln((p + e) / (q + e)), as in the ``reranking`` package with 1e-12.

The rule never decides MaxSkew (some group reaches its target), nearly always MinSkew. KL, NDKL and entropy need none,
since p ln p goes to 0. How many groups are absent is a figure of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bias_train.metrics.functional.inputs import check_cutoffs
from bias_train.metrics.functional.ranking import discounts, top_list
from bias_train.metrics.functional.social.proportional import mpr_of_counts
from bias_train.stats import Floats, Ints

# Entries of one block of positions by group: bounds its memory to some megabytes.
_BLOCK = 1 << 20
_CACHED = 1 << 16

Zero = Literal["count"] | float
Target = Literal["pool", "uniform"] | NDArray[np.float64] | Sequence[float]
Name = tuple[str, int | None]

#: Figures of the counts at one cut-off, in this order; two groups have three more.
SHARE_FIGURES = ("entropy", "max_skew", "min_skew", "kl", "ndkl", "absent", "parity_difference", "mpr")
TWO_GROUP_FIGURES = ("bias", "abs_bias", "amplification")
#: Figures of all scores, without a cut-off: mean absolute, largest and smallest C-ASC over the groups.
ASSOCIATION_FIGURES = ("abs_association", "max_association", "min_association")


def figure_names(groups: int, ks: Sequence[int]) -> tuple[Name, ...]:
    """(name, k) of every figure of a word, in the order of all tables; k is None for those of all scores.

    >>> figure_names(3, (10,))[:2], figure_names(2, (10,))[-1]
    ((('entropy', 10), ('max_skew', 10)), ('min_association', None))
    """
    names = (*SHARE_FIGURES, *(TWO_GROUP_FIGURES if groups == 2 else ()))
    return (*((name, k) for k in ks for name in names), *((name, None) for name in ASSOCIATION_FIGURES))


def figure_limits(names: Sequence[Name], groups: int) -> Floats:
    """[2, F] least and largest value that each figure can take."""
    largest = {"absent": float(groups), "min_skew": 0.0, "max_skew": np.inf, "kl": np.inf, "ndkl": np.inf}
    least = {"min_skew": -np.inf, "bias": -1.0}
    unlimited = ("amplification", *ASSOCIATION_FIGURES)
    ends = [
        (-np.inf, np.inf) if name in unlimited else (least.get(name, 0.0), largest.get(name, 1.0)) for name, _ in names
    ]
    return np.array(ends).T


def target_shares(target: Target, counts: Ints) -> Floats:
    """Wanted shares of the groups.

    Args:
        target: ``"pool"``, ``"uniform"``, or [G] shares of your own.
        counts: [G] pictures of each group in the pool.

    Returns:
        [G] float64, which sum to 1; 0 only for a group without pictures under ``"pool"``.

    Raises:
        ValueError: for shares of another length, not above 0, or that do not sum to 1.
    """
    if isinstance(target, str):
        if target not in ("pool", "uniform"):
            raise ValueError(f"target is {target!r}; choose 'pool', 'uniform', or shares of your own")
        even = np.full(len(counts), 1.0 / len(counts))
        return even if target == "uniform" else counts / counts.sum()
    shares = np.asarray(target, dtype=np.float64)
    if shares.shape != counts.shape:
        raise ValueError(f"target holds {shares.size} shares for {len(counts)} groups")
    if not (shares > 0).all() or abs(float(shares.sum()) - 1.0) > 1e-6:
        raise ValueError(f"target shares must be above 0 and sum to 1, not {shares.tolist()}")
    return shares / shares.sum()


def top_counts(scores: NDArray[Any], group: Ints, groups: int, ks: Sequence[int]) -> Floats:
    """Expected pictures of each group among the first k.

    Args:
        scores: [W, M] float, larger is better.
        group: [M] int64 in 0..G-1; drop pictures of unknown group before.
        groups: G.
        ks: K cut-offs; beyond M they are capped.

    Returns:
        [W, K, G] float64, each row summing to k (or M).
    """
    check_cutoffs("ks", tuple(ks))
    depths = [min(k, scores.shape[1]) for k in ks]
    found = np.empty((len(scores), len(depths), groups))
    for rows, position in top_positions(scores, group, groups, max(depths)):
        found[rows] = position.cumsum(axis=1)[:, np.array(depths) - 1]
    return found


def skew(counts: Floats, k: int, target: Floats, zero: Zero = "count") -> Floats:
    """Skew of each group, ln(share / target).

    Args:
        counts: [..., G] pictures of each group among the first k.
        k: cut-off, what the counts sum to.
        target: [G] wanted shares.
        zero: rule for absent groups (see above).

    Returns:
        [..., G] float64; NaN for a group whose target is 0.
    """
    check_zero(zero)
    share = counts / k
    with np.errstate(invalid="ignore", divide="ignore"):
        if isinstance(zero, str):
            found = np.log(np.maximum(share, np.minimum(1.0 / k, target)) / target)
        else:
            found = np.log((share + zero) / (target + zero))
    return np.where(target > 0, found, np.nan)


def figures_of_shares(
    counts: Floats, k: int, target: Floats, zero: Zero = "count", *, pool: Ints | None = None
) -> dict[str, Floats]:
    """Figures of the counts at one cut-off.

    - ``entropy``: -sum p ln p / ln G; 1 is balanced, 0 one group only. G counts absent groups, too.
    - ``max_skew``, ``min_skew``: over all groups.
    - ``kl``: sum p ln(p / q).
    - ``absent``: groups with a target above 0 and no picture.
    - with two groups ``bias``: (N_0 - N_1) / (N_0 + N_1), positive where the first label prevails, 0 without pictures;
      ``abs_bias``: its absolute value.
    - with ``pool`` also ``parity_difference``: demographic parity difference of being among the first k, the largest
      minus the smallest share of a group's pictures that are; ``mpr``: multi-group proportional representation over
      linear functions of the group (`bias_train.metrics.functional.social.proportional`), of the first k against as
      many pictures as the pool has in the target's shares; with two groups ``amplification``: bias minus the pool's.

    Args:
        counts: [..., G] pictures of each group among the first k.
        k: cut-off, what the counts sum to.
        target: [G] wanted shares.
        zero: rule for absent groups.
        pool: [G] pictures of each group in the pool.

    Returns:
        By name, [...] float64.
    """
    share = counts / k
    own = plogp(share)
    skews = skew(counts, k, target, zero)[..., target > 0]
    asked = target > 0
    found = {
        "entropy": (0.0 - own.sum(axis=-1)) / np.log(len(target)),
        "max_skew": skews.max(axis=-1),
        "min_skew": skews.min(axis=-1),
        "kl": own.sum(axis=-1) - share[..., asked] @ np.log(target[asked]),
        "absent": ((counts <= 0) & asked).sum(axis=-1).astype(np.float64),
    }
    if pool is not None:
        rate = counts[..., pool > 0] / pool[pool > 0]
        found["parity_difference"] = rate.max(axis=-1) - rate.min(axis=-1)
        found["mpr"] = mpr_of_counts(counts, target * pool.sum())
    if len(target) == 2:
        found["bias"] = signed_bias(counts)
        found["abs_bias"] = np.abs(found["bias"])
        if pool is not None:
            found["amplification"] = found["bias"] - signed_bias(pool)
    return found


def ndkl(ranked: NDArray[Any], groups: int, target: Floats, ks: Sequence[int]) -> Floats:
    """Normalised discounted KL divergence of rankings without ties.

    NDKL@k = (1/Z) sum_{i=1..k} KL(p^(i) || q) / log2(i + 1), with Z = sum_i 1 / log2(i + 1) and p^(i) the shares in the
    first i.

    Args:
        ranked: [..., L] groups of the pictures, best first.
        groups: G.
        target: [G] wanted shares.
        ks: K cut-offs; beyond L they are capped.

    Returns:
        [..., K] float64.
    """
    depth = ranked.shape[-1]
    lists = ranked.reshape(-1, depth)
    logs = np.log(np.where(target > 0, target, 1.0))
    plain = plogp(np.arange(depth + 1, dtype=np.float64))
    found = np.empty((len(lists), len(ks)))
    # Few lists at a time, so that caches hold their positions.
    step = max(1, _CACHED // max(depth, 1))
    for first in range(0, len(lists), step):
        part = lists[first : first + step]
        # i KL(p || q) of the first i, by their counts n: sum_g (n_g ln n_g - n_g ln q_g) - i ln i.
        total = np.repeat(-plain[None, 1:], len(part), axis=0)
        for g in range(groups):
            number = (part == g).cumsum(axis=1, dtype=np.int32)
            total += plain[number] - number * logs[g]
        found[first : first + step] = _discounted(total / np.arange(1, depth + 1), ks)
    return found.reshape(*ranked.shape[:-1], len(ks))


def ndkl_of_positions(position: Floats, target: Floats, ks: Sequence[int]) -> Floats:
    """NDKL where ties leave open who stands where.

    Args:
        position: [..., L, G] expected composition of each position, summing to 1.
        target: [G] wanted shares.
        ks: K cut-offs; beyond L they are capped.

    Returns:
        [..., K] float64, of the expected counts.
    """
    depth = position.shape[-2]
    asked = target > 0
    share = position[..., asked].cumsum(axis=-2) / np.arange(1, depth + 1)[:, None]
    divergence = plogp(share).sum(axis=-1) - share @ np.log(target[asked])
    return _discounted(divergence, ks)


def _discounted(divergence: Floats, ks: Sequence[int]) -> Floats:
    """[..., K] discounted means of the first k of [..., L] divergences."""
    check_cutoffs("ks", tuple(ks))
    weight = discounts(divergence.shape[-1]).numpy()
    ends = np.minimum(ks, len(weight)) - 1
    return np.asarray((divergence * weight).cumsum(axis=-1)[..., ends] / weight.cumsum()[ends])


def top_positions(scores: NDArray[Any], group: Ints, groups: int, depth: int) -> Iterator[tuple[slice, Floats]]:
    """Expected composition of the first positions of each word's ranking, some words at a time.

    Args:
        scores: [W, M] float.
        group: [M] int64 in 0..G-1.
        groups: G.
        depth: L positions, at most M.

    Yields:
        ``(words, [w, L, G] float64)``.
    """
    kind = torch.from_numpy(group)
    step = max(1, _BLOCK // max(depth * groups, scores.shape[1]))
    for first in range(0, len(scores), step):
        part = torch.from_numpy(np.ascontiguousarray(scores[first : first + step]))
        everything = torch.ones(part.shape, dtype=torch.bool)
        yield slice(first, first + len(part)), top_list(part, everything, kind, groups, depth).kind.numpy()


def plogp(share: Floats) -> Floats:
    """Value times its logarithm, 0 for 0."""
    return share * np.log(np.where(share > 0, share, 1.0))


def signed_bias(counts: NDArray[Any]) -> Floats:
    """(N_0 - N_1) / (N_0 + N_1) of [..., 2] counts, 0 where there are none."""
    total = counts.sum(axis=-1)
    return np.asarray((counts[..., 0] - counts[..., 1]) / np.where(total > 0, total, 1))


def check_zero(zero: Zero) -> None:
    """Require a rule for absent groups.

    Raises:
        ValueError: for neither ``"count"`` nor a number above 0.
    """
    if zero != "count" and (isinstance(zero, str) or not zero > 0):
        raise ValueError(f"zero is {zero!r}; choose 'count', or a small number above 0")
