"""TwinConsistency: value, target, and who moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_features import random_features
from torch.nn.functional import cosine_similarity

from losses import REAL, LossError, TwinConsistency


def test_against_a_loop() -> None:
    features = random_features()
    assert features.twin is not None
    assert features.has_twin is not None
    assert features.teacher_image is not None
    assert features.teacher_twin is not None
    following, frozen = [], []
    for i in features.has_twin.nonzero().flatten().tolist():
        pair = [features.image[i], features.twin[i]]
        teacher = [features.teacher_image[i], features.teacher_twin[i]]
        photo = 0 if features.source[i] == REAL else 1
        following.append(1 - cosine_similarity(pair[1 - photo], pair[photo], dim=0))
        frozen.append(1 - cosine_similarity(pair[1 - photo], teacher[photo], dim=0))
    value = TwinConsistency()(features)["twin_consistency"]
    torch.testing.assert_close(value, torch.stack(following).mean())
    value = TwinConsistency("frozen")(features)["twin_consistency"]
    torch.testing.assert_close(value, torch.stack(frozen).mean())


@pytest.mark.parametrize("teacher", ["stop_gradient", "frozen"])
def test_only_generated_pictures_move(teacher: str) -> None:
    features = random_features()
    assert features.twin is not None
    assert features.has_twin is not None
    image, twin = features.image.requires_grad_(), features.twin.requires_grad_()
    TwinConsistency(teacher)(features)["twin_consistency"].backward()  # type: ignore[arg-type]
    assert image.grad is not None
    assert twin.grad is not None
    photo = features.source == REAL
    assert torch.equal(image.grad.abs().sum(dim=1) > 0, features.has_twin & ~photo)
    assert torch.equal(twin.grad.abs().sum(dim=1) > 0, features.has_twin & photo)


def test_equal_pictures_cost_nothing() -> None:
    features = random_features(has_twin=torch.ones(12, dtype=torch.bool))
    value = TwinConsistency()(replace(features, twin=features.image))["twin_consistency"]
    assert float(value) == pytest.approx(0.0, abs=1e-12)


def test_without_the_teachers_twin_pairs_with_a_photo_as_anchor_count() -> None:
    features = random_features()
    assert features.has_twin is not None
    value = TwinConsistency("frozen")(replace(features, teacher_twin=None))["twin_consistency"]
    photos = replace(features, has_twin=features.has_twin & (features.source == REAL))
    torch.testing.assert_close(value, TwinConsistency("frozen")(photos)["twin_consistency"])


def test_no_pair_is_zero_with_a_graph() -> None:
    features = random_features(has_twin=torch.zeros(12, dtype=torch.bool))
    image = features.image.requires_grad_()
    value = TwinConsistency()(features)["twin_consistency"]
    value.backward()
    assert float(value.detach()) == 0.0
    assert image.grad is not None


@pytest.mark.parametrize("teacher", ["stop_gradient", "frozen"])
def test_gradcheck(teacher: str) -> None:
    # All anchors are photos and only twins vary, since the target's gradient is stopped on purpose.
    features = random_features(rows=6, width=3, source=torch.zeros(6, dtype=torch.int64))
    assert features.twin is not None

    def value(twin: torch.Tensor) -> torch.Tensor:
        loss = TwinConsistency(teacher)  # type: ignore[arg-type]
        return loss(replace(features, twin=twin))["twin_consistency"]

    assert torch.autograd.gradcheck(value, (features.twin.clone().requires_grad_(),))


def test_requirements() -> None:
    assert TwinConsistency.needs_twin
    assert not TwinConsistency().needs_teacher
    assert TwinConsistency("frozen").needs_teacher
    with pytest.raises(LossError, match="frozen teacher"):
        TwinConsistency("frozen")(random_features(teacher_image=None))
    with pytest.raises(LossError, match="twin_share"):
        TwinConsistency()(random_features(twin=None, has_twin=None))
    with pytest.raises(LossError, match="teacher must be one of 'stop_gradient', 'frozen'; got 'ema'"):
        TwinConsistency("ema")  # type: ignore[arg-type]
