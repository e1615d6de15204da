"""Heads trained on planted vectors: the gap between groups falls, ordinary retrieval stays, and runs repeat."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.errors import ModelError
from models.remedies.base import Calibration, Remedy
from models.remedies.trained_adversarial import AttributeResidual, PromptAdversaryResidual
from models.remedies.trained_heads import FittedHeads, ResidualMap
from models.remedies.trained_joint import JointResidual
from models.remedies.trained_saner import NeutralText
from models.remedies.trained_scores import ScoreMatching

WIDTH, PEOPLE, WORDS, PAIRS = 24, 400, 12, 150
QUICK: dict[str, Any] = {"steps": 150, "hidden": 48, "batch_size": 128, "learning_rate": 2e-3}
KINDS: list[tuple[type[Remedy], dict[str, Any]]] = [
    (ScoreMatching, {}),
    (ScoreMatching, {"side": "image"}),
    (ScoreMatching, {"side": "text", "order": 2}),
    (PromptAdversaryResidual, {"warmup_steps": 20}),
    (AttributeResidual, {"warmup_steps": 75, "steps": 300, "weight": 1.0}),
    (NeutralText, {}),
    (JointResidual, {"weight": 3.0}),
]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(groups: int = 2, seed: int = 0) -> Calibration:
    """Each group's pictures, and the queries that name it, lie along a direction of their own; words lean to some."""
    directions = torch.eye(WIDTH)[:groups]
    group = torch.arange(PEOPLE) % groups
    image = drawn(PEOPLE, WIDTH, seed=seed) / math.sqrt(WIDTH) + 0.5 * directions[group]
    words = drawn(WORDS, WIDTH, seed=1) / math.sqrt(WIDTH)
    words[:, :groups] = 0.7 * torch.eye(groups)[torch.arange(WORDS) % groups]
    named = drawn(2 * groups, WIDTH, seed=2) / math.sqrt(WIDTH)
    of = torch.arange(2 * groups) // 2
    named[:, :groups] = 1.5 * torch.eye(groups)[of]
    text = drawn(PAIRS, WIDTH, seed=3 + seed)
    pictures = text + 0.5 * drawn(PAIRS, WIDTH, seed=50 + seed)
    return Calibration(
        image=normalize(image, dim=1),
        group=group,
        labels=tuple(f"group {code}" for code in range(groups)),
        words=normalize(words, dim=1),
        group_prompts=normalize(named, dim=1),
        prompt_group=of,
        target=torch.full((groups,), 1 / groups, dtype=torch.float64),
        pair_image=normalize(pictures, dim=1),
        pair_text=normalize(text, dim=1),
        seed=seed,
    )


def gap(image: Tensor, words: Tensor, group: Tensor) -> float:
    """Mean over words of the largest share that a group has in the top fifth, beyond its share of all."""
    top = (words @ image.T).topk(len(image) // 5, dim=1).indices
    shares = np.stack([(group[top] == code).double().mean(dim=1).numpy() for code in group.unique().tolist()])
    return float((shares.max(axis=0) - 1 / len(shares)).mean())


def found(image: Tensor, text: Tensor) -> float:
    return float(((text @ image.T).argmax(dim=1) == torch.arange(len(text))).double().mean())


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda value: getattr(value, "__name__", None))
def test_the_gap_falls_on_other_people_and_ordinary_retrieval_stays(
    kind: type[Remedy], options: dict[str, Any]
) -> None:
    # Joint removal needs what is planted in words and pictures alike, and so makes named groups hard to find.
    calibration, other = planted(), planted(seed=7)
    fitted = kind(**{**QUICK, **options}).fit(calibration)
    before = gap(other.image, other.words, other.group)
    after = gap(fitted.image(other.image), fitted.text(other.words), other.group)
    assert before > 0.2
    assert after < 0.5 * before
    kept = found(other.pair_image, other.pair_text)
    assert kept > 0.95
    assert found(fitted.image(other.pair_image), fitted.text(other.pair_text)) > kept - 0.03


def test_more_groups_than_two() -> None:
    calibration, other = planted(groups=4), planted(groups=4, seed=7)
    fitted = ScoreMatching(**QUICK).fit(calibration)
    after = gap(fitted.image(other.image), fitted.text(other.words), other.group)
    assert after < 0.5 * gap(other.image, other.words, other.group)


def test_which_side_is_mapped() -> None:
    calibration = planted()
    for kind, options, pictures, queries in (
        (ScoreMatching, {"side": "image"}, True, False),
        (ScoreMatching, {"side": "text"}, False, True),
        (NeutralText, {}, False, True),
        (AttributeResidual, {}, True, False),
        (JointResidual, {}, True, True),
    ):
        fitted = kind(**{**QUICK, "steps": 3, **options}).fit(calibration)
        assert torch.equal(fitted.image(calibration.image), calibration.image) != pictures
        assert torch.equal(fitted.text(calibration.words), calibration.words) != queries
        assert fitted.linear() is None
        assert fitted.rank(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)) is None


