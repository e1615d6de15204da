"""PromptAdversary and AttributeAdversary: the balanced cross-entropy against sklearn's, the reversal, and training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_features import random_features, unit_rows
from sklearn.metrics import balanced_accuracy_score, log_loss
from torch import Tensor, nn

from losses import AttributeAdversary, Features, Loss, LossError, PromptAdversary

KINDS: list[tuple[type[Loss], dict[str, Any]]] = [
    (PromptAdversary, {"groups": 3}),
    (AttributeAdversary, {"groups": [3]}),
    (AttributeAdversary, {"groups": [3, 2]}),
]


def made(kind: type[Loss], seed: int = 0, width: int = 5, prompts: int = 4, **options: Any) -> Any:
    loss = kind(**options)
    loss.prepare(width, seed, prompts)
    return loss.double()


def value_of(loss: Loss, features: Features) -> Tensor:
    return torch.stack([*loss(features).values()]).sum()


def through(head: nn.Sequential, x: np.ndarray) -> np.ndarray:
    layers = [m for m in head if isinstance(m, nn.Linear)]
    for i, layer in enumerate(layers):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


def balanced(group: np.ndarray, probability: np.ndarray) -> float:
    known = group >= 0
    weights = 1.0 / np.bincount(group[known])[group[known]]
    labels = np.arange(probability.shape[1])
    return float(log_loss(group[known], probability[known], sample_weight=weights, labels=labels))


def test_prompts_against_numpy_and_sklearn() -> None:
    features = random_features()
    assert features.person is not None
    assert features.prompt is not None
    assert features.person_group is not None
    loss = made(PromptAdversary, groups=3, hidden=7)
    scores, group = (features.person @ features.prompt.T).numpy(), features.person_group.numpy()
    # Groups weigh alike in the moments too.
    share = np.where(group >= 0, 1.0 / np.bincount(group[group >= 0])[group], 0.0)
    mean = np.average(scores, axis=0, weights=share)
    deviation = np.sqrt(np.average((scores - mean) ** 2, axis=0, weights=share))
    probability = through(loss.head, (scores - mean) / deviation)
    assert sum(isinstance(m, nn.Linear) for m in loss.head) == 4
    assert float(value_of(loss, features).detach()) == pytest.approx(balanced(group, probability))
    known = group >= 0
    expected = balanced_accuracy_score(group[known], probability.argmax(axis=1)[known])
    assert float(loss.figures["accuracy"]) == pytest.approx(expected)


@pytest.mark.parametrize("groups", [[3], [3, 2]])
def test_attributes_against_numpy_and_sklearn(groups: list[int]) -> None:
    features = random_features()
    assert features.person is not None
    assert features.person_attributes is not None
    loss = made(AttributeAdversary, groups=groups, hidden=7)
    x = math.sqrt(5) * features.person.numpy()
    columns = features.person_attributes.T.numpy()
    expected = [
        balanced(column, through(head, x)) for head, column in zip(loss.heads, columns[: len(groups)], strict=True)
    ]
    assert float(value_of(loss, features).detach()) == pytest.approx(sum(expected))


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize(("step", "strength"), [(0, 0.0), (3, 0.6), (10, 2.0)])
def test_the_head_descends_and_the_towers_ascend(
    kind: type[Loss], options: dict[str, Any], step: int, strength: float
) -> None:
    loss = made(kind, strength=2.0, warmup_steps=10, **options)
    whole = made(kind, strength=1.0, **options)
    person = unit_rows(13, 5, torch.Generator().manual_seed(2)).requires_grad_()
    features = random_features(person=person, step=step)

    def gradients(one: Loss) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value_of(one, features), (person, *one.parameters()))

    tower, *head = gradients(loss)
    full, *same_head = gradients(whole)
    torch.testing.assert_close(tower, strength * full)
    torch.testing.assert_close(head, same_head)  # the head is not held back
    before = float(value_of(whole, features).detach())
    moved = replace(features, person=(person - 1e-4 * full).detach())
    assert float(value_of(whole, moved).detach()) > before
    with torch.no_grad():
        for parameter, gradient in zip(whole.parameters(), same_head, strict=True):
            parameter -= 1e-4 * gradient
    assert float(value_of(whole, features).detach()) < before


def test_the_reversed_gradient_reaches_the_prompts() -> None:
    prompt = unit_rows(4, 5, torch.Generator().manual_seed(2)).requires_grad_()
    value_of(made(PromptAdversary, groups=3), random_features(prompt=prompt)).backward()
    assert prompt.grad is not None
    assert prompt.grad.any()


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_shares_of_the_groups_do_not_matter(kind: type[Loss], options: dict[str, Any]) -> None:
    features = random_features()
    loss = made(kind, **options)
    value = value_of(loss, features)
    order = torch.tensor([*range(13), 10, 11, 10, 11])  # the third group thrice
    names = ("person", "person_group", "person_attributes")
    repeated = replace(features, **{name: getattr(features, name)[order] for name in names})
    if kind is PromptAdversary or len(options["groups"]) == 1:
        torch.testing.assert_close(value_of(loss, repeated), value)
    for parameter in loss.parameters():
        nn.init.zeros_(parameter)
    known_nothing = math.log(3) if options["groups"] in (3, [3]) else math.log(3) + math.log(2)
    assert float(value_of(loss, features).detach()) == pytest.approx(known_nothing)


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("code", [0, -1])
def test_one_group_or_none_is_zero_with_a_graph(kind: type[Loss], options: dict[str, Any], code: int) -> None:
    loss = made(kind, **options)
    person = unit_rows(13, 5, torch.Generator()).requires_grad_()
    group = torch.full((13,), code)
    features = random_features(person=person, person_group=group, person_attributes=group[:, None].expand(-1, 2))
    value = value_of(loss, features)
    value.backward()
    assert float(value.detach()) == 0.0
    assert person.grad is not None
    assert not person.grad.any()
    for parameter in loss.parameters():  # each gets a gradient, else DistributedDataParallel waits for it
        assert parameter.grad is not None
        assert not parameter.grad.any()


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_head_depends_on_the_seed_alone(kind: type[Loss], options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = [*made(kind, seed=1, **options).parameters()]
    assert torch.equal(torch.rand(3), expected)
    again, other = [*made(kind, seed=1, **options).parameters()], [*made(kind, seed=2, **options).parameters()]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_mistakes_are_named() -> None:
    features = random_features()
    with pytest.raises(LossError, match=r"no head yet: call prepare"):
        PromptAdversary(groups=3)(features)
    with pytest.raises(LossError, match=r"no heads yet: call prepare"):
        AttributeAdversary(groups=[3])(features)
    with pytest.raises(LossError, match=r"set model\.prompts\.neutral"):
        PromptAdversary().prepare(5, 0)
    with pytest.raises(LossError, match=r"all 9 neutral prompts .* given 4: set model\.prompts\.per_step = 0"):
        made(PromptAdversary, prompts=9, groups=3)(features)
    with pytest.raises(LossError, match=r"group number 2, but groups says that there are 2"):
        made(PromptAdversary, groups=2)(features)
    with pytest.raises(LossError, match=r"group number 2, but groups says that there are 2"):
        made(AttributeAdversary, groups=[2])(features)
    with pytest.raises(LossError, match=r"groups gives 3 attributes, but data\.attribute has 2"):
        made(AttributeAdversary, groups=[3, 2, 2])(features)
    with pytest.raises(LossError, match=r"data\.people"):
        made(AttributeAdversary, groups=[3])(random_features(person=None))
    with pytest.raises(LossError, match="groups must be a finite number of at least 2; got 1"):
        PromptAdversary(groups=1)
    with pytest.raises(LossError, match="groups is empty"):
        AttributeAdversary(groups=[])


@pytest.mark.parametrize("kind", [PromptAdversary, AttributeAdversary])
def test_training_against_it_hides_the_group(kind: type[Loss]) -> None:
    """People carry a coordinate that tells their group; a linear tower learns to drop it, and keeps the content."""
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(240) % 2
    content = torch.randn(240, 5, generator=generator, dtype=torch.float64)
    pixels = torch.cat([4.0 * group[:, None] - 2.0 + torch.zeros(240, 1).double(), content], dim=1)
    prompt = torch.eye(6, dtype=torch.float64)[:4] + 0.3
    options: dict[str, Any] = {"groups": 2} if kind is PromptAdversary else {"groups": [2], "hidden": 0}
    loss = made(kind, width=6, **options)
    tower = torch.eye(6, dtype=torch.float64, requires_grad=True)

    def displacement() -> float:
        read = nn.functional.normalize(pixels @ tower, dim=1).detach()
        read = read @ prompt.T if kind is PromptAdversary else read
        return float((read[group == 1].mean(dim=0) - read[group == 0].mean(dim=0)).norm())

    before = displacement()
    optimizer = torch.optim.Adam([{"params": [tower], "lr": 0.01}, {"params": loss.parameters(), "lr": 0.01}])
    late = []
    for step in range(400):
        person = nn.functional.normalize(pixels @ tower, dim=1)
        features = random_features(width=6, person=person, person_group=group, prompt=prompt)
        keep = (person[:, 1:] - nn.functional.normalize(content, dim=1)).square().sum(dim=1).mean()
        optimizer.zero_grad()
        (value_of(loss, features) + keep).backward()
        optimizer.step()
        if step >= 300 and step % 20 == 0:
            late.append(displacement())
    assert before > 0.8
    assert np.mean(late) < 0.35 * before
