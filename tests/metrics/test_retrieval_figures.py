"""Retrieval figures and class accuracy against brute force and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from naive_rankings import dcg, expected, random_case
from sklearn.metrics import average_precision_score, ndcg_score, top_k_accuracy_score

from bias_train.metrics.functional.ranking import FirstRelevant, mid_ranks, score_chunks, top_list
from bias_train.metrics.functional.retrieval import class_accuracy, retrieval
from bias_train.stats import Bootstrap, resample_counts


def naive_direction(scores: np.ndarray, own: list[int], targets: list[int], k: int) -> dict[str, float]:
    columns: dict[str, list[float]] = {"R": [], "NDCG": [], "mAP": [], "median_rank": []}
    cut = min(k, len(targets))
    for row, target in zip(scores, own, strict=True):
        right = [i for i, t in enumerate(targets) if t == target]
        if not right:
            continue

        def precision(order: list[int], right: list[int] = right) -> float:
            hits = [i in right for i in order]
            found = sum(sum(hits[: j + 1]) / (j + 1) for j in range(cut) if hits[j])
            return found / min(cut, len(right))

        best = min(cut, len(right))
        columns["R"].append(expected(row, lambda o, r=right: float(any(i in r for i in o[:cut]))))
        columns["NDCG"].append(
            expected(row, lambda o, r=right, b=best: dcg([i in r for i in o[:cut]]) / dcg([True] * b))
        )
        columns["mAP"].append(expected(row, precision))
        columns["median_rank"].append(expected(row, lambda o, r=right: 1 + min(o.index(i) for i in r)))
    found = {f"{name}@{k}": float(np.mean(columns[name])) for name in ("R", "NDCG", "mAP")}
    return found | {"median_rank": float(np.median(columns["median_rank"]))}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("label", [False, True])
def test_both_directions_against_brute_force(seed: int, label: bool) -> None:
    case = random_case(seed, label=label)
    text, image, query_target, image_target, _ = case.arguments()
    found = {f.key: f.value for f in retrieval(text, image, query_target, image_target, ks=(1, 2, 4, 40))}
    for k in (1, 2, 4, 40):
        there = naive_direction(case.scores, query_target.tolist(), image_target.tolist(), k)
        back = naive_direction(case.scores.T, image_target.tolist(), query_target.tolist(), k)
        for prefix, reference in (("t2i", there), ("i2t", back)):
            for key, value in reference.items():
                assert found[f"{prefix}_{key}"] == pytest.approx(value, abs=1e-9), (prefix, key)


def test_textbook_measures_against_sklearn() -> None:
    generator = torch.Generator().manual_seed(0)
    text, image = torch.randn(40, 16, generator=generator), torch.randn(70, 16, generator=generator)
    query_target = torch.arange(40) % 20
    image_target = torch.randint(0, 20, (70,), generator=generator)
    image_target[:20] = torch.arange(20)
    found = {f.key: f.value for f in retrieval(text, image, query_target, image_target, ks=(5, 70))}
    scores = (text @ image.T).numpy()
    right = (query_target[:, None] == image_target).numpy()
    assert found["t2i_NDCG@5"] == pytest.approx(ndcg_score(right, scores, k=5))
    assert found["i2t_NDCG@5"] == pytest.approx(ndcg_score(right.T, scores.T, k=5))
    precision = np.mean([average_precision_score(r, s) for r, s in zip(right, scores, strict=True)])
    assert found["t2i_mAP@70"] == pytest.approx(precision)


def test_sklearn_shares_ties_of_a_cumulated_gain_alike() -> None:
    case = random_case(2)
    text, image, query_target, image_target, _ = case.arguments()
    right = (query_target[:, None] == image_target).numpy()
    kept = right.any(axis=1)
    found = {f.key: f.value for f in retrieval(text, image, query_target, image_target, ks=(3,))}
    assert found["t2i_NDCG@3"] == pytest.approx(ndcg_score(right[kept], case.scores[kept], k=3))


def test_intervals_equal_queries_written_out() -> None:
    generator = torch.Generator().manual_seed(1)
    scene = torch.randn(15, 8, generator=generator)
    target = torch.arange(15).repeat_interleave(2)
    text = scene[target] + torch.randn(30, 8, generator=generator)
    image = scene + torch.randn(15, 8, generator=generator)
    bootstrap = Bootstrap(resamples=60, level=0.8, seed=2)
    found = retrieval(text, image, target, torch.arange(15), ks=(1, 3), bootstrap=bootstrap)
    draws: dict[str, list[float]] = {}
    for drawn in np.concatenate(list(resample_counts(15, bootstrap))):
        times = torch.from_numpy(drawn)[target]
        again = retrieval(
            text.repeat_interleave(times, dim=0), image, target.repeat_interleave(times), torch.arange(15), ks=(1, 3)
        )
        for figure in again:
            draws.setdefault(figure.key, []).append(figure.value)
    for figure in found:
        if figure.name.startswith("t2i"):
            low, high = np.quantile(draws[figure.key], (0.1, 0.9), method="inverted_cdf")
            assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-9), figure


def test_queries_without_an_answer_are_left_out() -> None:
    found = {f.key: f for f in retrieval(torch.eye(3), torch.eye(3), torch.arange(3), torch.tensor([0, 1, 9]), ks=(1,))}
    assert (found["t2i_R@1"].value, found["t2i_R@1"].count) == (1.0, 2)
    assert "1 queries without an answer" in found["t2i_R@1"].note
    none = retrieval(torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3) + 5, bootstrap=Bootstrap(10))
    assert all(math.isnan(f.value) and f.count == 0 for f in none)


def test_first_relevant_probability_of_a_hit() -> None:
    """Two of five tied items are relevant, below one better item: 1 - C(3, m)/C(5, m) with m places left."""
    place = FirstRelevant(*(torch.tensor([float(v)], dtype=torch.float64) for v in (1, 5, 2)))
    expected_hits = [0.0, 1 - 3 / 5, 1 - 3 / 10, 1 - 1 / 10, 1.0, 1.0]
    assert [float(place.hit(k)) for k in range(1, 7)] == pytest.approx(expected_hits)
    assert float(place.rank()) == 1 + 6 / 3


def test_top_list_beyond_its_end() -> None:
    """A tie that goes on beyond the list is represented by all of its members."""
    scores = torch.tensor([[3.0, 1.0, 1.0, 1.0, 1.0, 0.0]])
    kind = torch.tensor([0, 1, 0, 0, 0, 0])
    top = top_list(scores, torch.tensor([[False, True, False, False, False, True]]), kind, 2, 2)
    assert top.kind[0].tolist() == [[1.0, 0.0], [0.75, 0.25]]
    assert top.relevant[0].tolist() == [[0.0, 0.0], [0.0, 0.25]]
    assert top.equal[0].tolist() == [1.0, 4.0]
    assert mid_ranks(scores, torch.tensor([[0, 1, -1]]))[0, :2].tolist() == [1.0, 3.5]


def test_chunks_hold_no_full_matrix() -> None:
    sizes = [scores.shape for _, scores in score_chunks(torch.eye(5), torch.eye(5)[:3], chunk_size=2)]
    assert sizes == [(2, 3), (2, 3), (1, 3)]


@pytest.mark.parametrize("bootstrap", [None, Bootstrap(50)])
def test_class_accuracy_against_sklearn(bootstrap: Bootstrap | None) -> None:
    generator = torch.Generator().manual_seed(3)
    prompts = torch.nn.functional.normalize(torch.randn(6, 10, generator=generator), dim=1)
    target = torch.arange(300) % 6
    image = torch.nn.functional.normalize(prompts[target] + 0.7 * torch.randn(300, 10, generator=generator), dim=1)
    source = (torch.arange(300) // 6) % 2
    names = [f"class {i}" for i in range(6)]
    found = class_accuracy(prompts, image, torch.arange(6), target, source, target_names=names, bootstrap=bootstrap)
    scores = (image @ prompts.T).numpy()
    masks = {"": source >= 0, "_real": source == 0, "_generated": source == 1}
    for figure in found:
        mask = masks[figure.name.removeprefix("class_accuracy")]
        if figure.label is not None:
            mask = mask & (target == names.index(figure.label))
        reference = top_k_accuracy_score(target[mask], scores[mask], k=1, labels=range(6))
        assert figure.value == pytest.approx(reference)
        assert figure.count == int(mask.sum())
        assert bootstrap is None or figure.low <= figure.value <= figure.high


def test_class_accuracy_shares_ties_and_averages_prompts() -> None:
    # Class 0 has two prompts whose mean points at the first picture; class 1 and 2 tie for the second picture.
    text = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, 1.0], [0.0, 1.0]])
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = class_accuracy(
        text, image, torch.tensor([0, 0, 1, 2]), torch.tensor([0, 2, 7]), torch.zeros(3, dtype=torch.int64)
    )
    assert found[0].value == pytest.approx((1.0 + 0.5) / 2)
    assert "1 pictures of classes without a prompt left out" in found[0].note
    assert math.isnan(found[2].value)


def test_zero_embedding_names_its_row() -> None:
    image = torch.eye(3)
    image[2] = 0
    with pytest.raises(ValueError, match="image row 2 is all zeros"):
        retrieval(torch.eye(3), image, torch.arange(3), torch.arange(3))