def test_maps_begin_as_the_identity_and_give_unit_rows() -> None:
    one = ResidualMap(WIDTH, 16, torch.Generator().manual_seed(0))
    x = planted().image
    torch.testing.assert_close(one(x), x)
    torch.nn.init.normal_(one.outer.weight, generator=torch.Generator().manual_seed(1))
    hidden = np.maximum(math.sqrt(WIDTH) * x.numpy() @ one.inner.weight.detach().numpy().T, 0)
    expected = x.numpy() + hidden @ one.outer.weight.detach().numpy().T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(one(x).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "options"), [KINDS[0], KINDS[3], KINDS[6]])
def test_the_same_calibration_gives_the_same_maps_to_the_bit(kind: type[Remedy], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    first = kind(**{**QUICK, **options, "steps": 5}).fit(planted()).state()
    torch.manual_seed(1)  # what else draws numbers must not matter
    drawn_before = torch.get_rng_state()
    again = kind(**{**QUICK, **options, "steps": 5}).fit(planted()).state()
    assert torch.equal(torch.get_rng_state(), drawn_before)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = kind(**{**QUICK, **options, "steps": 5}).fit(replace(planted(), seed=3)).state()
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_they_are_made_again_from_their_state() -> None:
    calibration = planted()
    for kind in (ScoreMatching, AttributeResidual):
        fitted = kind(**{**QUICK, "steps": 3}).fit(calibration)
        again = FittedHeads.of(fitted.state(), fitted.metadata)
        assert torch.equal(again.image(calibration.image), fitted.image(calibration.image))
        assert torch.equal(again.text(calibration.words), fitted.text(calibration.words))
        assert again.metadata == fitted.metadata
        assert fitted.metadata["pictures"] == {"group 0": 200, "group 1": 200}
    half = fitted.image(calibration.image.double())
    assert half.dtype == torch.float64
    with pytest.raises(ModelError, match="24 wide, not for"):
        fitted.image(calibration.image[:, :5])


def test_vectors_of_inference_mode_can_be_fitted_to_and_inputs_are_left_alone() -> None:
    with torch.inference_mode():
        calibration = planted()
        kept = {name: value.clone() for name, value in vars(calibration).items() if isinstance(value, Tensor)}
        fitted = ScoreMatching(**{**QUICK, "steps": 3}).fit(calibration)
        assert not torch.equal(fitted.image(calibration.image), calibration.image)
    assert all(torch.equal(getattr(calibration, name), value) for name, value in kept.items())


def test_pairs_are_not_needed() -> None:
    none = torch.empty(0, WIDTH)
    calibration = replace(planted(), pair_image=none, pair_text=none)
    for kind in (ScoreMatching, NeutralText, AttributeResidual, JointResidual, PromptAdversaryResidual):
        kind(**{**QUICK, "steps": 2}).fit(calibration)


def test_what_is_missing_or_wrong_is_named() -> None:
    calibration = planted()
    none = torch.empty(0, WIDTH)
    for kind, change, message in (
        (ScoreMatching, {"words": none}, "ScoreMatching is fitted to words, but none were given"),
        (PromptAdversaryResidual, {"words": none}, "fitted to words"),
        (NeutralText, {"group_prompts": none, "prompt_group": torch.empty(0, dtype=torch.int64)}, "group_prompts"),
        (JointResidual, {"group_prompts": none, "prompt_group": torch.empty(0, dtype=torch.int64)}, "group_prompts"),
        (ScoreMatching, {"group": torch.zeros(PEOPLE, dtype=torch.int64)}, "group 'group 1' has no picture"),
        (
            AttributeResidual,
            {"group": torch.zeros(PEOPLE, dtype=torch.int64), "labels": ("group 0",)},
            "AttributeResidual compares groups, but there is one alone",
        ),
    ):
        with pytest.raises(ModelError, match=message):
            kind(**QUICK).fit(replace(calibration, **change))
    for options, message in (
        ({"side": "left"}, "side is 'left'"),
        ({"keep": -1.0}, "ScoreMatching: keep is -1.0"),
        ({"weight": math.nan}, "ScoreMatching: weight is nan"),
        ({"steps": 0}, "ScoreMatching: steps is 0"),
        ({"learning_rate": 0.0}, "ScoreMatching: learning_rate is 0.0"),
    ):
        with pytest.raises(ModelError, match=message):
            ScoreMatching(**options)
