"""The terms on pairs against plain loops, closed forms, and the degenerate cases."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from random_features import random_features

from losses import REAL, Features, Loss, LossError, PairwiseSoftmax, RankHinge
from losses.draw import draw_pairs

TERMS: list[type[RankHinge] | type[PairwiseSoftmax]] = [RankHinge, PairwiseSoftmax]


def value_of(loss: Loss, features: Features) -> torch.Tensor:
    (value,) = loss(features).values()
    return value


def gaps(features: Features) -> dict[int, float]:
    """Generated minus real cosine by row, for rows with a pair."""
    assert features.twin is not None
    assert features.has_twin is not None
    found = {}
    for i in features.has_twin.nonzero().flatten().tolist():
        anchor, twin = (float(features.text[i] @ other[i]) for other in (features.image, features.twin))
        found[i] = twin - anchor if features.source[i] == REAL else anchor - twin
    return found


@pytest.mark.parametrize(("unit", "factor"), [("logit", 7.0), ("cosine", 1.0)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_against_loops(unit: Any, factor: float, reduction: Any) -> None:
    features = random_features()
    gap = [factor * value for value in gaps(features).values()]
    count = len(gap) if reduction == "mean" else 1
    common: dict[str, Any] = {"unit": unit, "reduction": reduction}
    expected = {
        RankHinge(margin=0.3, **common): sum(max(0.0, d + 0.3) for d in gap),
        RankHinge(two_sided=True, margin=0.3, **common): sum(max(0.0, abs(d) - 0.3) for d in gap),
        RankHinge(squared=True, margin=0.3, **common): sum(max(0.0, d + 0.3) ** 2 for d in gap),
        RankHinge(two_sided=True, squared=True, **common): sum(d * d for d in gap),
        PairwiseSoftmax(beta=2.0, **common): sum(math.log1p(math.exp(2 * d)) for d in gap),
        PairwiseSoftmax(two_sided=True, **common): sum(
            (math.log1p(math.exp(d)) + math.log1p(math.exp(-d))) / 2 for d in gap
        ),
    }
    for loss, total in expected.items():
        assert float(value_of(loss, features)) == pytest.approx(total / count)


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("draw", ["bernoulli", "fixed"])
def test_a_draw_counts_its_pairs_only(kind: type[RankHinge], reduction: Any, draw: Any) -> None:
    """p sets the strength: the mean divides by all pairs, drawn or not."""
    features = random_features(rows=30)
    assert features.has_twin is not None
    drawn = draw_pairs(features.has_twin, 0.4, draw, seed=features.seed, step=features.step)
    loss = kind(p=0.4, draw=draw, reduction=reduction)
    kept = replace(features, has_twin=drawn)
    expected = value_of(kind(reduction="sum"), kept)
    if reduction == "mean":
        expected = expected / features.has_twin.sum()
    assert 0 < int(drawn.sum()) < int(features.has_twin.sum())
    torch.testing.assert_close(value_of(loss, features), expected)


@pytest.mark.parametrize("kind", TERMS)
def test_p_zero_and_no_pairs_are_zero_with_a_graph(kind: type[RankHinge]) -> None:
    features = random_features()
    nothing = torch.zeros_like(features.image)
    cases = [
        (kind(p=0.0), features),
        (kind(p=0.0, draw="fixed", reduction="sum"), features),
        (kind(p=0.1, draw="fixed"), features),  # floor(0.1 * 8) = 0
        (kind(), replace(features, twin=nothing, has_twin=torch.zeros(12, dtype=torch.bool))),
    ]
    for loss, batch in cases:
        image = features.image.clone().requires_grad_()
        value = value_of(loss, replace(batch, image=image))
        assert float(value.detach()) == 0.0
        value.backward()
        assert image.grad is not None
        assert image.grad.abs().sum() == 0


@pytest.mark.parametrize("kind", TERMS)
def test_p_one_is_every_pair_in_both_draws(kind: type[RankHinge]) -> None:
    features = random_features()
    torch.testing.assert_close(value_of(kind(p=1.0, draw="fixed"), features), value_of(kind(), features))


@pytest.mark.parametrize("kind", TERMS)
def test_anchor_and_twin_may_change_places(kind: type[RankHinge]) -> None:
    """`replace` mode: a generated anchor with its photo as twin is the same pair as the photo with its twin."""
    features = random_features(source=torch.zeros(12, dtype=torch.int64), has_twin=torch.ones(12, dtype=torch.bool))
    assert features.twin is not None
    swap = (torch.arange(12) % 2 == 0).unsqueeze(1)
    swapped = replace(
        features,
        source=swap.squeeze(1).long() * 2,
        image=torch.where(swap, features.twin, features.image),
        twin=torch.where(swap, features.image, features.twin),
    )
    torch.testing.assert_close(value_of(kind(), swapped), value_of(kind(), features))


def test_a_twin_of_the_same_kind_is_no_pair() -> None:
    features = random_features(source=torch.tensor([0, 2, 1] * 4))
    assert features.has_twin is not None
    photo_to_photo = replace(features, twin_source=torch.zeros(12, dtype=torch.int64))
    only = replace(features, has_twin=features.has_twin & (features.source != REAL))
    torch.testing.assert_close(value_of(RankHinge(), photo_to_photo), value_of(RankHinge(), only))


def test_two_sided_is_blind_to_which_source_leads() -> None:
    features = random_features(source=torch.zeros(12, dtype=torch.int64))
    mirrored = replace(features, source=torch.ones(12, dtype=torch.int64))
    for kind in TERMS:
        torch.testing.assert_close(value_of(kind(two_sided=True), mirrored), value_of(kind(two_sided=True), features))
        assert not torch.allclose(value_of(kind(), mirrored), value_of(kind(), features))


def test_one_sided_pushes_the_photo_up_and_the_generated_picture_down() -> None:
    image = torch.tensor([[0.6, 0.8]], dtype=torch.float64, requires_grad=True)
    twin = torch.tensor([[0.8, 0.6]], dtype=torch.float64, requires_grad=True)
    one = torch.zeros(1, dtype=torch.int64)
    features = random_features(
        rows=2, width=2, image=image, twin=twin, text=torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        source=one, group=one, caption_id=one, has_twin=torch.tensor([True]),
    )  # fmt: skip
    value_of(RankHinge(), features).backward()
    assert image.grad is not None
    assert twin.grad is not None
    assert image.grad.tolist() == [[-7.0, 0.0]]
    assert twin.grad.tolist() == [[7.0, 0.0]]


def test_softmax_tends_to_the_hinge() -> None:
    features = random_features()
    beta = 1e4
    torch.testing.assert_close(
        value_of(PairwiseSoftmax(beta=beta), features) / beta, value_of(RankHinge(), features), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("kind", TERMS)
def test_the_logit_scale_gets_no_gradient(kind: type[RankHinge]) -> None:
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    image = random_features().image.requires_grad_()
    value_of(kind(), random_features(logit_scale=scale, image=image)).backward()
    assert scale.grad is None


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("kind", TERMS)
def test_gradcheck(kind: type[RankHinge], two_sided: bool) -> None:
    features = random_features(rows=6, width=3)
    assert features.twin is not None
    leaves = tuple(x.clone().requires_grad_() for x in (features.image, features.text, features.twin))

    def value(image: torch.Tensor, text: torch.Tensor, twin: torch.Tensor) -> torch.Tensor:
        return value_of(kind(two_sided=two_sided, p=0.7), replace(features, image=image, text=text, twin=twin))

    assert torch.autograd.gradcheck(value, leaves)


def test_a_batch_without_twins_says_what_to_do() -> None:
    assert RankHinge.needs_twin
    with pytest.raises(LossError, match="twin_share"):
        RankHinge()(random_features(twin=None, has_twin=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.5}, r"p is a share and must lie in \[0, 1\]; got 1.5"),
        ({"p": float("nan")}, "p is a share"),
        ({"draw": "normal"}, "draw must be one of 'bernoulli', 'fixed'; got 'normal'"),
        ({"reduction": "max"}, "reduction must be one of"),
        ({"unit": "degree"}, "unit must be one of"),
    ],
)
@pytest.mark.parametrize("kind", TERMS)
def test_wrong_options_are_named(kind: type[RankHinge], options: dict[str, Any], message: str) -> None:
    with pytest.raises(LossError, match=f"{kind.__name__}: {message}"):
        kind(**options)


def test_margin_and_beta_have_a_lower_end() -> None:
    with pytest.raises(LossError, match=r"margin must be a finite number of at least 0; got -0\.1"):
        RankHinge(margin=-0.1)
    with pytest.raises(LossError, match="beta must be a finite number above 0; got 0"):
        PairwiseSoftmax(beta=0)
