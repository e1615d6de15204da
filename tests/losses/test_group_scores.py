"""GroupScores: the distance of every group against scipy, its invariances, and what descending it does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_features import random_features, unit_rows
from scipy.stats import wasserstein_distance
from torch import Tensor

from losses import Features, GroupScores, LossError


def value_of(features: Features, **options: Any) -> float:
    return float(GroupScores(**options)(features)["group_scores"])


def naive(features: Features, least: int, unit: str) -> float:
    assert features.person is not None
    assert features.prompt is not None
    assert features.person_group is not None
    group = features.person_group.numpy()
    counted = [g for g in range(3) if (group == g).sum() >= least]
    distances = []
    for query in features.prompt:
        scores = (features.person @ query).numpy()
        everyone = scores[np.isin(group, counted)]
        factor = {"cosine": 1.0, "logit": float(features.logit_scale), "spread": 1 / everyone.std()}[unit]
        distances += [factor * wasserstein_distance(scores[group == g], everyone) for g in counted]
    return float(np.mean(distances))


@pytest.mark.parametrize("unit", ["spread", "logit", "cosine"])
@pytest.mark.parametrize("least", [2, 3])
def test_against_scipy_with_unequal_groups(unit: str, least: int) -> None:
    features = random_features()
    assert value_of(features, unit=unit, min_count=least) == pytest.approx(naive(features, least, unit))


def test_second_order_against_quantiles() -> None:
    features = random_features()
    assert features.person is not None
    assert features.prompt is not None
    # Halves of equal size: the n-th of a group against the (2n)-th and (2n+1)-th of all.
    group = torch.arange(12) % 2
    features = replace(features, person=features.person[:12], person_group=group)
    expected = []
    for query in features.prompt:
        scores = (features.person[:12] @ query).numpy()
        everyone = np.sort(scores)
        for g in range(2):
            own = np.repeat(np.sort(scores[group.numpy() == g]), 2)
            expected.append(np.mean((own - everyone) ** 2))
    assert value_of(features, order=2, unit="cosine") == pytest.approx(np.mean(expected))


def test_small_groups_are_left_out_and_counted() -> None:
    loss = GroupScores(min_count=3)
    features = random_features()
    whole = loss(features)["group_scores"]
    assert float(loss.figures["groups_left_out"]) == 1
    assert features.person is not None
    without = replace(features, person=features.person[:10], person_group=features.person_group[:10])  # type: ignore[index]
    torch.testing.assert_close(loss(without)["group_scores"], whole)
    assert float(loss.figures["groups_left_out"]) == 0


@pytest.mark.parametrize("unit", ["spread", "cosine"])
def test_properties(unit: Any) -> None:
    features = random_features()
    assert features.person is not None
    assert features.person_group is not None
    value = value_of(features, unit=unit)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    shuffled = replace(features, person=features.person[order], person_group=features.person_group[order])
    assert value_of(shuffled, unit=unit) == pytest.approx(value)
    swapped = torch.where(features.person_group >= 0, 2 - features.person_group, -1)
    assert value_of(replace(features, person_group=swapped), unit=unit) == pytest.approx(value)
    twice = replace(
        features, person=features.person.repeat(2, 1), person_group=features.person_group.repeat(2)
    )  # a distribution, not a count
    assert value_of(twice, unit=unit) == pytest.approx(value)
    same = replace(features, person=features.person[:1].expand(13, -1))
    assert value_of(same, unit=unit) == pytest.approx(0.0, abs=1e-6)
    # Scores squeezed together to a tenth: the spread is their own unit.
    narrow = replace(features, person=0.1 * features.person)
    factor = 1.0 if unit == "spread" else 0.1
    assert value_of(narrow, unit=unit) == pytest.approx(factor * value)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("unit", ["spread", "cosine"])
def test_gradcheck(order: Any, unit: Any) -> None:
    features = random_features(width=3)
    assert features.person is not None
    assert features.prompt is not None

    def value(person: Tensor, prompt: Tensor) -> Tensor:
        return GroupScores(order, unit)(replace(features, person=person, prompt=prompt))["group_scores"]

    leaves = (features.person.clone().requires_grad_(), features.prompt.clone().requires_grad_())
    assert torch.autograd.gradcheck(value, leaves)


@pytest.mark.parametrize("group", [torch.zeros(13, dtype=torch.int64), -torch.ones(13, dtype=torch.int64)])
def test_one_group_or_none_is_zero_with_a_graph(group: Tensor) -> None:
    person = unit_rows(13, 5, torch.Generator()).requires_grad_()
    value = GroupScores()(random_features(person=person, person_group=group))["group_scores"]
    value.backward()
    assert float(value.detach()) == 0.0
    assert person.grad is not None
    assert not person.grad.any()


def test_no_people_at_all_is_zero_with_a_graph() -> None:
    person = torch.zeros(0, 5, dtype=torch.float64, requires_grad=True)
    features = random_features(person=person, person_group=torch.zeros(0, dtype=torch.int64))
    value = GroupScores()(features)["group_scores"]
    value.backward()
    assert float(value.detach()) == 0.0


def test_people_and_prompts_that_are_missing_are_named() -> None:
    with pytest.raises(LossError, match=r"FacesDataModule .*data\.people"):
        GroupScores()(random_features(person=None))
    with pytest.raises(LossError, match=r"model\.prompts\.neutral"):
        GroupScores()(random_features(prompt=None))
    with pytest.raises(LossError, match="min_count must be a finite number of at least 2; got 1"):
        GroupScores(min_count=1)
    with pytest.raises(LossError, match="order must be 1 or 2; got 3"):
        GroupScores(order=3)  # type: ignore[arg-type]


def test_descending_it_evens_out_the_top_of_every_ranking() -> None:
    """A planted direction puts one group first; a learnt shift of that group takes it back."""
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(200) % 2
    person = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    person[:, 0] += 1.5 * group
    prompt = unit_rows(5, 8, generator)
    prompt[:, 0] = prompt[:, 0].abs()
    shift = torch.zeros(8, dtype=torch.float64, requires_grad=True)

    def batch() -> Features:
        return random_features(width=8, person=person + group[:, None] * shift, person_group=group, prompt=prompt)

    def share() -> float:
        scores = prompt @ batch().person.detach().T  # type: ignore[union-attr]
        return float(group[scores.topk(40, dim=1).indices].double().mean())

    before = share()
    optimizer = torch.optim.SGD([shift], lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        GroupScores()(batch())["group_scores"].backward()
        optimizer.step()
    assert before > 0.65
    assert abs(share() - 0.5) < 0.06
