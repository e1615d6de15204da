"""The object figures against loops over every order of the gallery, against simulation, and against what must hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from naive_objects import average_precision, expected, right

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.object.decorrelation import ObjectBias, object_decorrelation
from bias_train.metrics.functional.object.floors import random_average_precision
from bias_train.metrics.functional.object.query_means import QueryMeans
from bias_train.metrics.functional.object.relevance import VARIANTS, strictness
from bias_train.stats import Bootstrap


@dataclass
class Case:
    """Queries and a gallery; vectors of small whole numbers, so that many scores tie."""

    removed: torch.Tensor
    original: torch.Tensor
    control: torch.Tensor
    has_control: torch.Tensor
    gallery: torch.Tensor
    category: torch.Tensor
    present: torch.Tensor
    gallery_present: torch.Tensor
    cluster: torch.Tensor

    def measure(self, **options: Any) -> ObjectBias:
        given: dict[str, Any] = {"control": self.control, "has_control": self.has_control, "cluster": self.cluster}
        return object_decorrelation(
            self.removed, self.original, self.gallery, self.category, self.present, self.gallery_present,
            **(given | {"minimum": 1} | options),
        )  # fmt: skip


def case(queries: int = 12, items: int = 6, categories: int = 4, width: int = 3, seed: int = 0, top: int = 2) -> Case:
    rng = np.random.default_rng(seed)

    def vectors(rows: int) -> torch.Tensor:
        made = rng.integers(-top, top + 1, size=(rows, width)).astype(np.float32)
        made[(made == 0).all(axis=1), 0] = 1.0
        return torch.from_numpy(made)

    category = rng.integers(categories, size=queries)
    present = rng.random((queries, categories)) < 0.5
    present[np.arange(queries), category] = True
    return Case(
        vectors(queries), vectors(queries), vectors(queries), torch.from_numpy(rng.random(queries) < 0.7),
        vectors(items), torch.from_numpy(category), torch.from_numpy(present),
        torch.from_numpy(rng.random((items, categories)) < 0.4), torch.from_numpy(rng.integers(5, size=queries)),
    )  # fmt: skip


def found(figures: list[Figure]) -> dict[str, float]:
    return {figure.key: figure.value for figure in figures if figure.label is None}


@pytest.mark.parametrize("seed", range(4))
def test_every_query_agrees_with_brute_force(seed: int) -> None:
    one = case(queries=10, items=5, seed=seed)
    bias = one.measure(ks=(1, 2, 4, 50))
    forms = {"removed": one.removed, "original": one.original, "control": one.control}
    tied = empty = 0
    for q in range(len(one.removed)):
        a, query = int(one.category[q]), one.present[q].tolist()
        items = one.gallery_present.tolist()
        for k in (1, 2, 4, 50):
            having: dict[str, float] = {}
            averages: dict[tuple[str, str], float] = {}
            for form, vectors in forms.items():
                scores = (vectors[q] @ one.gallery.T).numpy()
                tied += len(set(scores.tolist())) < len(scores)
                having[form] = expected(scores, [item[a] for item in items], k)[1]
                for variant in VARIANTS:
                    flags = [right(item, query, a, variant) for item in items]
                    averages[form, variant] = expected(scores, flags, k)[0]
                    empty += not any(flags)
            controlled = bool(one.has_control[q])
            for variant in VARIANTS:
                value, control = averages["removed", variant], averages["control", variant]
                wanted = {
                    f"ODmAP_{variant}": value,
                    f"ODmAP_{variant}_original": averages["original", variant],
                    f"ODmAP_{variant}_control": control if controlled else math.nan,
                    f"ODmAP_{variant}_net": value - control if controlled else math.nan,
                }
                for name, number in wanted.items():
                    assert bias.column(name, k)[q] == pytest.approx(number, abs=1e-9, nan_ok=True), (name, k, q)
            assert bias.column("H_removed", k)[q] == pytest.approx(having["removed"])
            assert bias.column("H_original", k)[q] == pytest.approx(having["original"])
            assert bias.column("DG", k)[q] == pytest.approx(having["original"] - having["removed"])
            net = having["control"] - having["removed"] if controlled else math.nan
            assert bias.column("DG_net", k)[q] == pytest.approx(net, nan_ok=True)
    assert tied, "the case has no ties to try"
    if seed == 0:
        assert empty, "the case has no query without a relevant item"


def test_rules_are_nested_and_as_written() -> None:
    one = case(queries=60, items=40, categories=6)
    level = strictness(one.category, one.present, one.gallery_present)
    for q in range(60):
        for item in range(40):
            facts = (one.gallery_present[item].tolist(), one.present[q].tolist(), int(one.category[q]))
            assert int(level[q, item]) == sum(right(*facts, variant) for variant in VARIANTS)


@pytest.mark.parametrize(
    ("relevant", "items", "k"), [(0, 5, 2), (1, 5, 3), (2, 6, 4), (5, 6, 2), (6, 6, 6), (3, 4, 50)]
)
def test_floor_is_the_mean_over_all_orders(relevant: int, items: int, k: int) -> None:
    flags = [True] * relevant + [False] * (items - relevant)
    value = float(random_average_precision(np.array(relevant), items, k))
    assert value == pytest.approx(expected(np.zeros(items), flags, min(k, items))[0], nan_ok=True)


@pytest.mark.parametrize("share", [0.984, 0.638, 0.05])
@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_floor_of_a_large_gallery(share: float, k: int) -> None:
    """The form for R_q >= k: pi^2 + pi (1 - pi) h_k / k."""
    items = 1_000_000
    harmonic = sum(1.0 / r for r in range(1, k + 1))
    wanted = share**2 + share * (1 - share) * harmonic / k
    assert float(random_average_precision(np.array(round(share * items)), items, k)) == pytest.approx(wanted, abs=1e-4)


def test_floor_by_simulation_where_few_are_relevant() -> None:
    rng = np.random.default_rng(0)
    flags = np.arange(200) < 3
    drawn = [average_precision(list(flags[rng.permutation(200)]), 10) for _ in range(20_000)]
    value = float(random_average_precision(np.array(3), 200, 10))
    assert np.mean(drawn) == pytest.approx(value, abs=4 * np.std(drawn) / math.sqrt(len(drawn)))


def test_a_random_retriever_scores_the_floor() -> None:
    rng = np.random.default_rng(1)
    one = case(queries=400, items=60, categories=5, width=8)
    excess, gap = [], []

    def noise(rows: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=(rows, 24)))

    for _ in range(12):
        random = replace(one, removed=noise(400), original=noise(400), control=noise(400), gallery=noise(60))
        values = found(random.measure(ks=(1, 10)).figures())
        excess.append([values[f"ODmAP_{variant}_excess_micro@{k}"] for variant in VARIANTS for k in (1, 10)])
        gap.append([values["DG@10"], values["DG_net@10"]])
    for table in (np.array(excess), np.array(gap)):
        assert np.all(np.abs(table.mean(axis=0)) < 4 * table.std(axis=0, ddof=1) / math.sqrt(len(table)) + 1e-3)
    assert np.abs(np.array(excess)).max() < 0.1


def test_constant_scores_equal_the_floor() -> None:
    one = case(queries=30, items=25, categories=5)
    flat = torch.ones(30, 3)
    same = replace(one, removed=flat, original=flat, control=flat, gallery=torch.ones(25, 3))
    bias = same.measure(ks=(1, 4, 100))
    for k in (1, 4, 100):
        for variant in VARIANTS:
            excess = bias.column(f"ODmAP_{variant}_excess", k)
            assert np.isfinite(excess).any()
            np.testing.assert_allclose(excess[np.isfinite(excess)], 0.0, atol=1e-12)
        np.testing.assert_allclose(bias.column("DG", k), 0.0, atol=1e-12)
        np.testing.assert_allclose(bias.column("H_removed", k), bias.column("H_floor", k))


def test_chunks_and_the_order_of_the_gallery_do_not_matter() -> None:
    one = case(queries=50, items=40, categories=6, width=4, top=3)
    whole = one.measure(ks=(1, 7))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    turned = replace(one, gallery=one.gallery[order], gallery_present=one.gallery_present[order])
    for other in (one.measure(ks=(1, 7), chunk_size=3), turned.measure(ks=(1, 7))):
        np.testing.assert_allclose(other.values, whole.values, atol=1e-12)


def test_means_over_categories_and_over_queries() -> None:
    one = case(queries=90, items=30, categories=5, width=4)
    counts = np.bincount(one.category.numpy(), minlength=5)
    minimum = int(sorted(counts.tolist())[2])
    bias = one.measure(ks=(5,), minimum=minimum, categories=list("abcde"), pairs=((0, 1), (2, 3)))
    figures = bias.figures()
    values, labelled = found(figures), {(f.key, f.label): f for f in figures if f.label is not None}
    own = bias.column("ODmAP_V2", 5)
    means = [np.nanmean(own[bias.category == c]) for c in range(5)]
    kept = [mean for mean, count in zip(means, counts.tolist(), strict=True) if count >= minimum]
    assert len(kept) == 3
    assert values["ODmAP_V2@5"] == pytest.approx(np.mean(kept))
    assert values["ODmAP_V2_micro@5"] == pytest.approx(np.nanmean(own))
    assert [labelled["ODmAP_V2@5", name].value for name in "abcde"] == pytest.approx(means)
    macro = next(f for f in figures if f.key == "ODmAP_V2@5" and f.label is None)
    assert macro.count == int((~np.isnan(own)).sum())
    assert bias.few == {name: count for name, count in zip("abcde", counts.tolist(), strict=True) if count < minimum}
    assert all(f"{name} ({count})" in macro.note for name, count in bias.few.items())
    present = one.present.numpy()
    first = (bias.category == 0) & present[:, 1]
    second = (bias.category == 2) & present[:, 3]
    gap = bias.column("DG", 5)
    assert labelled["DG@5", "a | b"].value == pytest.approx(gap[first].mean())
    assert values["DG_pairs@5"] == pytest.approx(gap[first | second].mean())


def test_queries_without_a_relevant_item_are_dropped_and_counted() -> None:
    present = torch.tensor([[True, True], [True, False]])
    gallery = torch.tensor([[True, False], [False, True], [False, False]])
    bias = object_decorrelation(
        torch.eye(2, 3), torch.eye(2, 3), torch.eye(3), torch.tensor([0, 0]), present, gallery, ks=(1, 10), minimum=1
    )
    assert np.isnan(bias.column("ODmAP_V2", 1)).tolist() == [False, True]
    figures = {figure.key: figure for figure in bias.figures() if figure.label is None}
    assert figures["ODmAP_V2_micro@1"].count == 1
    assert "1 queries without a relevant item left out" in figures["ODmAP_V2@1"].note
    assert "left out" not in figures["ODmAP_V1@1"].note
    assert "k above 3 capped at the 3 items" in figures["ODmAP_V1@10"].note
    assert "ODmAP-style (bias-train definition)" in figures["ODmAP_V1@10"].note


def test_no_category_has_enough_queries() -> None:
    values = found(case().measure(ks=(5,), minimum=100).figures())
    assert math.isnan(values["DG@5"])
    assert math.isfinite(values["DG_micro@5"])


def test_intervals_are_of_resampled_pictures() -> None:
    """Against a bootstrap by loops over the resamples of the clusters."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, 2))
    values[rng.random((40, 2)) < 0.2] = np.nan
    category, cluster = rng.integers(3, size=40), rng.integers(12, size=40) * 7
    bootstrap = Bootstrap(300, seed=4)
    figures = QueryMeans(values, category, cluster, bootstrap).figures(
        names=[("x", None), ("y", 3)], categories="abc", slices={"s": category > 0}, minimum=1, notes={"x": "", "y": ""}
    )
    ids = np.unique(cluster)
    drawn = np.random.default_rng(4).random((300, len(ids)))
    draws: dict[str, list[float]] = {"x": [], "x_micro": [], "x_pairs": [], "x/b": []}
    for row in drawn:
        chosen = np.concatenate([np.flatnonzero(cluster == ids[int(u * len(ids))]) for u in row])
        x, c = values[chosen, 0], category[chosen]
        draws["x"].append(float(np.nanmean([np.nanmean(x[c == k]) for k in range(3) if (~np.isnan(x[c == k])).any()])))
        draws["x_micro"].append(float(np.nanmean(x)))
        draws["x_pairs"].append(float(np.nanmean(x[c > 0])))
        draws["x/b"].append(float(np.nanmean(x[c == 1])))
    named = {f.name if f.label is None else f"{f.name}/{f.label}": f for f in figures}
    for name, values_drawn in draws.items():
        ends = np.quantile(values_drawn, (0.025, 0.975), method="inverted_cdf")
        assert (named[name].low, named[name].high) == pytest.approx(tuple(ends)), name


