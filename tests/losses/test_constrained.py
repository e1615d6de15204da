"""ConstrainedGap: the term and its multipliers against their recursion, and that it finds a constrained optimum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_features import random_features

from losses import REAL, ConstrainedGap, Features, LossError


def mean_gap(features: Features, factor: float = 7.0) -> float:
    assert features.twin is not None
    assert features.has_twin is not None
    gaps = []
    for i in features.has_twin.nonzero().flatten().tolist():
        anchor, twin = (float(features.text[i] @ other[i]) for other in (features.image, features.twin))
        gaps.append(factor * (twin - anchor if features.source[i] == REAL else anchor - twin))
    return float(np.mean(gaps))


def augmented(gap: float, u: np.ndarray, epsilon: float, penalty: float) -> float:
    """Rockafellar's function as the least value over slacks that fill the constraints up, found on a grid."""
    total = 0.0
    for k, sign in enumerate((1, -1)):
        h = sign * gap - epsilon + np.linspace(0, 40, 400_001)
        total += float(np.min(u[k] * h + penalty / 2 * h**2))
    return total


@pytest.mark.parametrize("penalty", [0.3, 0.0])
@pytest.mark.parametrize(("unit", "factor"), [("logit", 7.0), ("cosine", 1.0)])
@pytest.mark.parametrize("lead", [0, 1])
def test_against_the_recursion(penalty: float, unit: Any, factor: float, lead: int) -> None:
    """Several steps, with either source as the one that leads."""
    loss = ConstrainedGap(epsilon=0.05, dual_rate=0.8, penalty=penalty, unit=unit, limit=0.9).double()
    u = np.zeros(2)
    for step in range(6):
        features = random_features(source=torch.full((12,), lead), step=step)
        if step < 4:  # a lead that stays until the limit is near, then one of the other source
            features = replace(features, twin=random_features().twin)
        else:
            features = replace(features, source=torch.full((12,), 1 - lead))
        gap = mean_gap(features, factor)
        h = np.array([gap, -gap]) - 0.05
        expected = augmented(gap, u, 0.05, penalty) if penalty else float(u @ h)
        assert float(loss(features)["constrained_gap"]) == pytest.approx(expected, abs=1e-6)
        u = np.clip(u + 0.8 * h, 0, 0.9)
        assert loss.multipliers.tolist() == pytest.approx(u)
    assert u.max() > 0


def test_once_a_step_and_in_training_only() -> None:
    loss = ConstrainedGap(epsilon=0.0)
    features = random_features(step=5)
    loss(features)
    once = loss.multipliers.clone()
    assert once.max() > 0
    loss(features)  # accumulated gradients, or a second look at the step
    assert torch.equal(loss.multipliers, once)
    with torch.no_grad():
        loss(replace(features, step=6))
    loss.eval()
    loss(replace(features, step=6))
    assert torch.equal(loss.multipliers, once)
    loss.train()
    loss(replace(features, step=6))
    assert not torch.equal(loss.multipliers, once)


def test_the_update_does_not_disturb_the_backward_pass() -> None:
    loss = ConstrainedGap(penalty=0.0, epsilon=0.0).double()
    image = random_features().image.requires_grad_()
    loss(random_features(step=1))
    used = loss.multipliers.clone()
    features = random_features(step=2, image=image)
    loss(features)["constrained_gap"].backward()
    assert image.grad is not None
    assert features.twin is not None
    assert features.has_twin is not None
    sign = torch.where(features.source == REAL, -1.0, 1.0) * features.has_twin
    slope = (used[0] - used[1]) * 7.0 / features.has_twin.sum()
    torch.testing.assert_close(image.grad, slope * sign.unsqueeze(1) * features.text)


def test_state_is_restored() -> None:
    loss, again = ConstrainedGap(epsilon=0.0), ConstrainedGap(epsilon=0.0)
    loss(random_features(step=3))
    again.load_state_dict(loss.state_dict())
    assert again.last_step == 3
    for step in (3, 4, 5):
        features = random_features(seed=step, step=step)
        assert torch.equal(loss(features)["constrained_gap"], again(features)["constrained_gap"])
        assert torch.equal(loss.multipliers, again.multipliers)


