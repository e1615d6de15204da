"""Losses on pictures with a wrong word on them: against loops, closed forms, and who moves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_features import random_features, unit_rows
from torch import Tensor

from losses import Features, Loss, LossError, OverlayInvariance, TypographicNegative
from losses.overlay import Against, Target

ROWS, WIDTH = 9, 5


def overlay_features(seed: int = 0, **changes: Any) -> Features:
    """Nine rows, of which a third have no overlay."""
    generator = torch.Generator().manual_seed(200 + seed)
    has_edit = torch.arange(ROWS) % 3 != 1
    rows = has_edit.unsqueeze(1)
    values: dict[str, Any] = {
        name: unit_rows(ROWS, WIDTH, generator) * rows for name in ("edit", "edit_text", "edit_prompt")
    }
    values |= {"has_edit": has_edit, "edit_added": torch.ones(ROWS, dtype=torch.bool)}
    return replace(random_features(ROWS, WIDTH, seed), **(values | changes))


def numpy_of(features: Features, *names: str) -> list[np.ndarray]:
    return [np.asarray(getattr(features, name)) for name in names]


@pytest.mark.parametrize("target", ["teacher", "anchor"])
@pytest.mark.parametrize("seed", range(3))
def test_invariance_against_numpy(target: Target, seed: int) -> None:
    features = overlay_features(seed)
    overlay, has, clean = numpy_of(features, "edit", "has_edit", "teacher_image" if target == "teacher" else "image")
    expected = [1 - overlay[i] @ clean[i] for i in range(ROWS) if has[i]]
    value = OverlayInvariance(target)(features)["overlay_invariance"]
    assert float(value) == pytest.approx(sum(expected) / len(expected))


@pytest.mark.parametrize("against", ["both", "caption", "prompt"])
@pytest.mark.parametrize("seed", range(3))
def test_typographic_negative_against_numpy(against: Against, seed: int) -> None:
    features = overlay_features(seed)
    overlay, has, text, said, prompt = numpy_of(features, "edit", "has_edit", "text", "edit_text", "edit_prompt")
    wrong = {"both": [said, prompt], "caption": [said], "prompt": [prompt]}[against]
    values, wins = [], []
    for i in range(ROWS):
        if has[i]:
            scores = np.array([7.0 * (overlay[i] @ candidate[i]) for candidate in (text, *wrong)])
            values.append(-math.log(np.exp(scores[0]) / np.exp(scores).sum()))
            wins.append(scores[0] > scores[1:].max())
    loss = TypographicNegative(against)
    assert float(loss(features)["typographic_negative"]) == pytest.approx(np.mean(values))
    assert float(loss.figures["caption_wins"]) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize("seed", range(3))
def test_calibrated_scores_against_numpy(seed: int) -> None:
    features = overlay_features(seed)
    overlay, has, text, said, prompt = numpy_of(features, "edit", "has_edit", "text", "edit_text", "edit_prompt")
    rows, values = [i for i in range(ROWS) if has[i]], []
    for i in rows:
        scores = []
        for candidate in (text, said, prompt):
            others = [overlay[i] @ candidate[j] for j in rows if j != i]
            scores.append(7.0 * (overlay[i] @ candidate[i] - sum(others) / len(others)))
        values.append(-math.log(math.exp(scores[0]) / sum(math.exp(score) for score in scores)))
    assert float(TypographicNegative(calibrated=True)(features)["typographic_negative"]) == pytest.approx(
        np.mean(values)
    )


def test_what_all_wrong_choices_share_counts_for_nothing_once_calibrated() -> None:
    """A phrase that they all hold moves them together: the plain term falls, the calibrated one stays."""
    features = overlay_features()
    assert features.edit is not None
    assert features.edit_prompt is not None
    assert features.edit_text is not None
    away = -3 * features.edit.sum(dim=0)  # from the written pictures at large
    moved = replace(features, edit_prompt=features.edit_prompt + away, edit_text=features.edit_text + away)
    before, after = (TypographicNegative()(each)["typographic_negative"] for each in (features, moved))
    assert abs(float(after - before)) > 0.1
    loss = TypographicNegative(calibrated=True)
    torch.testing.assert_close(loss(moved)["typographic_negative"], loss(features)["typographic_negative"])
    alone = overlay_features(has_edit=torch.arange(ROWS) == 2)
    assert float(loss(alone)["typographic_negative"]) == 0


def test_closed_forms() -> None:
    features = overlay_features()
    assert features.edit is not None
    unmoved = replace(features, image=features.edit, teacher_image=features.edit)
    for target in ("teacher", "anchor"):
        turned = replace(unmoved, image=-unmoved.image, teacher_image=-features.edit)
        assert float(OverlayInvariance(target)(unmoved)["overlay_invariance"]) == pytest.approx(0.0, abs=1e-12)  # type: ignore[arg-type]
        assert float(OverlayInvariance(target)(turned)["overlay_invariance"]) == pytest.approx(2.0)  # type: ignore[arg-type]
    alike = replace(features, edit_text=features.text, edit_prompt=features.text)
    for against, choices in (("both", 3), ("caption", 2), ("prompt", 2)):
        loss = TypographicNegative(against)  # type: ignore[arg-type]
        assert float(loss(alike)["typographic_negative"]) == pytest.approx(math.log(choices))
        assert float(loss.figures["caption_wins"]) == 0  # ties are wrong
    assert float(TypographicNegative()(replace(alike, text=features.edit))["typographic_negative"]) < math.log(3)


def leaves_of(features: Features, *names: str) -> tuple[Features, dict[str, Tensor]]:
    leaves = {name: getattr(features, name).clone().requires_grad_() for name in names}
    return replace(features, **leaves), leaves


@pytest.mark.parametrize("target", ["teacher", "anchor"])
def test_invariance_moves_the_written_pictures_alone(target: Target) -> None:
    features, leaves = leaves_of(overlay_features(), "edit", "image", "teacher_image", "text")
    OverlayInvariance(target)(features)["overlay_invariance"].backward()
    assert features.has_edit is not None
    assert leaves["edit"].grad is not None
    assert torch.equal(leaves["edit"].grad.abs().sum(dim=1) > 0, features.has_edit)
    assert all(leaves[name].grad is None for name in ("image", "teacher_image", "text"))


@pytest.mark.parametrize("against", ["both", "caption", "prompt"])
def test_the_choice_moves_the_pictures_and_what_was_chosen_from(against: Against) -> None:
    names = ("edit", "text", "edit_text", "edit_prompt", "image", "logit_scale")
    features, leaves = leaves_of(overlay_features(), *names)
    TypographicNegative(against)(features)["typographic_negative"].backward()
    moved = {name for name in names if leaves[name].grad is not None}
    wrong = {"both": {"edit_text", "edit_prompt"}, "caption": {"edit_text"}, "prompt": {"edit_prompt"}}[against]
    assert moved == {"edit", "text"} | wrong  # the anchor is not read, and the scale is only a unit
    assert features.has_edit is not None
    for name in moved:
        assert leaves[name].grad is not None
        assert torch.equal(leaves[name].grad.abs().sum(dim=1) > 0, features.has_edit), name  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "loss",
    [OverlayInvariance(), OverlayInvariance("anchor"), TypographicNegative(), TypographicNegative(calibrated=True)],
)
def test_no_overlay_is_zero_with_a_graph(loss: Loss) -> None:
    nothing = torch.zeros(ROWS, dtype=torch.bool)
    empty = torch.zeros(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    features = overlay_features(has_edit=nothing, edit=empty, edit_text=empty, edit_prompt=empty)
    value = torch.stack(list(loss(features).values())).sum()
    value.backward()
    assert float(value.detach()) == 0
    assert empty.grad is not None
    assert not empty.grad.any()


def test_gradcheck() -> None:
    features = overlay_features()
    for loss, names in (
        (OverlayInvariance(), ("edit",)),
        (TypographicNegative(), ("edit", "text", "edit_text", "edit_prompt")),
        (TypographicNegative(calibrated=True), ("edit", "text", "edit_text", "edit_prompt")),
    ):
        given = tuple(getattr(features, name).clone().requires_grad_() for name in names)

        def value(*tensors: Tensor, loss: Loss = loss, names: tuple[str, ...] = names) -> Tensor:
            changed = replace(features, **dict(zip(names, tensors, strict=True)))  # type: ignore[arg-type]
            return torch.stack(list(loss(changed).values())).sum()

        assert torch.autograd.gradcheck(value, given)


def test_descending_lets_the_caption_win() -> None:
    generator = torch.Generator().manual_seed(3)
    leaves = [torch.randn(6, 8, generator=generator).requires_grad_() for _ in range(4)]
    ids, optimizer, loss = torch.arange(6), torch.optim.Adam(leaves, lr=0.05), TypographicNegative()
    for _ in range(100):
        text, edit, edit_text, edit_prompt = (F.normalize(leaf, dim=1) for leaf in leaves)
        features = Features(
            image=text, text=text, edit=edit, edit_text=edit_text, edit_prompt=edit_prompt, source=ids * 0, group=ids,
            logit_scale=torch.tensor(10.0), caption_id=ids, has_edit=ids >= 0, edit_added=ids >= 0,
        )  # fmt: skip
        optimizer.zero_grad()
        loss(features)["typographic_negative"].backward()
        optimizer.step()
    assert float(loss.figures["caption_wins"]) == 1.0


def test_requirements_and_mistakes() -> None:
    assert OverlayInvariance().needs_teacher
    assert not OverlayInvariance("anchor").needs_teacher
    assert OverlayInvariance().needs_edit
    assert not OverlayInvariance().needs_edit_prompt
    assert TypographicNegative().needs_edit_prompt
    assert not TypographicNegative("caption").needs_edit_prompt
    for loss in (OverlayInvariance(), TypographicNegative()):
        with pytest.raises(LossError, match=r"carries none: take datamodules\.text_spotting\.TextSpottingDataModule"):
            loss(random_features())
    with pytest.raises(LossError, match=r"frozen teacher's embeddings.*or take target='anchor'"):
        OverlayInvariance()(overlay_features(teacher_image=None))
    with pytest.raises(LossError, match=r"hold no edit_prompt: .*fill Features\.edit_prompt"):
        TypographicNegative()(overlay_features(edit_prompt=None))
    with pytest.raises(LossError, match="target must be one of 'teacher', 'anchor'; got 'ema'"):
        OverlayInvariance("ema")  # type: ignore[arg-type]
    with pytest.raises(LossError, match="against must be one of 'both', 'caption', 'prompt'; got 'word'"):
        TypographicNegative("word")  # type: ignore[arg-type]
    broken = overlay_features()
    assert broken.edit_prompt is not None
    prompt = broken.edit_prompt.clone()
    prompt[2] = math.nan
    with pytest.raises(LossError, match=r"features\.edit_prompt \(1 of 9 rows, first: 2\) came in NaN"):
        TypographicNegative()(replace(broken, edit_prompt=prompt))
