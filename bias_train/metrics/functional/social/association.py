"""Association of queries with groups over all scores: C-ASC, and the effect sizes of embedding association tests.

Legend of the shapes: W words, M pictures, G groups, P relabellings.

C-ASC(w, g) = (mean score of group g - mean score of all others) / standard deviation over all pictures (So-B-IT, arXiv
2411.00997, as others re-implement it). It is the single-category effect size of embedding association tests
(Caliskan et al. 2017; Steed and Caliskan 2021) with the group's pictures against the others, so that their permutation
test applies. Standard deviations divide by n - 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bias_train.stats import Floats, Ints

# Entries of one block of relabellings: bounds its memory to some megabytes, which caches still hold.
_BLOCK = 1 << 21


def standardised(scores: NDArray[Any]) -> NDArray[np.float32]:
    """Scores less each word's mean, over its standard deviation.

    Args:
        scores: [W, M] float.

    Returns:
        [W, M] float32; NaN for a word that scores all pictures alike, or for fewer than two pictures.
    """
    if scores.shape[1] < 2:
        return np.full(scores.shape, np.nan, dtype=np.float32)
    found = np.empty(scores.shape, dtype=np.float32)
    for row, own in zip(found, scores, strict=True):
        wide = own.astype(np.float64)
        # Not by the deviation, whose last bits may differ from 0 where all scores are the same.
        row[:] = (wide - wide.mean()) / wide.std(ddof=1) if wide.max() > wide.min() else np.nan
    return found


def c_asc(scores: NDArray[Any], group: Ints, groups: int) -> Floats:
    """C-ASC of every word and group.

    Args:
        scores: [W, M] float.
        group: [M] int64 in 0..G-1.
        groups: G.

    Returns:
        [W, G] float64, signed; NaN for a group that has no picture or all of them, and for a word without spread.

    >>> c_asc(np.array([[3.0, 1.0, 1.0, -1.0]]), np.array([0, 0, 1, 1]), 2).round(4)
    array([[ 1.2247, -1.2247]])
    """
    counts = np.bincount(group, minlength=groups)
    return group_sums(standardised(scores), group, groups) * scale(counts)


def group_sums(z: NDArray[np.float32], group: Ints, groups: int) -> Floats:
    """[W, G] float64 sums of [W, M] standardised scores by group."""
    member = np.zeros((len(group), groups))
    member[np.arange(len(group)), group] = 1.0
    return z.astype(np.float64) @ member


def scale(counts: Ints) -> Floats:
    """What turns a group's sum of standardised scores into its C-ASC.

    All sum to 0, so the others' sum is its negative: sum / n - (-sum) / (M - n) = sum M / (n (M - n)).

    Args:
        counts: [G] pictures of each group.

    Returns:
        [G] float64, NaN for a group that has no picture or all of them.
    """
    total = counts.sum()
    both = (counts * (total - counts)).astype(np.float64)
    return np.where(both > 0, total / np.maximum(both, 1.0), np.nan)


def permutation_p(z: NDArray[np.float32], group: Ints, groups: int, permutations: int, seed: int = 0) -> Floats:
    """Two-sided p-values of C-ASC, under the hypothesis that a group's pictures are scored like any others.

    The same relabellings serve all words and all groups. They give the groups' sums as matrix products; neither the
    standard deviation nor the sizes of the groups change, so that sums may be compared in place of C-ASC.

    Args:
        z: [W, M] standardised scores.
        group: [M] int64 in 0..G-1.
        groups: G.
        permutations: P relabellings; 0 takes `moment_p`.
        seed: of the relabellings.

    Returns:
        [W, G] float64: (1 + #{as extreme}) / (P + 1) (Phipson and Smyth 2010), NaN where C-ASC is.

    Raises:
        ValueError: for a negative number of relabellings.
    """
    if permutations < 0:
        raise ValueError(
            f"permutations is {permutations}; give a number of relabellings, or 0 for a curve in place of all"
        )
    counts = np.bincount(group, minlength=groups)
    sums = group_sums(z, group, groups)
    if permutations == 0:
        return moment_p(z, sums, counts)
    # float32 sums in another order differ in their last bits, and must still count as extreme as themselves.
    bar = np.abs(sums) - 1e-5 * np.sqrt(z.shape[1])
    extreme = np.zeros(sums.shape, dtype=np.int64)
    for member in _relabelled(group, groups, permutations, seed):
        drawn = (z @ member.reshape(len(group), -1)).reshape(len(z), *member.shape[1:])
        # The last group's sum is what the others leave over.
        last = np.abs(drawn.sum(axis=2))
        extreme[:, :-1] += (np.abs(drawn) >= bar[:, None, :-1]).sum(axis=1)
        extreme[:, -1] += (last >= bar[:, None, -1]).sum(axis=1)
    return np.where(np.isnan(sums * scale(counts)), np.nan, (1 + extreme) / (permutations + 1))


def moment_p(z: NDArray[np.float32], sums: Floats, counts: Ints) -> Floats:
    """Two-sided p-values from a curve with the first three moments of the permutation distribution.

    The sum of n of M standardised scores that are drawn without replacement has mean 0, variance n (M - n) / M, and the
    third moment n (M - n) (M - 2n) / (M (M - 1) (M - 2)) times the sum of cubes of all scores. Pearson's type III curve
    has these, too (Mielke and Berry use it so); its tails are taken by Wilson and Hilferty's cube root. Unlike the
    normal limit (Hoeffding 1951) it follows skewed scores; like it, it knows no tails that are long on both sides.
    Cheap, and not bounded by a number of relabellings, but never below one relabelling of all there are.

    Args:
        z: [W, M] standardised scores.
        sums: [W, G] sums of them by group.
        counts: [G] pictures of each group.

    Returns:
        [W, G] float64; NaN for a group that has no picture or all of them, and for a word without spread.
    """
    total = int(counts.sum())
    cubes = (z.astype(np.float64) ** 3).sum(axis=1)
    found = np.full(sums.shape, np.nan)
    for g, n in enumerate(counts.tolist()):
        if not 0 < n < total:
            continue
        deviation = math.sqrt(n * (total - n) / total)
        # Of two pictures there is no third moment.
        third = n * (total - n) * (total - 2 * n) / (total * (total - 1) * max(total - 2, 1))
        least = -(math.lgamma(total + 1) - math.lgamma(n + 1) - math.lgamma(total - n + 1))
        for w in np.flatnonzero(~np.isnan(cubes)):
            away, skewness = abs(sums[w, g]) / deviation, third * cubes[w] / deviation**3
            p = _type_three_tail(away, skewness) + _type_three_tail(away, -skewness)
            found[w, g] = min(max(p, math.exp(least)), 1.0)
    return found


def _type_three_tail(away: float, skewness: float) -> float:
    """Chance that a standardised Pearson type III variable exceeds a value that is not negative."""
    if abs(skewness) < 1e-6:
        return 0.5 * math.erfc(away / math.sqrt(2.0))
    base = 0.5 * skewness * away + 1.0
    if base <= 0.0:
        return 0.0  # the curve ends before
    normal = 6.0 / skewness * (base ** (1.0 / 3.0) - 1.0) + skewness / 6.0
    return 0.5 * math.erfc(normal / math.sqrt(2.0))


def _relabelled(group: Ints, groups: int, permutations: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """[M, p, G - 1] membership in all groups but the last, under p relabellings at a time; overwritten by the next."""
    rng = np.random.default_rng(seed)
    labels = group.astype(np.min_scalar_type(groups))
    step = max(1, _BLOCK // (len(group) * (groups - 1)))
    kept = np.eye(groups, groups - 1, dtype=np.float32)
    member = np.empty((len(group), step, groups - 1), dtype=np.float32)
    for first in range(0, permutations, step):
        rows = min(step, permutations - first)
        drawn = rng.permuted(np.repeat(labels[None], rows, axis=0), axis=1)
        if rows < step:
            member = np.empty((len(group), rows, groups - 1), dtype=np.float32)
        # Into the same memory every time: fetching it anew would take longer than the product.
        yield np.take(kept, drawn.T, axis=0, out=member, mode="clip")


@dataclass(frozen=True)
class Effect:
    """An effect size with its permutation test.

    Attributes:
        d: the effect size; NaN without spread.
        p: its p-value; NaN without spread.
        permutations: relabellings that were evaluated, all there are if ``exact``.
        exact: whether all were enumerated.
    """

    d: float
    p: float
    permutations: int
    exact: bool


def eat(x: Floats, y: Floats, a: Floats, b: Floats, *, permutations: int = 9999, seed: int = 0) -> Effect:
    """Embedding association test, of targets X and Y being unequally near to attributes A and B.

    With s(w) = mean cosine to A - mean cosine to B: d = (mean of s over X - mean over Y) / standard deviation of s over
    both. The test relabels the targets, keeping the numbers of both, and is one-sided: how often is the difference at
    least as large? All relabellings are taken where there are at most ``permutations + 1``.

    Args:
        x: [X, D] unit vectors.
        y: [Y, D].
        a: [A, D].
        b: [B, D].
        permutations: relabellings drawn where there are too many to take all.
        seed: of the draws.

    Raises:
        ValueError: for an empty set, or no relabellings.
    """
    _require(x=x, y=y, a=a, b=b)
    values = np.concatenate([x, y]) @ a.mean(axis=0) - np.concatenate([x, y]) @ b.mean(axis=0)
    return _two_sets(values, len(x), permutations, seed, two_sided=False)


def sc_eat(word: Floats, a: Floats, b: Floats, *, permutations: int = 9999, seed: int = 0) -> Effect:
    """Single-category test, of a word being nearer to A than to B.

    d = (mean cosine to A - mean cosine to B) / standard deviation over both; its test relabels the members of A and B,
    and is two-sided. With A a group and B all other pictures it is C-ASC.

    Args:
        word: [D] unit vector.
        a: [A, D].
        b: [B, D].
        permutations: relabellings drawn where there are too many to take all.
        seed: of the draws.

    Raises:
        ValueError: for an empty set, or no relabellings.
    """
    _require(a=a, b=b)
    return _two_sets(np.concatenate([a, b]) @ word, len(a), permutations, seed, two_sided=True)


def _require(**sets: Floats) -> None:
    for name, rows in sets.items():
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"{name} must be [n, D] with at least one row, not {rows.shape}")


def _two_sets(values: Floats, first: int, permutations: int, seed: int, *, two_sided: bool) -> Effect:
    """Standardised difference of the means of the first values and of the others, with its test."""
    if permutations < 1:
        raise ValueError(f"permutations is {permutations}; at least 1 relabelling must be drawn")
    total = len(values)
    if total < 2 or values.max() == values.min():
        return Effect(math.nan, math.nan, 0, False)
    z = (values - values.mean()) / values.std(ddof=1)
    d = float(z[:first].mean() - z[first:].mean())
    ways = math.comb(total, first)
    exact = ways <= permutations + 1
    # The first set's sum says it all: z sums to 0.
    bar = float(np.abs(z[:first].sum()) if two_sided else z[:first].sum()) - 1e-9 * total
    extreme = 0
    for rows in _every(total, first) if exact else _drawn(total, first, permutations, seed):
        sums = z[rows].sum(axis=1)
        extreme += int(((np.abs(sums) if two_sided else sums) >= bar).sum())
    p = extreme / ways if exact else (1 + extreme) / (permutations + 1)
    return Effect(d, p, ways if exact else permutations, exact)


def _every(total: int, first: int) -> Iterator[Ints]:
    """All choices of ``first`` of the rows, [n, first] at a time."""
    choices = combinations(range(total), first)
    while block := list(islice(choices, max(1, _BLOCK // total))):
        yield np.array(block, dtype=np.int64)


def _drawn(total: int, first: int, permutations: int, seed: int) -> Iterator[Ints]:
    """Random choices of ``first`` of the rows, [n, first] at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // total)
    for start in range(0, permutations, step):
        rows = np.repeat(np.arange(total)[None], min(step, permutations - start), axis=0)
        yield rng.permuted(rows, axis=1)[:, :first]
