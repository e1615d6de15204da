"""AntiSync: value, null, which tower pays, and that it cannot be gamed."""

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

from losses import AntiSync, Features, LossError
from losses.anti_sync import Side

WORDS, WIDTH = 7, 5


def word_features(seed: int = 0, **changes: Any) -> Features:
    generator = torch.Generator().manual_seed(300 + seed)
    values = {name: unit_rows(WORDS, WIDTH, generator) for name in ("word_image", "word_text")}
    return replace(random_features(6, WIDTH, seed), **(values | changes))


@pytest.mark.parametrize("seed", range(4))
def test_against_numpy(seed: int) -> None:
    features = word_features(seed)
    picture, text = np.asarray(features.word_image), np.asarray(features.word_text)
    pairs = [(i, j, float(picture[i] @ text[j])) for i in range(WORDS) for j in range(WORDS)]
    null = np.mean([s for i, j, s in pairs if i != j])
    matched = [s for i, j, s in pairs if i == j]
    loss = AntiSync()
    assert float(loss(features)["anti_sync"]) == pytest.approx(np.mean([max(0.0, s - null) for s in matched]))
    assert float(loss.figures["sync"]) == pytest.approx(np.mean(matched))
    assert float(loss.figures["mismatched"]) == pytest.approx(null)
    assert any(s > null for s in matched)
    assert any(s < null for s in matched)


def test_closed_forms() -> None:
    axes = torch.eye(WORDS, dtype=torch.float64)
    reads = word_features(word_image=axes, word_text=axes)
    assert float(AntiSync()(reads)["anti_sync"]) == pytest.approx(1.0)  # 1 for its own word, 0 for all others
    one = axes[:1].expand(WORDS, WORDS)
    blind = word_features(word_image=one, word_text=one)
    assert float(AntiSync()(blind)["anti_sync"]) == pytest.approx(0.0, abs=1e-12)


def test_nothing_is_gained_below_the_null() -> None:
    """Pictures of words pushed to the far side of all text: the raw score falls, this term was at its floor before."""
    generator = torch.Generator().manual_seed(1)
    text = unit_rows(WORDS, WIDTH, generator)
    mean = F.normalize(text.mean(dim=0), dim=0)
    near, far = (word_features(word_image=(sign * mean).expand(WORDS, WIDTH), word_text=text) for sign in (1, -1))
    found = {}
    for name, features in (("near", near), ("far", far)):
        loss = AntiSync()
        found[name] = float(loss(features)["anti_sync"]), float(loss.figures["sync"])
    assert found["far"][1] < 0 < found["near"][1]
    # What is left is the spread of the words about their mean, the same on both sides of it.
    spread = (text @ mean - (text @ mean).mean()).abs().sum() / (2 * WORDS)
    assert found["near"][0] == pytest.approx(float(spread))
    assert found["far"][0] == pytest.approx(float(spread))


@pytest.mark.parametrize(("side", "pays"), [("both", {"image", "text"}), ("image", {"image"}), ("text", {"text"})])
def test_which_tower_pays(side: Side, pays: set[str]) -> None:
    features = word_features()
    assert features.word_image is not None
    assert features.word_text is not None
    picture, text = features.word_image.clone().requires_grad_(), features.word_text.clone().requires_grad_()
    value = AntiSync(side)(replace(features, word_image=picture, word_text=text))["anti_sync"]
    value.backward()
    torch.testing.assert_close(value, AntiSync()(features)["anti_sync"])
    assert {name for name, leaf in (("image", picture), ("text", text)) if leaf.grad is not None} == pays
    # The null is a number: words move along their own counterpart alone, and those below the null not at all.
    cosines = features.word_image @ features.word_text.T
    own = cosines.diagonal()
    above = own > (cosines.sum() - own.sum()) / (WORDS * (WORDS - 1))
    for leaf, other in ((picture, features.word_text), (text, features.word_image)):
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, other * above.unsqueeze(1) / WORDS)


def test_a_moving_null_leaves_what_words_have_in_common_alone() -> None:
    axes = torch.eye(WORDS, dtype=torch.float64)
    text = axes.clone().requires_grad_()  # every word is above the null
    value = AntiSync("text", floor="moving")(word_features(word_image=axes, word_text=text))["anti_sync"]
    value.backward()
    assert text.grad is not None
    assert float(value.detach()) == pytest.approx(1.0)
    # d/dt_j of mean_i s_ii less the mean of the others' s_ij.
    torch.testing.assert_close(text.grad, axes / WORDS - (1 - axes) / (WORDS * (WORDS - 1)))
    torch.testing.assert_close(text.grad.sum(dim=0), torch.zeros(WORDS, dtype=torch.float64))
    fixed = axes.clone().requires_grad_()
    AntiSync("text")(word_features(word_image=axes, word_text=fixed))["anti_sync"].backward()
    assert fixed.grad is not None
    assert bool((fixed.grad.sum(dim=0) > 0).all())


def test_descending_ends_at_the_null() -> None:
    generator = torch.Generator().manual_seed(5)
    picture = torch.randn(WORDS, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    text = unit_rows(WORDS, WIDTH, generator)
    optimizer, loss = torch.optim.Adam([picture], lr=0.05), AntiSync("image")

    def value() -> Tensor:
        return loss(word_features(word_image=F.normalize(picture, dim=1), word_text=text))["anti_sync"]

    before = float(value().detach())
    for _ in range(300):
        optimizer.zero_grad()
        value().backward()
        optimizer.step()
    assert before > 0.05
    assert float(value().detach()) < 0.1 * before


def test_without_words_above_the_null_the_graph_is_kept() -> None:
    picture = torch.ones(3, WIDTH, dtype=torch.float64) / math.sqrt(WIDTH)
    leaf = picture.clone().requires_grad_()
    value = AntiSync()(word_features(word_image=leaf, word_text=-picture))["anti_sync"]
    value.backward()
    assert leaf.grad is not None


def test_half_precision_is_scored_in_float32() -> None:
    features = word_features()
    assert features.word_image is not None
    assert features.word_text is not None
    half = replace(features, word_image=features.word_image.bfloat16(), word_text=features.word_text.bfloat16())
    assert AntiSync()(half)["anti_sync"].dtype == torch.float32


def test_requirements_and_mistakes() -> None:
    assert AntiSync().needs_words
    with pytest.raises(LossError, match=r"carries none: .*TextSpottingDataModule and set data\.rendered_words"):
        AntiSync()(random_features())
    one = torch.eye(1, WIDTH, dtype=torch.float64)
    with pytest.raises(LossError, match=r"there is 1: set data\.rendered_words to 2 or more"):
        AntiSync()(word_features(word_image=one, word_text=one))
    with pytest.raises(LossError, match="side must be one of 'both', 'image', 'text'; got 'none'"):
        AntiSync("none")  # type: ignore[arg-type]
    with pytest.raises(LossError, match="floor must be one of 'fixed', 'moving'; got 'free'"):
        AntiSync(floor="free")  # type: ignore[arg-type]
    broken = word_features().word_text
    assert broken is not None
    broken[3] = math.nan
    with pytest.raises(LossError, match=r"features\.word_text \(1 of 7 rows, first: 3\) came in NaN"):
        AntiSync()(word_features(word_text=broken))
