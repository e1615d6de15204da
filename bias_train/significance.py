"""Tests: is a bias more than chance, is a difference less than what matters, and how many tests were made.

A label-swap permutation test, equivalence by two one-sided tests on bootstrap draws, and two corrections for several
tests. All work on clusters: the captions of one picture move together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bias_train.stats import Floats, Ints

# Relabellings evaluated at once: bounds the memory of one block.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class SwapTest:
    """Outcome of a label-swap permutation test.

    Attributes:
        statistic: [F] sums over clusters as the labels stand; 0 is expected under the null hypothesis.
        p: [F] two-sided p-values; 1 where no cluster's labels make a difference.
        relabellings: how many were evaluated: all there are if ``exact``, else those drawn.
        exact: whether all were enumerated.
        informative: [F] clusters in which labels make a difference.
    """

    statistic: Floats
    p: Floats
    relabellings: int
    exact: bool
    informative: Ints


def swap_test(contributions: Floats, *, permutations: int = 9999, seed: int = 0) -> SwapTest:
    """Test whether the real picture of a cluster could as well be any other of its pictures.

    Under the null hypothesis the label "real" is exchangeable among the pictures of a cluster (a photo and its twins),
    independently between clusters: with one twin this swaps the two labels. Captions stay together, since a cluster's
    pictures keep all of theirs. The rankings stay as they are, so that a relabelling is another choice of summands.

    Enumerates all relabellings of the clusters in which they make a difference where there are at most
    ``permutations + 1``; otherwise draws ``permutations`` and gives (1 + #{as extreme}) / (permutations + 1), which is
    a valid p-value at any number of draws (Phipson and Smyth 2010).

    Args:
        contributions: [G, W, F] what cluster g adds to statistic f if its picture w is called real; w = 0 is how the
            labels stand, NaN where a cluster has fewer pictures. Over a cluster's pictures they must average 0.
        permutations: how many relabellings are drawn.
        seed: of the draws.

    Raises:
        ValueError: if a cluster's contributions do not average 0: then the test would not be centred.

    Example: three clusters that all speak for one side; 2 of the 8 swaps are as extreme.

    >>> float(swap_test(np.array([[[1.0], [-1.0]]] * 3)).p[0])
    0.25
    """
    if permutations < 1:
        raise ValueError(f"permutations is {permutations}; at least 1 relabelling must be drawn")
    sizes = (~np.isnan(contributions[:, :, 0])).sum(axis=1)
    values = np.nan_to_num(contributions)
    scale = np.abs(values).sum(axis=(0, 1)).max(initial=0.0)
    if np.abs(values.sum(axis=1)).max(initial=0.0) > 1e-9 * max(scale, 1.0):
        raise ValueError("the contributions of a cluster's pictures must average 0")
    matters = np.abs(values).max(axis=1, initial=0.0) > 0  # [G, F]
    statistic = values[:, 0].sum(axis=0)
    kept = matters.any(axis=1)
    values, sizes = values[kept], sizes[kept]
    # A sum in another order differs in its last bits, and must still count as extreme as itself.
    bar = np.abs(statistic) - 1e-9 * np.maximum(scale, 1e-300)
    total = math.prod(sizes.tolist()) if len(sizes) <= 64 else permutations + 2
    exact = total <= permutations + 1
    labels = _every(sizes) if exact else _drawn(sizes, permutations, seed)
    extreme = np.zeros(len(statistic), dtype=np.int64)
    for block in labels:
        sums = np.zeros((len(block), len(statistic)))
        for w in range(values.shape[1]):
            sums += (block == w).astype(np.float64) @ values[:, w]
        extreme += (np.abs(sums) >= bar).sum(axis=0)
    p = extreme / total if exact else (1 + extreme) / (permutations + 1)
    return SwapTest(statistic, np.asarray(p), total if exact else permutations, exact, matters.sum(axis=0))


def _every(sizes: Ints) -> Iterator[NDArray[np.uint8]]:
    """All choices of one picture per cluster, [b, G] at a time; one empty choice for no clusters."""
    total = math.prod(sizes.tolist())
    places = np.concatenate([[1], np.cumprod(sizes)[:-1]]).astype(np.int64)[: len(sizes)]
    step = max(1, _BLOCK // max(len(sizes), 1))
    for first in range(0, total, step):
        number = np.arange(first, min(first + step, total))[:, None]
        yield (number // places % sizes).astype(np.uint8)


def _drawn(sizes: Ints, permutations: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Random choices of one picture per cluster, [b, G] at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // max(len(sizes), 1))
    in_pairs = bool((sizes == 2).all())
    for first in range(0, permutations, step):
        rows = min(step, permutations - first)
        if in_pairs:
            # A bit each: eight times fewer random bytes than anything that knows other sizes.
            bits = np.frombuffer(rng.bytes(-(-rows * len(sizes) // 8)), dtype=np.uint8)
            yield np.unpackbits(bits, count=rows * len(sizes)).reshape(rows, len(sizes))
        else:
            yield (rng.random((rows, len(sizes)), dtype=np.float32) * sizes).astype(np.uint8)


@dataclass(frozen=True)
class Equivalence:
    """Outcome of two one-sided tests.

    Attributes:
        value: the difference on the data.
        low: lower end of the interval of level 1 - 2 alpha.
        high: its upper end.
        margin: differences below it do not matter.
        p: the larger of the two one-sided p-values.
        equivalent: whether both tests reject at ``alpha``.
        alpha: their level.
    """

    value: float
    low: float
    high: float
    margin: float
    p: float
    equivalent: bool
    alpha: float


def equivalence(value: float, draws: Floats, margin: float, alpha: float = 0.05) -> Equivalence:
    """Test whether a difference is smaller than a margin, from its bootstrap draws.

    Two one-sided tests (Schuirmann 1987), each inverted from the bootstrap: the hypothesis that the difference is at
    most -margin has the p-value (1 + #{draws <= -margin}) / (B + 1), likewise on the other side. "Equivalent" then
    says the same as the percentile interval of level 1 - 2 alpha lying within (-margin, margin).

    Args:
        value: the difference on the data.
        draws: [B] the difference on resamples; NaN ones count against equivalence on both sides.
        margin: what does not matter yet, in the difference's unit.
        alpha: level of each of the two tests.

    Raises:
        ValueError: for a margin that is not positive or a level outside (0, 0.5).
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin}; an equivalence test needs a margin above 0")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}; it must lie between 0 and 0.5, such as 0.05")
    if math.isnan(value):
        return Equivalence(value, math.nan, math.nan, margin, math.nan, False, alpha)
    below, above = (int((~(side > -margin)).sum()) for side in (draws, -draws))
    p = (1 + max(below, above)) / (len(draws) + 1)
    finite = draws[~np.isnan(draws)]
    if len(finite) == 0:
        return Equivalence(value, math.nan, math.nan, margin, math.nan, False, alpha)
    low, high = np.quantile(finite, (alpha, 1 - alpha), method="inverted_cdf")
    return Equivalence(value, float(low), float(high), margin, p, p <= alpha, alpha)


def holm(p: Sequence[float] | Floats) -> Floats:
    """Adjusted p-values of Holm's step-down method (1979): the chance of any false claim stays below the level.

    NaN entries are no tests: they stay NaN and do not count.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1.0)
    return adjusted


def benjamini_hochberg(p: Sequence[float] | Floats) -> Floats:
    """Adjusted p-values of Benjamini and Hochberg (1995): the expected share of false claims stays below the level.

    NaN entries are no tests: they stay NaN and do not count.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    array([0.03, 0.04, 0.04])
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")][::-1]
    factors = len(order) / np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.minimum.accumulate(factors * values[order]), 1.0)
    return adjusted
