"""The object metrics by loops over items and over every order of tied ones: slow, short, and independent of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np


def right(item: Sequence[bool], query: Sequence[bool], category: int, variant: str) -> bool:
    """Whether an item answers a query without its object."""
    if item[category]:
        return False
    others = {c for c, there in enumerate(query) if there and c != category}
    held = {c for c, there in enumerate(item) if there}
    if variant == "V1":
        return True
    if not held & others:
        return False
    return variant == "V2" or held <= others


def orders(scores: np.ndarray) -> Iterator[list[int]]:
    """Every order of the items that their scores allow."""
    for tie_break in permutations(range(len(scores))):
        yield sorted(range(len(scores)), key=lambda item: (-scores[item], tie_break[item]))


def average_precision(flags: Sequence[bool], k: int) -> float:
    """AP@k of one ranking, NaN where nothing is relevant."""
    relevant = sum(flags)
    if not relevant:
        return float("nan")
    found, total = 0, 0.0
    for place, flag in enumerate(flags[:k], start=1):
        if flag:
            found += 1
            total += found / place
    return total / min(k, relevant)


def expected(scores: np.ndarray, flags: Sequence[bool], k: int) -> tuple[float, float]:
    """AP@k, and the share of the first k that are flagged, as means over all orders of tied items."""
    precision, share = [], []
    for order in orders(scores):
        ranked = [flags[item] for item in order]
        precision.append(average_precision(ranked, k))
        share.append(float(np.mean(ranked[:k])))
    return float(np.mean(precision)), float(np.mean(share))
