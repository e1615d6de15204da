"""Figures of who is retrieved, by loops from their definitions."""

from __future__ import annotations

import math

import numpy as np
from naive_rankings import expected


def naive_counts(scores: np.ndarray, group: np.ndarray, groups: int, k: int) -> np.ndarray:
    """Pictures of each group in the first k, averaged over every order that ties allow."""
    k = min(k, len(scores))
    return np.array([expected(scores, lambda order, g=g: sum(group[i] == g for i in order[:k])) for g in range(groups)])


def shared_counts(scores: np.ndarray, group: np.ndarray, groups: int, k: int) -> np.ndarray:
    """The same for ties too large to write out: a tied block fills its places by its shares."""
    found = np.zeros(groups)
    left = min(k, len(scores))
    for level in sorted(set(scores.tolist()), reverse=True):
        block = np.flatnonzero(scores == level)
        taken = min(left, len(block))
        for i in block:
            found[group[i]] += taken / len(block)
        left -= taken
    return found


def naive_figures(counts: np.ndarray, k: int, target: np.ndarray, zero: str | float, pool: np.ndarray) -> dict:
    """Every figure of one count vector."""
    skews, kl, entropy, absent = [], 0.0, 0.0, 0
    for n, q in zip(counts, target, strict=True):
        p = n / k
        if p > 0:
            kl += p * math.log(p / q)
            entropy -= p * math.log(p)
        if q == 0:
            continue
        absent += n == 0
        skews.append(math.log(max(p, min(1 / k, q)) / q) if zero == "count" else math.log((p + zero) / (q + zero)))
    rates = [n / there for n, there in zip(counts, pool, strict=True) if there]
    wanted = target * pool.sum()
    m = pool.sum()
    square = sum((n / k - r / m) ** 2 / (n + r) for n, r in zip(counts, wanted, strict=True) if n + r)
    found = {
        "entropy": entropy / math.log(len(counts)),
        "max_skew": max(skews),
        "min_skew": min(skews),
        "kl": kl,
        "absent": absent,
        "parity_difference": max(rates) - min(rates),
        "mpr": math.sqrt(m * k / (m + k) * square),
    }
    if len(counts) == 2:
        bias = (counts[0] - counts[1]) / (counts[0] + counts[1])
        found |= {"bias": bias, "abs_bias": abs(bias), "amplification": bias - (pool[0] - pool[1]) / pool.sum()}
    return found


def naive_ndkl(scores: np.ndarray, group: np.ndarray, target: np.ndarray, k: int) -> float:
    """Discounted divergence of the expected counts at every position."""
    k = min(k, len(scores))
    total = weight = 0.0
    for i in range(1, k + 1):
        share = shared_counts(scores, group, len(target), i) / i
        divergence = sum(p * math.log(p / q) for p, q in zip(share, target, strict=True) if p > 0)
        total += divergence / math.log2(i + 1)
        weight += 1 / math.log2(i + 1)
    return total / weight


def naive_c_asc(scores: np.ndarray, group: np.ndarray, g: int) -> float:
    """C-ASC of one word and group."""
    inside, outside = scores[group == g], scores[group != g]
    if not len(inside) or not len(outside) or scores.max() == scores.min():
        return math.nan
    return float((inside.mean() - outside.mean()) / scores.std(ddof=1))


def naive_word(
    scores: np.ndarray, group: np.ndarray, groups: int, ks: tuple, target: np.ndarray, zero: str | float,
    pool: np.ndarray | None = None,
) -> dict:  # fmt: skip
    """All figures of one word, by (name, k)."""
    pool = np.bincount(group, minlength=groups) if pool is None else pool
    found: dict = {}
    for k in ks:
        depth = min(k, len(scores))
        own = naive_figures(shared_counts(scores, group, groups, depth), depth, target, zero, pool)
        own["ndkl"] = naive_ndkl(scores, group, target, depth)
        found |= {(name, k): value for name, value in own.items()}
    association = [naive_c_asc(scores, group, g) for g in range(groups)]
    defined = [value for value in association if not math.isnan(value)] or [math.nan]
    found["abs_association", None] = float(np.mean(np.abs(defined)))
    found["max_association", None] = max(defined)
    found["min_association", None] = min(defined)
    return found
