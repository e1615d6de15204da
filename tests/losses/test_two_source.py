"""The two cross-entropies against plain loops, InfoNCE, and what must not compete."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_features import random_features

from losses import REAL, Features, InfoNCE, LossError, TwoSourceContrastive
from losses.two_source import DIRECTIONS, OTHER_ROWS


def naive(features: Features, directions: str, duplicates: str) -> dict[str, float]:
    assert features.twin is not None
    assert features.has_twin is not None
    scale, rows = float(features.logit_scale), len(features.image)
    text = features.text.numpy()
    pictures: list[dict[str, Any]] = []
    for i in range(rows):
        own = "real" if features.source[i] == REAL else "generated"
        pictures.append({own: features.image[i].numpy()})
        if features.has_twin[i]:
            pictures[i]["generated" if own == "real" else "real"] = features.twin[i].numpy()

    def same(i: int, j: int) -> bool:
        return bool(features.group[i] == features.group[j] or features.caption_id[i] == features.caption_id[j])

    def others(i: int) -> list[int]:
        return [j for j in range(rows) if j != i and not (duplicates == "mask" and same(i, j))]

    result = {}
    for source in ("real", "generated"):
        entropies = []
        for i in range(rows):
            if source not in pictures[i]:
                continue
            positive = math.exp(scale * float(np.dot(text[i], pictures[i][source])))
            pool = sum(math.exp(scale * float(np.dot(text[i], p))) for j in others(i) for p in pictures[j].values())
            entropy = -math.log(positive / (positive + pool))
            if directions == "both":
                pool = sum(math.exp(scale * float(np.dot(text[j], pictures[i][source]))) for j in others(i))
                entropy = (entropy - math.log(positive / (positive + pool))) / 2
            entropies.append(entropy)
        result[f"contrastive_{source}"] = float(np.mean(entropies)) if entropies else 0.0
    return result


@pytest.mark.parametrize("duplicates", OTHER_ROWS)
@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_against_loops(directions: Any, duplicates: Any, seed: int) -> None:
    features = random_features(seed=seed)
    terms = TwoSourceContrastive(directions, duplicates)(features)
    expected = naive(features, directions, duplicates)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected)


@pytest.mark.parametrize("source", [0, 2])
@pytest.mark.parametrize("duplicates", OTHER_ROWS)
def test_one_source_without_twins_is_infonce(duplicates: Any, source: int) -> None:
    none = torch.zeros(12, dtype=torch.bool)
    features = random_features(source=torch.full((12,), source), has_twin=none)
    terms = TwoSourceContrastive(duplicates=duplicates)(features)
    here, absent = ("real", "generated") if source == 0 else ("generated", "real")
    torch.testing.assert_close(terms[f"contrastive_{here}"], InfoNCE(duplicates)(features)["infonce"])
    assert float(terms[f"contrastive_{absent}"]) == 0.0


def test_the_two_pictures_of_a_caption_do_not_compete() -> None:
    ids = torch.arange(4)
    features = random_features(
        rows=4, source=torch.zeros(4, dtype=torch.int64), has_twin=torch.ones(4, dtype=torch.bool), group=ids,
        caption_id=ids,
    )  # fmt: skip
    assert features.twin is not None
    twin = features.twin.clone().requires_grad_()
    loss = TwoSourceContrastive("text_to_image")
    (base,) = torch.autograd.grad(loss(replace(features, twin=twin))["contrastive_real"], twin)
    # The real term pushes a twin by other captions only: along them, with nothing along its own.
    own = features.text[0]
    outside = torch.linalg.svd(features.text[1:]).Vh[3:]  # what the other captions do not span
    assert float((outside @ base[0]).norm()) < 1e-12
    assert float((outside @ own).norm()) > 0.1


def test_knowing_nothing_costs_the_log_of_the_candidates() -> None:
    constant, ids = torch.ones(6, 1, dtype=torch.float64), torch.arange(6)
    features = random_features(
        rows=6, image=constant, text=constant, twin=constant, has_twin=ids < 6, group=ids, caption_id=ids,
        source=torch.zeros(6, dtype=torch.int64),
    )  # fmt: skip
    for value in TwoSourceContrastive("text_to_image")(features).values():
        assert float(value) == pytest.approx(math.log(11))  # the positive and two pictures of five other captions


def test_one_pair_alone_is_zero_with_a_graph() -> None:
    one = torch.zeros(1, dtype=torch.int64)
    image = random_features(rows=2).image[:1].requires_grad_()
    features = random_features(
        rows=2, image=image, text=image.detach(), twin=image.detach(), has_twin=torch.tensor([True]), source=one,
        group=one, caption_id=one,
    )  # fmt: skip
    terms = TwoSourceContrastive()(features)
    total = terms["contrastive_real"] + terms["contrastive_generated"]
    total.backward()
    assert float(total.detach()) == 0.0
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("directions", DIRECTIONS)
def test_gradcheck(directions: Any) -> None:
    features = random_features(rows=5, width=3)
    assert features.twin is not None
    inputs = (features.image, features.text, features.twin, features.logit_scale)
    leaves = tuple(x.clone().requires_grad_() for x in inputs)

    def value(image: torch.Tensor, text: torch.Tensor, twin: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        batch = replace(features, image=image, text=text, twin=twin, logit_scale=scale)
        return torch.stack([*TwoSourceContrastive(directions)(batch).values()]).sum()

    assert torch.autograd.gradcheck(value, leaves)


def test_what_is_wrong_is_named() -> None:
    assert TwoSourceContrastive.needs_twin
    with pytest.raises(LossError, match="twin_share"):
        TwoSourceContrastive()(random_features(twin=None, has_twin=None))
    with pytest.raises(LossError, match="directions must be one of 'both', 'text_to_image'; got 'image_to_text'"):
        TwoSourceContrastive("image_to_text")  # type: ignore[arg-type]
    with pytest.raises(LossError, match="duplicates must be one of 'mask', 'negative'; got 'positive'"):
        TwoSourceContrastive(duplicates="positive")  # type: ignore[arg-type]
