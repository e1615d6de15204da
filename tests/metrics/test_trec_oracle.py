"""The textbook parts against trec_eval, through ir-measures: no code of ours on that side."""

from __future__ import annotations

from collections.abc import Iterable

import ir_measures
import pytest
import torch
from ir_measures import AP, Success, nDCG

from bias_train.metrics.functional.retrieval import retrieval
from bias_train.metrics.functional.source import source_bias

KS = (1, 3, 5, 10)


def trec(
    scores: torch.Tensor,
    query_target: torch.Tensor,
    item_target: torch.Tensor,
    counts: torch.Tensor,
    measures: Iterable[object],
) -> dict[str, float]:
    """Aggregate over the queries of ``scores`` [Q, M]; only items that ``counts`` [M] marks are relevant."""
    relevant = (query_target[:, None] == item_target) & counts
    asked = [row for row in range(len(scores)) if relevant[row].any()]
    run = {str(q): {str(m): float(score) for m, score in enumerate(scores[q])} for q in asked}
    judged = {str(q): {str(m): 1 for m in relevant[q].nonzero().flatten().tolist()} for q in asked}
    return {str(name): value for name, value in ir_measures.calc_aggregate(measures, judged, run).items()}


@pytest.mark.parametrize("seed", range(4))
def test_retrieval_is_that_of_trec_eval(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    text, image = torch.randn(60, 8, generator=generator), torch.randn(45, 8, generator=generator)
    query_target = torch.randint(0, 25, (60,), generator=generator)
    image_target = torch.randint(0, 25, (45,), generator=generator)
    found = {f.key: f.value for f in retrieval(text, image, query_target, image_target, ks=(*KS, 60))}
    scores = text.double() @ image.double().T
    sides = {"t2i": (scores, query_target, image_target), "i2t": (scores.T, image_target, query_target)}
    measures = [*(Success @ k for k in KS), *(nDCG @ k for k in KS), AP]
    for side, (matrix, own, other) in sides.items():
        expected = trec(matrix, own, other, torch.ones(len(other), dtype=torch.bool), measures)
        for k in KS:
            assert found[f"{side}_R@{k}"] == pytest.approx(expected[f"Success@{k}"], abs=1e-9)
            assert found[f"{side}_NDCG@{k}"] == pytest.approx(expected[f"nDCG@{k}"], abs=1e-9)
        assert found[f"{side}_mAP@60"] == pytest.approx(expected["AP"], abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_each_sources_recall_in_a_mixed_gallery_is_that_of_trec_eval(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scenes = 30
    text = torch.randn(3 * scenes, 8, generator=generator)
    image = torch.randn(2 * scenes, 8, generator=generator)
    query_target = torch.arange(3 * scenes) % scenes
    image_target = torch.arange(2 * scenes) % scenes
    source = torch.arange(2 * scenes) // scenes
    found = {f.key: f.value for f in source_bias(text, image, query_target, image_target, source, ks=KS)}
    scores = text.double() @ image.double().T
    measures = [*(Success @ k for k in KS), *(nDCG @ k for k in KS)]
    for name, code in (("real", 0), ("generated", 1)):
        expected = trec(scores, query_target, image_target, source == code, measures)
        for k in KS:
            assert found[f"R_{name}@{k}"] == pytest.approx(expected[f"Success@{k}"], abs=1e-9)
            assert found[f"NDCG_{name}@{k}"] == pytest.approx(expected[f"nDCG@{k}"], abs=1e-9)
