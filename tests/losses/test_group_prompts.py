"""Losses on prompts and on the frozen start: GroupSpread, KeepStart and JointAlignment against loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_features import random_features, unit_rows
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import Tensor

from losses import GroupSpread, JointAlignment, KeepStart, LossError

OF = np.array([0, 1, 2, 2, 1, 0])  # as in random_features


@pytest.mark.parametrize("spread", ["std", "range"])
def test_spread_against_a_loop(spread: Any) -> None:
    features = random_features()
    assert features.prompt is not None
    assert features.teacher_group_prompt is not None
    apart = []
    for query in features.prompt.numpy():
        near = [np.mean([query @ v for v in features.teacher_group_prompt.numpy()[g == OF]]) for g in range(3)]
        apart.append(np.std(near) if spread == "std" else max(near) - min(near))
    assert float(GroupSpread(spread)(features)["group_spread"]) == pytest.approx(np.mean(apart))


@pytest.mark.parametrize("spread", ["std", "range"])
def test_spread_gradcheck_and_its_zero(spread: Any) -> None:
    features = random_features()
    assert features.prompt is not None

    def value(prompt: Tensor) -> Tensor:
        return GroupSpread(spread)(replace(features, prompt=prompt))["group_spread"]

    assert torch.autograd.gradcheck(value, (features.prompt.clone().requires_grad_(),))
    # Where all groups are equally near the gradient is finite, and one group is nearer than no other.
    prompt = features.prompt.clone().requires_grad_()
    one = features.teacher_group_prompt[:1].expand(6, -1)  # type: ignore[index]
    for changes in ({"teacher_group_prompt": one}, {"group_prompt_of": torch.full((6,), 4)}):
        got = GroupSpread(spread)(replace(features, prompt=prompt, **changes))["group_spread"]  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(got, prompt)
        assert float(got.detach()) == pytest.approx(0.0, abs=1e-12)
        assert torch.isfinite(gradient).all()


def test_the_groups_prompts_are_not_moved() -> None:
    queries = unit_rows(6, 5, torch.Generator()).requires_grad_()
    features = random_features(group_prompt=queries)
    prompt = features.prompt.clone().requires_grad_()  # type: ignore[union-attr]
    value = GroupSpread()(replace(features, prompt=prompt))["group_spread"]
    assert torch.autograd.grad(value, queries, allow_unused=True) == (None,)


def test_keep_against_cosines() -> None:
    features = random_features()
    terms = KeepStart(of=["pictures", "captions", "people", "prompts", "group_prompts"])(features)
    pairs = {
        "keep_pictures": (features.image, features.teacher_image),
        "keep_captions": (features.text, features.teacher_text),
        "keep_people": (features.person, features.teacher_person),
        "keep_prompts": (features.prompt, features.teacher_prompt),
        "keep_group_prompts": (features.group_prompt, features.teacher_group_prompt),
    }
    assert terms.keys() == pairs.keys()
    for name, (now, start) in pairs.items():
        assert now is not None
        assert start is not None
        cosines = [float(a @ b) for a, b in zip(now, start, strict=True)]
        assert float(terms[name]) == pytest.approx(2 - 2 * np.mean(cosines)), name


def test_keep_asks_for_what_it_keeps() -> None:
    loss = KeepStart(of=["prompts"])
    assert (loss.needs_people, loss.needs_prompts, loss.needs_group_prompts, loss.needs_teacher) == (
        False, True, False, True,
    )  # fmt: skip
    with pytest.raises(LossError, match="embeddings of people, and the step's features hold none"):
        KeepStart()(random_features(teacher_person=None))
    with pytest.raises(LossError, match="of is empty"):
        KeepStart(of=[])
    with pytest.raises(LossError, match="of must be one of 'pictures', 'captions', 'people', 'prompts', 'group_"):
        KeepStart(of=["text"])  # type: ignore[list-item]
    person = torch.zeros(0, 5, dtype=torch.float64, requires_grad=True)
    none = random_features(person=person, person_group=torch.zeros(0, dtype=torch.int64), teacher_person=person)
    value = KeepStart()(none)["keep_people"]
    value.backward()
    assert float(value.detach()) == 0.0


def joint_by_hand(features: Any, tau: float) -> tuple[float, float]:
    """The two terms with loops, and scipy's softmax and relative entropy."""
    group = features.person_group.numpy()
    person, start = features.person.numpy(), features.teacher_person.numpy()
    now, first = features.group_prompt.numpy(), features.teacher_group_prompt.numpy()
    own = [np.flatnonzero(g == OF) for g in range(3)]  # the prompts of each group, in their order
    distillation, alignment = [], []
    for g in range(3):
        crosses, divergences = [], []
        for i in np.flatnonzero(group == g):
            q = softmax(first @ start[i] / tau)
            target = np.empty(6)
            for j in range(2):
                target[[rows[j] for rows in own]] = np.mean([q[rows[j]] for rows in own])
            crosses.append(-(target * log_softmax(now @ person[i] / tau)).sum())
            lost = (first[own[g]] - now[own[g]]).mean(axis=0)
            wanted = softmax(start @ lost / tau)
            found = softmax(start @ (start[i] - person[i]) / tau)
            divergences.append(entropy(wanted, found))
        distillation.append(np.mean(crosses))
        alignment.append(np.mean(divergences))
    return float(np.mean(distillation)), float(np.mean(alignment))


