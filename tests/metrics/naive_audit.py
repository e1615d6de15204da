"""Figures of an audit by brute force, from the definitions: single corpora, interleaved lists, relabelled pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
from naive_rankings import Case, delta, expected, mid_rank


def of_gallery(case: Case, rows: np.ndarray, queries: np.ndarray) -> Case:
    """The case with some pictures and queries only."""
    return Case(
        case.text[queries],
        case.image[rows],
        case.query_target[queries],
        case.image_target[rows],
        case.image_source[rows],
        case.query_slot[queries],
    )


def own(case: Case, q: int) -> tuple[list[int], list[int]]:
    """The query's photos and twins."""
    mine = [i for i in range(len(case.image)) if case.image_target[i] == case.query_target[q]]
    return [i for i in mine if case.image_source[i] == 0], [i for i in mine if case.image_source[i] > 0]


def answered(case: Case) -> list[int]:
    return [q for q in range(len(case.text)) if len(own(case, q)[0]) == 1 and own(case, q)[1]]


def slots_of(case: Case, mode: str) -> list[list[int]]:
    if mode == "clean":
        return [queries] if (queries := answered(case)) else []
    found = [[q for q in answered(case) if case.query_slot[q] == s] for s in sorted(set(case.query_slot.tolist()))]
    return [queries for queries in found if queries]


def measure(name: str, rank: int, k: int) -> float:
    if rank > k:
        return 0.0
    return 1.0 if name == "R" else 1 / math.log2(rank + 1)


def naive_location(case: Case, ks: list[int], mode: str) -> dict[str, float]:
    """Every figure of location_specs: each source is ranked alone, and the two lists are interleaved by hand."""
    scores = case.scores
    codes = case.image_source.numpy()
    corpus = [np.flatnonzero(codes == 0), np.flatnonzero(codes > 0)]
    ideal = 1 + 1 / math.log2(3) if mode == "paper" else 1.0

    def alone(q: int, side: int, value) -> float:
        """Mean over the query's pictures of that source of a function of the rank in its own corpus."""
        items = own(case, q)[side]
        row = scores[q][corpus[side]]
        return sum(
            expected(row, lambda order, i=i: value(order.index(corpus[side].tolist().index(i)) + 1)) for i in items
        ) / len(items)

    def interleaved(q: int, side: int, name: str, k: int) -> float:
        """Two arrangements: this source at the odd ranks, and at the even ones."""
        return alone(q, side, lambda r: (measure(name, 2 * r - 1, k) + measure(name, 2 * r, k)) / 2)

    def mixed(q: int, side: int, name: str, k: int) -> float:
        items = own(case, q)[side]
        return sum(expected(scores[q], lambda o, i=i: measure(name, o.index(i) + 1, k)) for i in items) / len(items)

    def mean_mid_rank(q: int, side: int, within: bool) -> float:
        items = own(case, q)[side]
        if within:
            return alone(q, side, float)
        return sum(mid_rank(scores[q], i) for i in items) / len(items)

    groups = slots_of(case, mode)
    if not groups:
        return {}

    def over_slots(figure) -> float:
        values = [v for v in map(figure, groups) if not math.isnan(v)]
        return sum(values) / len(values) if values else math.nan

    def mean(queries: list[int], value) -> float:
        return sum(value(q) for q in queries) / len(queries)

    figures = {}
    for name in ("R", "NDCG"):
        scale = ideal if name == "NDCG" else 1.0
        for k in ks:
            for side, source in enumerate(("real", "generated")):
                figures[f"alone_{name}_{source}@{k}"] = over_slots(
                    lambda qs, s=side, n=name, k=k, c=scale: mean(
                        qs, lambda q: alone(q, s, lambda r: measure(n, r, k)) / c
                    )
                )

            def location(qs: list[int], n: str = name, k: int = k) -> float:
                return delta(*(mean(qs, lambda q, s=s: interleaved(q, s, n, k)) for s in (0, 1)))

            def both(qs: list[int], n: str = name, k: int = k) -> float:
                return delta(*(mean(qs, lambda q, s=s: mixed(q, s, n, k)) for s in (0, 1)))

            figures[f"location_delta_{name}@{k}"] = over_slots(location)
            figures[f"normalised_delta_{name}@{k}"] = over_slots(lambda qs, a=both, b=location: a(qs) - b(qs))
    for k in ks:
        figures[f"parity_R@{k}"] = figures[f"alone_R_real@{k}"] - figures[f"alone_R_generated@{k}"]

    def by_rank(qs: list[int], centre, place: bool) -> float:
        ranks = [centre([mean_mid_rank(q, side, place) for q in qs]) for side in (0, 1)]
        if place:
            return delta(*((1 / (2 * r - 1) + 1 / (2 * r)) / 2 for r in ranks))
        return delta(*(1 / r for r in ranks))

    for label, centre in (("mean", np.mean), ("median", np.median)):
        if label == "median" and mode == "paper":
            continue
        figures[f"relative_delta_inverse_{label}_rank"] = over_slots(lambda qs, c=centre: by_rank(qs, c, False))
        figures[f"location_delta_inverse_{label}_rank"] = over_slots(lambda qs, c=centre: by_rank(qs, c, True))
        figures[f"normalised_delta_inverse_{label}_rank"] = over_slots(
            lambda qs, c=centre: by_rank(qs, c, False) - by_rank(qs, c, True)
        )
    return figures


