"""Ranking measures by brute force: every order that ties allow is written out and averaged over."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch


def orders(scores: np.ndarray) -> Iterator[list[int]]:
    """All rankings of the items, best first, in which only tied ones change places."""
    levels = sorted(set(scores.tolist()), reverse=True)
    groups = [[i for i, s in enumerate(scores) if s == level] for level in levels]
    for parts in itertools.product(*(itertools.permutations(g) for g in groups)):
        yield [i for part in parts for i in part]


def expected(scores: np.ndarray, measure: Callable[[list[int]], float]) -> float:
    """A measure of a ranking, averaged over the orders that ties allow."""
    values = [measure(order) for order in orders(scores)]
    return sum(values) / len(values)


def mid_rank(scores: np.ndarray, item: int) -> float:
    return expected(scores, lambda order: order.index(item) + 1)


@dataclass
class Case:
    """A small evaluation with integer embeddings, whose scores are exact and often tied."""

    text: torch.Tensor
    image: torch.Tensor
    query_target: torch.Tensor
    image_target: torch.Tensor
    image_source: torch.Tensor
    query_slot: torch.Tensor

    @property
    def scores(self) -> np.ndarray:
        return self.text.numpy() @ self.image.numpy().T

    def arguments(self) -> tuple[torch.Tensor, ...]:
        return self.text, self.image, self.query_target, self.image_target, self.image_source


def random_case(seed: int, *, label: bool = False, targets: int = 3, captions: int = 3) -> Case:
    """Pairs with missing and several twins, or classes; one to ``captions`` captions; at most nine pictures."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int]] = []
    for target in range(targets):
        real = int(rng.integers(1, 3)) if label else int(rng.integers(0, 6) > 0)
        twins = int(rng.integers(0, 3))
        rows += [(target, 0)] * real + [(target, int(rng.integers(1, 3))) for _ in range(twins)]
    rows += [(targets + 5, 0), (targets + 5, 1)]  # distractors that answer nothing
    rng.shuffle(rows)
    queries = [(t, slot) for t in range(targets) for slot in range(int(rng.integers(1, captions + 1)))]

    def integers(n: int) -> torch.Tensor:
        vectors = rng.integers(-2, 3, size=(n, 3))
        vectors[(vectors == 0).all(axis=1)] = 1
        return torch.tensor(vectors, dtype=torch.float32)

    table = torch.tensor(rows)
    query = torch.tensor(queries)
    while True:
        case = Case(integers(len(queries)), integers(len(rows)), query[:, 0], table[:, 0], table[:, 1], query[:, 1])
        # Every order is written out: more than four tied at once would take minutes.
        if max(max(np.unique(row, return_counts=True)[1]) for row in case.scores) <= 4:
            return case


def dcg(hits: list[bool]) -> float:
    return sum(hit / math.log2(position + 2) for position, hit in enumerate(hits))


def delta(real: float, generated: float) -> float:
    return math.nan if real + generated == 0 else 200 * (real - generated) / (real + generated)


def naive_source(case: Case, ks: list[int], mode: str, pairs: bool, max_rank: int = 100) -> dict[str, float]:
    """Every figure of source_bias, from the definitions."""
    scores, figures = case.scores, {}
    items = range(len(case.image))
    kind = [int(s) > 0 for s in case.image_source]
    relevant = [
        [[i for i in items if case.image_target[i] == t and kind[i] == side] for side in (False, True)]
        for t in case.query_target
    ]
    answered = [q for q, (r, g) in enumerate(relevant) if g and (len(r) == 1 if pairs else r)]

    def averaged(combine: Callable[[list[int]], float]) -> float:
        slots = sorted(set(case.query_slot.tolist())) if mode == "paper" else [None]
        chosen = [[q for q in answered if slot is None or int(case.query_slot[q]) == slot] for slot in slots]
        values = [combine(queries) for queries in chosen if queries]
        values = [value for value in values if not math.isnan(value)]
        return sum(values) / len(values) if values else math.nan

    def over(queries: list[int], table: dict[int, float]) -> float:
        return sum(table[q] for q in queries) / len(queries)

    pool = sum(kind) / len(kind)

    def at(k: int) -> None:
        cut = min(k, len(kind))
        for measure in ("R", "NDCG", "P"):
            sides = []
            for side in (0, 1):
                table = {}
                for q in answered:
                    mine = relevant[q][side]

                    def value(order: list[int], mine: list[int] = mine, measure: str = measure) -> float:
                        hits = [i in mine for i in order[:cut]]
                        if measure == "P":
                            return sum(hits) / cut
                        if measure == "R":
                            return sum(hits) / len(mine)
                        if not pairs:
                            return dcg(hits) / dcg([True] * min(cut, len(mine)))
                        ideal = 1 + 1 / math.log2(3) if mode == "paper" else 1.0
                        return sum(dcg([i == one for i in order[:cut]]) for one in mine) / len(mine) / ideal

                    table[q] = expected(scores[q], value)
                sides.append(table)
            if answered:
                figures[f"{measure}_real@{k}"] = averaged(lambda qs, t=sides[0]: over(qs, t))
                figures[f"{measure}_generated@{k}"] = averaged(lambda qs, t=sides[1]: over(qs, t))
                figures[f"relative_delta_{measure}@{k}"] = averaged(
                    lambda qs, s=sides: delta(over(qs, s[0]), over(qs, s[1]))
                )
        shares = [expected(row, lambda order: sum(kind[i] for i in order[:cut]) / cut) for row in scores]
        share = sum(shares) / len(shares)
        figures[f"source_share@{k}"] = share
        if 0 < pool < 1:
            odds = pool / (1 - pool)
            figures[f"amplification@{k}"] = math.inf if share == 1 else share / (1 - share) / odds
        ndsr = [
            expected(row, lambda order: dcg([1 - 2 * kind[i] for i in order[:cut]]) / dcg([True] * cut))
            for row in scores
        ]
        figures[f"delta_ndsr@{k}"] = sum(ndsr) / len(ndsr)

    for k in ks:
        at(k)
    figures["pool_share"] = pool
    if answered:
        wins, gaps = {}, {}
        for q in answered:
            real, generated = relevant[q]
            wins[q] = np.mean([(scores[q][g] > scores[q][r]) + (scores[q][g] == scores[q][r]) / 2
                               for r in real for g in generated])  # fmt: skip
            if pairs:
                ranks = [(mid_rank(scores[q], real[0]), mid_rank(scores[q], g)) for g in generated]
                gaps[q] = [(r - g, 1 / len(ranks)) for r, g in ranks if r <= max_rank and g <= max_rank]
        figures["pair_win_rate" if pairs else "win_rate"] = averaged(lambda qs: over(qs, wins))
        if pairs:

            def gap(queries: list[int]) -> float:
                kept = [entry for q in queries for entry in gaps[q]]
                return sum(d * w for d, w in kept) / sum(w for _, w in kept) if kept else math.nan

            figures["rank_difference"] = averaged(gap)
    return figures
