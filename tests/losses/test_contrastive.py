"""InfoNCE and SigLIP against open_clip's, plain NumPy loops and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from random_features import random_features

from losses import Features, InfoNCE, LossError, SigLIP
from losses.contrastive import DUPLICATES, Duplicates


def naive_infonce(features: Features, duplicates: str) -> float:
    image, text = features.image.numpy(), features.text.numpy()
    scale, rows = float(features.logit_scale), len(image)
    total = 0.0
    for queries, documents in ((image, text), (text, image)):
        for i in range(rows):
            weights, positives = {}, [i]
            for j in range(rows):
                same = features.group[i] == features.group[j] or features.caption_id[i] == features.caption_id[j]
                if i != j and same and duplicates == "mask":
                    continue
                if i != j and same and duplicates == "positive":
                    positives.append(j)
                weights[j] = math.exp(scale * float(np.dot(queries[i], documents[j])))
            denominator = sum(weights.values())
            total -= sum(math.log(weights[j] / denominator) for j in positives) / len(positives)
    return total / (2 * rows)


def naive_siglip(features: Features, duplicates: str) -> float:
    assert features.logit_bias is not None
    rows, total = len(features.image), 0.0
    for i in range(rows):
        for j in range(rows):
            same = bool(features.group[i] == features.group[j] or features.caption_id[i] == features.caption_id[j])
            if i != j and same and duplicates == "mask":
                continue
            fits = i == j or (same and duplicates == "positive")
            logit = float(features.logit_scale * (features.image[i] @ features.text[j]) + features.logit_bias)
            total += math.log1p(math.exp(-logit if fits else logit))
    return total / rows


@pytest.mark.parametrize("duplicates", DUPLICATES)
@pytest.mark.parametrize("seed", range(3))
def test_against_loops(duplicates: Duplicates, seed: int) -> None:
    features = random_features(seed=seed)
    assert float(InfoNCE(duplicates)(features)["infonce"]) == pytest.approx(naive_infonce(features, duplicates))
    assert float(SigLIP(duplicates)(features)["siglip"]) == pytest.approx(naive_siglip(features, duplicates))


def test_against_open_clip() -> None:
    features = random_features(rows=16)
    expected = ClipLoss()(features.image, features.text, features.logit_scale)
    torch.testing.assert_close(InfoNCE("negative")(features)["infonce"], expected)
    expected = SigLipLoss()(features.image, features.text, features.logit_scale, features.logit_bias)
    torch.testing.assert_close(SigLIP("negative")(features)["siglip"], expected)


def test_knowing_nothing_costs_log_n() -> None:
    constant = torch.ones(8, 1, dtype=torch.float64)
    ids = torch.arange(8)
    features = random_features(rows=8, image=constant, text=constant, group=ids, caption_id=ids)
    assert float(InfoNCE()(features)["infonce"]) == pytest.approx(math.log(8))


def test_one_caption_for_all_rows() -> None:
    same = torch.zeros(12, dtype=torch.int64)
    features = random_features(caption_id=same)
    assert float(InfoNCE("mask")(features)["infonce"]) == 0.0  # nothing left to contrast with
    constant = torch.ones(12, 1, dtype=torch.float64)
    uniform = replace(features, image=constant, text=constant)
    assert float(InfoNCE("positive")(uniform)["infonce"]) == pytest.approx(math.log(12))


@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_order_of_rows_and_renaming_of_ids_change_nothing(duplicates: Duplicates) -> None:
    features = random_features()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shuffled = replace(
        features,
        image=features.image[order],
        text=features.text[order],
        group=features.group[order] * 7 + 100,
        caption_id=features.caption_id[order] - 50,
    )
    for loss in (InfoNCE(duplicates), SigLIP(duplicates)):
        for name, value in loss(features).items():
            torch.testing.assert_close(loss(shuffled)[name], value)


def test_infonce_is_symmetric_in_the_two_sides() -> None:
    features = random_features()
    swapped = replace(features, image=features.text, text=features.image)
    torch.testing.assert_close(InfoNCE()(swapped)["infonce"], InfoNCE()(features)["infonce"])


def test_a_masked_pair_gets_no_push() -> None:
    rows = 4
    ids = torch.tensor([0, 0, 1, 2])
    features = random_features(rows=rows, group=torch.arange(rows), caption_id=ids)
    for loss in (InfoNCE("mask"), SigLIP("mask")):
        image = features.image.clone().requires_grad_()
        text = features.text.clone()
        # Captions 0 and 1 are the same, so picture 1 must not feel where caption 0 lies; picture 2 must.
        value = next(iter(loss(replace(features, image=image, text=text)).values()))
        (base,) = torch.autograd.grad(value, image)
        text[0] = -text[0]
        value = next(iter(loss(replace(features, image=image, text=text)).values()))
        (moved,) = torch.autograd.grad(value, image)
        torch.testing.assert_close(moved[1], base[1])
        assert not torch.allclose(moved[2], base[2])


@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_gradcheck(duplicates: Duplicates) -> None:
    features = random_features(rows=5, width=3)
    inputs = [features.image, features.text, features.logit_scale, features.logit_bias]
    leaves = tuple(x.clone().requires_grad_() for x in inputs if x is not None)

    def value(*values: torch.Tensor) -> torch.Tensor:
        image, text, scale, bias = values
        batch = replace(features, image=image, text=text, logit_scale=scale, logit_bias=bias)
        return InfoNCE(duplicates)(batch)["infonce"] + SigLIP(duplicates)(batch)["siglip"]

    assert torch.autograd.gradcheck(value, leaves)


def test_autocast_does_not_coarsen_the_scores() -> None:
    wide = random_features(rows=16, width=64)
    features = replace(
        wide, image=wide.image.float(), text=wide.text.float(), logit_scale=torch.tensor(100.0), logit_bias=None
    )
    exact = InfoNCE()(features)["infonce"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(InfoNCE()(features)["infonce"], exact)


def test_siglip_without_a_bias_says_what_to_do() -> None:
    with pytest.raises(LossError, match="init_logit_bias"):
        SigLIP()(random_features(logit_bias=None))


def test_unknown_option_is_named() -> None:
    with pytest.raises(
        LossError, match="InfoNCE: duplicates must be one of 'mask', 'positive', 'negative'; got 'drop'"
    ):
        InfoNCE("drop")  # type: ignore[arg-type]