def naive_both(case: Case, ks: list[int], mode: str) -> dict[str, float]:
    """Both pictures in the top k, and NDCG with two right answers; a random twin stands for several."""
    scores = case.scores

    def at(q: int, k: int, value) -> float:
        (photo,), twins = own(case, q)
        return float(
            np.mean([expected(scores[q], lambda o, t=t: value(o.index(photo) + 1, o.index(t) + 1, k)) for t in twins])
        )

    def together(first: int, second: int, k: int) -> float:
        return float(max(first, second) <= k)

    def gain(first: int, second: int, k: int) -> float:
        best = sum(1 / math.log2(position + 1) for position in (1, 2))
        return (measure("NDCG", first, k) + measure("NDCG", second, k)) / best

    groups = slots_of(case, mode)
    return {
        f"{name}@{k}": float(np.mean([np.mean([at(q, k, value) for q in queries]) for queries in groups]))
        for name, value in (("R_both", together), ("NDCG_both", gain))
        for k in ks
        if k >= 2 and groups
    }


def naive_swap(case: Case, ks: list[int]) -> dict[str, float]:
    """Exact two-sided p-values: every way to call one picture of each pair real."""
    scores = case.scores
    queries = answered(case)
    targets = sorted({int(case.query_target[q]) for q in queries})
    asked = {t: [q for q in queries if case.query_target[q] == t] for t in targets}
    pictures = {t: [*own(case, asked[t][0])[0], *own(case, asked[t][0])[1]] for t in targets}

    def value(q: int, name: str, k: int, real: int, others: list[int]) -> float:
        at = {i: expected(scores[q], lambda o, i=i: measure(name, o.index(i) + 1, k)) for i in (real, *others)}
        return at[real] - sum(at[i] for i in others) / len(others)

    def win(q: int, real: int, others: list[int]) -> float:
        return float(np.mean([(scores[q][i] > scores[q][real]) + (scores[q][i] == scores[q][real]) / 2 - 0.5
                              for i in others]))  # fmt: skip

    found = {}
    for key, statistic in (
        *((f"relative_delta_{n}@{k}", lambda q, r, o, n=n, k=k: value(q, n, k, r, o)) for n in ("R", "NDCG")
          for k in ks),
        ("pair_win_rate", win),
    ):  # fmt: skip
        table = {
            (t, r): sum(statistic(q, r, [i for i in pictures[t] if i != r]) for q in asked[t])
            for t in targets
            for r in pictures[t]
        }
        sums = [
            abs(sum(table[t, r] for t, r in zip(targets, choice, strict=True)))
            for choice in itertools.product(*(pictures[t] for t in targets))
        ]
        found[key] = float(np.mean(np.array(sums) >= sums[0] - 1e-9))
    return found
