"""ScoreDistribution: the distance against scipy and an optimal-transport program, the comparisons against loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_features import random_features
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance
from torch import Tensor

from losses import REAL, Features, LossError, ScoreDistribution
from losses.distribution import Order, wasserstein

numbers = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=9)


def transport(first: np.ndarray, second: np.ndarray, order: int) -> float:
    """The least cost of moving one distribution onto the other, as a linear program over all plans."""
    n, m = len(first), len(second)
    cost = np.abs(first[:, None] - second[None, :]) ** order
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    plan = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=marginals)
    return float(plan.fun)


@settings(deadline=None, max_examples=50)
@given(numbers, numbers)
def test_first_order_against_scipy(first: list[float], second: list[float]) -> None:
    value = wasserstein(torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    assert float(value) == pytest.approx(wasserstein_distance(first, second), abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(numbers, numbers, st.sampled_from([1, 2]))
def test_is_the_least_cost_of_all_plans(first: list[float], second: list[float], order: Order) -> None:
    value = wasserstein(torch.tensor(first).double(), torch.tensor(second).double(), order)
    assert float(value) == pytest.approx(transport(np.array(first), np.array(second), order), abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(numbers, numbers, st.floats(-3, 3), st.sampled_from([1, 2]))
def test_properties(first: list[float], second: list[float], shift: float, order: Order) -> None:
    x, y = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    value = wasserstein(x, y, order)
    torch.testing.assert_close(wasserstein(y, x, order), value)
    torch.testing.assert_close(wasserstein(x.flip(0), y, order), value)
    torch.testing.assert_close(wasserstein(x + shift, y + shift, order), value, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(wasserstein(torch.cat([x, x]), y, order), value)  # a distribution, not a count
    assert float(wasserstein(x, x)) == 0.0
    expected = torch.tensor(abs(shift) ** order, dtype=torch.float64)
    torch.testing.assert_close(wasserstein(x, x + shift, order), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 5), (1, 6), (6, 4)])
@pytest.mark.parametrize("order", [1, 2])
def test_distance_gradcheck_and_batches(n: int, m: int, order: Order) -> None:
    generator = torch.Generator().manual_seed(n * 10 + m)
    x = torch.randn(3, n, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, m, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: wasserstein(a, b, order), (x, y))
    rows = torch.stack([wasserstein(a, b, order) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(wasserstein(x, y, order), rows)


def matched(features: Features) -> Tensor:
    return torch.stack([image @ text for image, text in zip(features.image, features.text, strict=True)])


def value_of(features: Features, **options: Any) -> float:
    return float(ScoreDistribution(**options)(features)["score_distribution"])


@pytest.mark.parametrize(("unit", "factor"), [("cosine", 1.0), ("logit", 7.0)])
def test_pooled_against_scipy(unit: str, factor: float) -> None:
    features = random_features(rows=20)
    scores, generated = matched(features), features.source != REAL
    expected = factor * wasserstein_distance(scores[~generated], scores[generated])
    assert value_of(features, unit=unit) == pytest.approx(expected)


@pytest.mark.parametrize("compare", ["caption", "group"])
@pytest.mark.parametrize("min_count", [1, 2])
def test_strata_against_a_loop(compare: str, min_count: int) -> None:
    rows = 30
    strata = torch.arange(rows) % 5 * 10
    other = torch.arange(rows)
    ids = {"caption_id": strata, "group": other} if compare == "caption" else {"caption_id": other, "group": strata}
    features = random_features(rows=rows, **ids)
    scores, generated = matched(features).numpy(), (features.source != REAL).numpy()
    distances, weights = [], []
    for stratum in range(5):
        member = strata.numpy() == stratum * 10
        real, fake = scores[member & ~generated], scores[member & generated]
        if min(len(real), len(fake)) >= min_count:
            distances.append(wasserstein_distance(real, fake))
            weights.append(1 / (1 / len(real) + 1 / len(fake)))
    assert len(weights) > 0
    expected = np.average(distances, weights=weights)
    assert value_of(features, compare=compare, min_count=min_count, unit="cosine") == pytest.approx(expected)


def test_all_against_a_loop() -> None:
    features = random_features(rows=14)
    generated = (features.source != REAL).numpy()
    expected = []
    for i, text in enumerate(features.text):
        scores = (features.image @ text).numpy()
        others = np.arange(14) != i
        expected.append(wasserstein_distance(scores[others & ~generated], scores[others & generated]))
    assert value_of(features, compare="all", unit="cosine", min_count=2) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("compare", ["pooled", "caption", "group", "all"])
@pytest.mark.parametrize("source", [0, 1])
def test_one_source_only_is_zero_with_a_graph(compare: Any, source: int) -> None:
    features = random_features(source=torch.full((12,), source))
    image = features.image.requires_grad_()
    value = ScoreDistribution(compare=compare, min_count=1)(features)["score_distribution"]
    value.backward()
    assert float(value.detach()) == 0.0
    assert image.grad is not None
    assert image.grad.abs().sum() == 0


def test_fewer_than_min_count_do_not_count() -> None:
    source = torch.tensor([0] * 9 + [1] * 3)
    features = random_features(source=source)
    assert value_of(features, min_count=4) == 0.0
    assert value_of(features, min_count=3) > 0.0
    # A caption of a generated picture leaves its own out, so only two of that source remain.
    ids = torch.arange(12)
    per_caption = random_features(source=source, caption_id=ids, group=ids)
    rows = torch.arange(9)
    distance = [
        wasserstein_distance(
            (per_caption.image @ per_caption.text[i]).numpy()[:9][rows != i],
            (per_caption.image @ per_caption.text[i]).numpy()[9:],
        )
        for i in range(9)
    ]
    value = value_of(per_caption, compare="all", min_count=3, unit="cosine")
    assert value == pytest.approx(np.mean(distance))


@pytest.mark.parametrize("compare", ["pooled", "caption", "group", "all"])
def test_order_of_rows_and_names_of_generators_change_nothing(compare: Any) -> None:
    features = random_features(rows=16, group=torch.arange(16) % 3, caption_id=torch.arange(16) % 2)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    changes = {name: getattr(features, name)[order] for name in ("image", "text", "group", "caption_id")}
    shuffled = replace(features, source=(features.source != REAL).long()[order] * 5, **changes)
    swapped = replace(features, source=(features.source == REAL).long())  # symmetric: neither source may lead
    loss = ScoreDistribution(compare=compare, min_count=2)
    value = loss(features)["score_distribution"]
    assert float(value) > 0
    torch.testing.assert_close(loss(shuffled)["score_distribution"], value)
    torch.testing.assert_close(loss(swapped)["score_distribution"], value)


@pytest.mark.parametrize("compare", ["pooled", "caption", "all"])
@pytest.mark.parametrize("order", [1, 2])
def test_gradcheck(compare: Any, order: Order) -> None:
    features = random_features(rows=8, width=3, caption_id=torch.arange(8) % 2, source=torch.tensor([0, 0, 1, 1] * 2))

    def value(image: Tensor, text: Tensor) -> Tensor:
        loss = ScoreDistribution(compare=compare, order=order, min_count=1)
        return loss(replace(features, image=image, text=text))["score_distribution"]

    leaves = (features.image.clone().requires_grad_(), features.text.clone().requires_grad_())
    assert torch.autograd.gradcheck(value, leaves)


def test_descending_it_removes_a_planted_lead() -> None:
    """Generated pictures carry a direction that every caption likes; following the gradient takes the lead away."""
    generator = torch.Generator().manual_seed(0)
    rows, width = 200, 8
    text = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    text[:, 0] = 1.0
    text = torch.nn.functional.normalize(text, dim=1)
    generated = torch.arange(rows) % 2 == 1
    image = text + 0.1 * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    image[generated, 0] += 0.5
    direction = torch.zeros(width, dtype=torch.float64, requires_grad=True)
    features = random_features(
        rows=rows, width=width, text=text, source=generated.long(), logit_scale=torch.tensor(1.0)
    )

    def lead() -> tuple[Tensor, Features]:
        corrected = image + generated.unsqueeze(1) * direction
        batch = replace(features, image=corrected)
        scores = (corrected * text).sum(dim=1)
        return scores[generated].mean() - scores[~generated].mean(), batch

    before = float(lead()[0].detach())
    optimizer = torch.optim.SGD([direction], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        ScoreDistribution()(lead()[1])["score_distribution"].backward()
        optimizer.step()
    assert before > 0.1
    assert abs(float(lead()[0].detach())) < 0.2 * before


def test_wrong_options_are_named() -> None:
    with pytest.raises(LossError, match="compare must be one of"):
        ScoreDistribution(compare="class")  # type: ignore[arg-type]
    with pytest.raises(LossError, match="order must be 1 or 2; got 3"):
        ScoreDistribution(order=3)  # type: ignore[arg-type]
    with pytest.raises(LossError, match="min_count must be a finite number of at least 1; got 0"):
        ScoreDistribution(min_count=0)