def test_no_pair_is_zero_with_a_graph_and_moves_nothing() -> None:
    loss = ConstrainedGap(epsilon=0.0)
    loss(random_features(step=1))
    before = loss.multipliers.clone()
    image = random_features().image.requires_grad_()
    value = loss(random_features(step=2, image=image, has_twin=torch.zeros(12, dtype=torch.bool)))["constrained_gap"]
    value.backward()
    assert float(value.detach()) == 0.0
    assert image.grad is not None
    assert not image.grad.any()
    assert torch.equal(loss.multipliers, before)


def test_within_the_tolerance_nothing_pulls() -> None:
    image = random_features().image.requires_grad_()
    features = random_features(image=image)
    loss = ConstrainedGap(epsilon=abs(mean_gap(replace(features, image=image.detach()))) + 0.1)
    loss(features)["constrained_gap"].backward()
    assert image.grad is not None
    assert not image.grad.any()
    assert not loss.multipliers.any()


def test_a_broken_embedding_is_named_and_leaves_the_multipliers() -> None:
    loss = ConstrainedGap()
    image = random_features().image.clone()
    image[3] = float("nan")
    with pytest.raises(LossError, match=r"ConstrainedGap, step 3: .*features\.image \(1 of 12 rows, first: 3\)"):
        loss(random_features(image=image))
    assert not loss.multipliers.any()


@pytest.mark.parametrize("wanted", [2.0, -2.0])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_it_finds_the_constrained_optimum_and_its_multiplier(wanted: float, penalty: float) -> None:
    """Minimise (x - wanted)^2 / 2 with x the gap: the solution is the bound, its multiplier the distance to it."""
    loss = ConstrainedGap(epsilon=0.5, dual_rate=0.05, penalty=penalty, unit="cosine").double()
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    one = torch.zeros(1, dtype=torch.int64)
    optimizer = torch.optim.SGD([x], lr=0.1)
    for step in range(800):
        features = Features(
            image=torch.zeros(1, 1, dtype=torch.float64), text=torch.ones(1, 1, dtype=torch.float64),
            twin=x.view(1, 1), has_twin=torch.tensor([True]), logit_scale=torch.tensor(1.0), source=one, group=one,
            caption_id=one, step=step,
        )  # fmt: skip
        optimizer.zero_grad()
        ((x - wanted).square() / 2 + loss(features)["constrained_gap"]).backward()
        optimizer.step()
    side = 0 if wanted > 0 else 1
    assert float(x.detach()) == pytest.approx(0.5 if wanted > 0 else -0.5, abs=1e-3)
    assert float(loss.multipliers[side]) == pytest.approx(1.5, abs=1e-2)
    assert float(loss.multipliers[1 - side]) == 0.0


def test_gradcheck() -> None:
    features = random_features(rows=6, width=3)
    assert features.twin is not None
    leaves = tuple(x.clone().requires_grad_() for x in (features.image, features.text, features.twin))

    def value(image: torch.Tensor, text: torch.Tensor, twin: torch.Tensor) -> torch.Tensor:
        loss = ConstrainedGap(epsilon=0.01).double()
        return loss(replace(features, image=image, text=text, twin=twin))["constrained_gap"]

    assert torch.autograd.gradcheck(value, leaves)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, "epsilon must be a finite number of at least 0"),
        ({"dual_rate": 0.0}, "dual_rate must be a finite number above 0"),
        ({"penalty": -1.0}, "penalty must be a finite number of at least 0"),
        ({"limit": float("inf")}, "limit must be a finite number above 0"),
        ({"unit": "degree"}, "unit must be one of"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LossError, match=f"ConstrainedGap: {message}"):
        ConstrainedGap(**options)


def test_a_batch_without_twins_says_what_to_do() -> None:
    assert ConstrainedGap.needs_twin
    with pytest.raises(LossError, match="twin_share"):
        ConstrainedGap()(random_features(twin=None, has_twin=None))
