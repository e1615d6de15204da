"""The spelling projection forgets what is written and keeps what is shown, or the other way round."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_spelling import planted, seeing_and_reading
from tiny_retriever import random_images, tiny
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from models import ModelError
from models.erasure import fold
from models.remedies import FittedLinear, load_fitted, save_fitted
from models.text_remedies.spelling import (
    FORGET,
    LEARN,
    PAIRS,
    FittedSpelling,
    SpellingFeatures,
    SpellingProjection,
    chance,
    matching,
    within,
)

QUICK = SpellingProjection(steps=600, batch=64, rate=3e-3)


def wins(fitted: FittedSpelling | None, features: SpellingFeatures) -> float:
    """Share of the pictures with words that are nearer to their word than to their caption."""
    unit = normalize if fitted is None else fitted.reduced
    picture, word, caption = (unit(x) for x in (features.written, features.word, features.caption))
    return float(((picture * word).sum(1) > (picture * caption).sum(1)).double().mean())


def found(fitted: FittedSpelling | None, a: Tensor, b: Tensor) -> float:
    unit = normalize if fitted is None else fitted.reduced
    return float(((unit(a) @ unit(b).T).argmax(1) == torch.arange(len(a))).double().mean())


def test_it_forgets_to_spell_on_pictures_it_was_not_fitted_to() -> None:
    fitted, other = QUICK.fit(planted(seed=1)), planted(seed=2)
    assert wins(None, other) > 0.95
    assert wins(fitted, other) < 0.1
    assert found(fitted, other.image, other.caption) > 0.95
    see, read = seeing_and_reading()
    kept, left = (float((fitted.weight.float() @ basis).square().sum()) for basis in (see, read))
    # Of the k directions nearly all are of what is seen.
    assert kept > 0.9 * (kept + left)


def test_its_opposite_learns_to_spell() -> None:
    fitted, other = replace(QUICK, weights=LEARN).fit(planted(seed=1)), planted(seed=2)
    assert wins(fitted, other) > 0.95
    see, read = seeing_and_reading()
    kept, left = (float((fitted.weight.float() @ basis).square().sum()) for basis in (read, see))
    assert kept > 0.9 * (kept + left)
    assert all(LEARN[name] == -FORGET[name] for name in PAIRS)


def test_it_is_a_function_of_its_seed() -> None:
    short = replace(QUICK, steps=20)
    features = planted()
    torch.manual_seed(3)
    one = short.fit(features).weight
    torch.manual_seed(4)
    assert torch.equal(short.fit(features).weight, one)
    assert not torch.equal(replace(short, seed=1).fit(features).weight, one)


def test_the_cost_of_matching_against_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (normalize(torch.randn(5, 3, generator=generator, dtype=torch.float64)) for _ in range(2))
    ids = torch.tensor([0, 1, 0, 2, 3])
    cost = matching(a, b, ids, temperature=0.5)
    scores = a.numpy() @ b.numpy().T / 0.5
    for i in range(5):
        allowed = [j for j in range(5) if j == i or ids[j] != ids[i]]
        for side, row in enumerate((scores[i], scores[:, i])):
            expected = -row[i] + math.log(sum(math.exp(row[j]) for j in allowed))
            assert float(cost[side, i]) == pytest.approx(expected)
    np.testing.assert_allclose(chance(ids).numpy(), np.log([4, 5, 4, 5, 5]), rtol=1e-6)


def test_without_equal_ids_it_is_the_symmetric_cross_entropy_of_the_paper() -> None:
    a, b = (normalize(torch.randn(7, 4, generator=torch.Generator().manual_seed(s))) for s in (1, 2))
    target = torch.arange(7)
    expected = (cross_entropy(a @ b.T, target) + cross_entropy(b @ a.T, target)) / 2
    torch.testing.assert_close(matching(a, b, target, temperature=1.0).mean(), expected)


def test_what_is_to_be_forgotten_counts_no_further_than_chance() -> None:
    # At a sharp temperature an uncapped pair outweighs all others, and what was to be kept is lost.
    sharp, other = replace(QUICK, temperature=0.02), planted(seed=2, noise=0.3)
    features = planted(seed=1, noise=0.3)
    capped, uncapped = sharp.fit(features), replace(sharp, capped=False).fit(features)
    assert found(capped, other.image, other.caption) > 0.9
    assert found(uncapped, other.image, other.caption) < 0.5
    assert wins(capped, other) < 0.1


def test_maps_within_the_dimensions() -> None:
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root, projector = within(weight), within(weight, "projector")
    torch.testing.assert_close(root @ root, weight.T @ weight)
    torch.testing.assert_close(projector, weight.T @ weight)
    orthonormal = torch.linalg.qr(weight.T)[0].T
    torch.testing.assert_close(within(orthonormal), within(orthonormal, "projector"))
    with pytest.raises(ModelError, match="root or projector"):
        within(weight, "half")  # type: ignore[arg-type]


def test_the_root_has_the_cosines_of_the_projection() -> None:
    fitted, other = replace(QUICK, steps=50, gamma=0.0, width=5).fit(planted()), planted(seed=3)
    one, two = fitted.reduced(other.written), fitted.reduced(other.caption)
    image, text = fitted.image(normalize(other.written)), fitted.text(normalize(other.caption))
    assert image.shape == other.written.shape
    torch.testing.assert_close(image @ text.T, one @ two.T, rtol=0, atol=1e-5)
    # Without the term that keeps W orthogonal the projector is another map.
    both = replace(fitted, weight=fitted.weight * torch.linspace(0.5, 2, 5)[:, None])
    assert not torch.allclose(within(both.weight), within(both.weight, "projector"), atol=0.01)


def test_files(tmp_path: Path) -> None:
    fitted = replace(QUICK, steps=5, form="projector").fit(planted())
    save_fitted(tmp_path / "p.safetensors", fitted)
    read = load_fitted(tmp_path / "p.safetensors")
    assert isinstance(read, FittedSpelling)
    assert isinstance(read, FittedLinear)
    assert torch.equal(read.weight, fitted.weight)
    assert read.form == "projector"
    x = normalize(planted().image)
    assert torch.equal(read.image(x), fitted.image(x))
    assert torch.equal(read.text(x), fitted.text(x))
    assert read.metadata["weights"] == dict(FORGET)
    assert read.metadata["width"] == len(fitted.weight)


def test_folding_equals_applying(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    images, tokens = random_images(40, 16), retriever.tokenize([f"word {i}" for i in range(40)])
    with torch.no_grad():
        image, text = retriever.eval().encode_image(images), retriever.encode_text(tokens)
    generator = torch.Generator().manual_seed(0)
    other = [image + 0.1 * torch.randn(image.shape, generator=generator) for _ in range(3)]
    ids = torch.arange(40)
    fitted = replace(QUICK, steps=20).fit(SpellingFeatures(image, other[0], text, other[1], other[2], ids, ids))
    assert fitted.image_map is not None
    assert fitted.text_map is not None
    fold(retriever, fitted.image_map)
    fold(retriever, fitted.text_map, "text")
    with torch.no_grad():
        after = retriever.encode_image(images), retriever.encode_text(tokens)
    torch.testing.assert_close(after[0], fitted.image(image), rtol=0, atol=1e-5)
    torch.testing.assert_close(after[1], fitted.text(text), rtol=0, atol=1e-5)
    torch.testing.assert_close(after[0] @ after[1].T, fitted.reduced(image) @ fitted.reduced(text).T, rtol=0, atol=1e-5)


def test_mistakes_are_named() -> None:
    features = planted(20)
    for change, words in (
        ({"weights": {"picture-word": 1.0}}, "no pair 'picture-word'"),
        ({"weights": {"written-word": 0.0}}, "all weights are 0"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"gamma": -1.0}, "gamma is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"form": "other"}, "root or projector"),
    ):
        with pytest.raises(ModelError, match=words):
            replace(QUICK, **change)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="give 1 to 32"):
        replace(QUICK, width=40).fit(features)
    with pytest.raises(ModelError, match=r"word is \(20, 31\), but image is \(20, 32\)"):
        replace(features, word=features.word[:, :31])
    with pytest.raises(ModelError, match="rendered: row 3"):
        replace(features, rendered=features.rendered.clone().index_fill_(0, torch.tensor([3]), 0.0))
    with pytest.raises(ModelError, match="two or more of each"):
        replace(features, writing=torch.zeros(20, dtype=torch.int64))
    with pytest.raises(ModelError, match="one number a row"):
        replace(features, picture=torch.arange(19))
    with pytest.raises(ModelError, match="32 wide, not for"):
        replace(QUICK, steps=1).fit(features).reduced(torch.ones(2, 5))
