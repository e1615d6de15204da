"""The text figures as their definitions read: loops over words, pictures and captions, in plain NumPy."""

from __future__ import annotations

from itertools import permutations

import numpy as np

Array = np.ndarray


def gap(image: Array, text: Array, image_group: Array, text_group: Array) -> float:
    """Mean score of pairs of one group less that of pairs of two groups that both sides have."""
    both = set(image_group.tolist()) & set(text_group.tolist())
    matched, mismatched = [], []
    for i, g in enumerate(image_group):
        for j, h in enumerate(text_group):
            if g in both and h in both:
                (matched if g == h else mismatched).append(float(image[i] @ text[j]))
    return float(np.mean(matched) - np.mean(mismatched))


def gap_of_draw(image: Array, text: Array, drawn: list[int]) -> float:
    """The gap on a resample of words: each drawn word with each other drawn one that is another word."""
    matched = [float(image[w] @ text[w]) for w in drawn]
    mismatched = [float(image[w] @ text[v]) for w in drawn for v in drawn if w != v]
    return float(np.mean(matched) - np.mean(mismatched))


def hit(scores: Array, relevant: Array, k: int) -> float:
    """Share of the orders of a gallery in which tied items stand at random and an answer is among the first k."""
    if not relevant.any():
        return float("nan")
    count = hits = 0
    for order in permutations(range(len(scores))):
        if all(scores[order[i]] >= scores[order[i + 1]] for i in range(len(order) - 1)):
            count += 1
            hits += bool(relevant[list(order[:k])].any())
    return hits / count


def random_hit(answers: int, items: int, k: int) -> float:
    """The same in a random order, over every order."""
    relevant = np.arange(items) < answers
    return float(np.mean([relevant[list(order[:k])].any() for order in permutations(range(items))]))


def wins(picture: Array, query: Array, caption: Array) -> float:
    asked, told = float(picture @ query), float(picture @ caption)
    return 1.0 if asked > told else 0.5 if asked == told else 0.0


def recognised(picture: Array, prompt: Array, wanted: int) -> float:
    """Chance that a class is drawn from those that score highest."""
    scores = [float(picture @ one) for one in prompt]
    best = [c for c, score in enumerate(scores) if score == max(scores)]
    return (wanted in best) / len(best)