def test_a_change_is_paired() -> None:
    one = case(queries=60, items=30, width=4)
    other = replace(one, removed=one.original)
    bootstrap = Bootstrap(200)
    after, before = one.measure(ks=(5,), bootstrap=bootstrap), other.measure(ks=(5,), bootstrap=bootstrap)
    change = {f.key: f for f in after.minus(before).figures() if f.label is None}
    assert change["H_original@5"].value == change["H_original@5"].low == change["H_original@5"].high == 0.0
    assert change["DG_micro@5"].value == pytest.approx(
        found(after.figures())["DG_micro@5"] - found(before.figures())["DG_micro@5"]
    )
    with pytest.raises(ValueError, match="other queries or figures"):
        after.minus(case(queries=60, items=30, width=4, seed=1).measure(ks=(5,)))


def test_without_control_nothing_is_said_of_it() -> None:
    one = case()
    for options in ({"control": None}, {"has_control": torch.zeros(12, dtype=torch.bool)}):
        names = {name for name, _ in one.measure(ks=(1,), **options).names}
        assert not any("control" in name or "net" in name for name in names)
        assert "DG" in names


def broken(**change: Any) -> Callable[[Case], Case]:
    return lambda one: replace(one, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken(removed=torch.zeros(12, 3)), "removed row 0 is all zeros"),
        (broken(original=torch.ones(11, 3)), "removed has 12 rows and original 11"),
        (broken(gallery=torch.ones(6, 2)), "gallery is 2 wide"),
        (broken(category=torch.zeros(12)), "category must hold integers"),
        (broken(category=torch.full((12,), 9)), "none of 0 to 3"),
        (broken(present=torch.zeros(12, 4, dtype=torch.bool)), "query 0 does not have the object"),
        (broken(present=torch.ones(12, 3, dtype=torch.bool)), "present knows 3 categories"),
        (broken(gallery_present=torch.ones(6, 4)), "gallery_present is .* torch.float32"),
        (broken(control=torch.full((12, 3), torch.nan)), "control row 0 is not finite"),
        (broken(control=torch.ones(3, 3)), "control must have a row for each of the 12"),
    ],
)
def test_bad_input_is_told(change: Callable[[Case], Case], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(case()).measure()


def test_a_cutoff_below_one() -> None:
    with pytest.raises(ValueError, match="a cut-off must be at least 1"):
        case().measure(ks=(0,))


def test_an_unknown_figure() -> None:
    with pytest.raises(ValueError, match="there is no figure ODmAP_V4@1"):
        case().measure(ks=(1,)).column("ODmAP_V4", 1)