@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_joint_against_loops(tau: float) -> None:
    features = random_features()
    terms = JointAlignment(distillation=1.0, alignment=1.0, temperature=tau)(features)
    expected = joint_by_hand(features, tau)
    assert float(terms["joint_distillation"]) == pytest.approx(expected[0])
    assert float(terms["joint_alignment"]) == pytest.approx(expected[1])
    weighted = JointAlignment(temperature=tau)(features)
    assert float(weighted["joint_distillation"]) == pytest.approx(0.3 * expected[0])
    assert float(weighted["joint_alignment"]) == pytest.approx(0.7 * expected[1])


def test_the_expected_swap_is_the_mean_of_all_swaps() -> None:
    """With each caption swapped for that of the next groups in turn, and the target as it was."""
    features = random_features()
    assert features.group_prompt is not None
    terms = JointAlignment(distillation=1.0)(features)
    person, start = features.person.numpy(), features.teacher_person.numpy()  # type: ignore[union-attr]
    first = features.teacher_group_prompt.numpy()  # type: ignore[union-attr]
    own = np.array([np.flatnonzero(g == OF) for g in range(3)])
    costs = []
    for shift in range(3):
        swap = np.empty(6, dtype=int)
        swap[own] = np.roll(own, shift, axis=0)
        now = features.group_prompt.numpy()[swap]
        cost = -(softmax(start @ first.T / 0.07, axis=1) * log_softmax(person @ now.T / 0.07, axis=1)).sum(axis=1)
        costs.append(np.mean([cost[features.person_group.numpy() == g].mean() for g in range(3)]))  # type: ignore[union-attr]
    assert float(terms["joint_distillation"]) == pytest.approx(np.mean(costs))


def test_joint_gradients() -> None:
    features = random_features(width=3)
    leaves = tuple(getattr(features, name).clone().requires_grad_() for name in ("person", "group_prompt"))

    def value(person: Tensor, queries: Tensor) -> Tensor:
        # The target of the alignment gets no gradient: hold it where it is.
        terms = JointAlignment(alignment=0.0, temperature=0.5)(replace(features, person=person, group_prompt=queries))
        return terms["joint_distillation"]

    assert torch.autograd.gradcheck(value, leaves)

    def aligned(person: Tensor) -> Tensor:
        return JointAlignment(temperature=0.5)(replace(features, person=person))["joint_alignment"]

    assert torch.autograd.gradcheck(aligned, leaves[:1])
    person, queries = leaves
    alignment = JointAlignment()(replace(features, person=person, group_prompt=queries))["joint_alignment"]
    on_person, on_queries = torch.autograd.grad(alignment, (person, queries), allow_unused=True)
    assert on_person.any()
    assert on_queries is None


def test_joint_rests_where_both_sides_lost_nothing() -> None:
    features = random_features()
    same = replace(features, person=features.teacher_person, group_prompt=features.teacher_group_prompt)
    assert float(JointAlignment()(same)["joint_alignment"]) == pytest.approx(0.0, abs=1e-12)


def test_joint_mistakes_and_one_group() -> None:
    features = random_features()
    with pytest.raises(LossError, match=r"equally many prompts of every group.*\[3, 2, 1\]"):
        JointAlignment()(replace(features, group_prompt_of=torch.tensor([0, 0, 0, 1, 1, 2])))
    with pytest.raises(LossError, match=r"group number 2, but model\.prompts\.groups says that there are 2"):
        JointAlignment()(replace(features, group_prompt_of=torch.tensor([0, 0, 0, 1, 1, 1])))
    with pytest.raises(LossError, match="frozen teacher's embeddings of people"):
        JointAlignment()(replace(features, teacher_person=None))
    with pytest.raises(LossError, match=r"model\.prompts\.groups"):
        JointAlignment()(replace(features, group_prompt=None))
    person = unit_rows(13, 5, torch.Generator()).requires_grad_()
    group = torch.zeros(13, dtype=torch.int64)
    value = torch.stack([*JointAlignment()(replace(features, person=person, person_group=group)).values()]).sum()
    value.backward()
    assert float(value.detach()) == 0.0
    assert not person.grad.any()  # type: ignore[union-attr]
