"""SourceAdversary: the cross-entropy against sklearn's, the reversal, and what training against it does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_features import random_features
from sklearn.metrics import log_loss
from torch import Tensor
from torch.nn.functional import normalize

from losses import REAL, Features, LossError, SourceAdversary


def made(width: int = 5, seed: int = 0, **options: Any) -> SourceAdversary:
    loss = SourceAdversary(**options)
    loss.prepare(width, seed)
    return loss.double()


def pictures(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """All anchors and drawn twins, and whether each is generated."""
    assert features.twin is not None
    assert features.has_twin is not None
    fake = features.source != REAL
    embedding = torch.cat([features.image, features.twin[features.has_twin]])
    return embedding.numpy(), torch.cat([fake, ~fake[features.has_twin]]).numpy()


@pytest.mark.parametrize("condition", ["none", "caption"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_against_numpy_and_sklearn(head: Any, condition: Any) -> None:
    features = random_features()
    assert features.has_twin is not None
    loss = made(head=head, condition=condition, hidden=7)
    x, generated = pictures(features)
    if condition == "caption":
        text = torch.cat([features.text, features.text[features.has_twin]]).numpy()
        x = np.concatenate([x, math.sqrt(5) * x * text], axis=1)
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in loss.head if hasattr(m, "weight")]  # type: ignore[operator, union-attr]
    z = x * math.sqrt(5)
    for i, (weight, bias) in enumerate(layers):
        z = z @ weight.T + bias
        z = np.maximum(z, 0) if i < len(layers) - 1 else z
    weights = np.where(generated, 0.5 / generated.sum(), 0.5 / (~generated).sum())
    expected = log_loss(generated, 1 / (1 + np.exp(-z[:, 0])), sample_weight=weights)
    assert float(loss(features)["source_adversary"].detach()) == pytest.approx(expected)


def test_twins_of_a_stated_source() -> None:
    features = random_features(source=torch.zeros(12, dtype=torch.int64), twin_source=torch.full((12,), 2))
    assert features.twin is not None
    loss = made()
    value = loss(features)["source_adversary"]
    torch.testing.assert_close(value, loss(replace(features, twin_source=None))["source_adversary"])
    photos = loss(replace(features, twin_source=torch.zeros(12, dtype=torch.int64)))["source_adversary"]
    assert float(photos.detach()) == 0.0  # twins that are photos leave one source only


@pytest.mark.parametrize(("step", "strength"), [(0, 0.0), (3, 0.6), (10, 2.0), (11, 2.0)])
def test_the_head_descends_and_the_tower_ascends(step: int, strength: float) -> None:
    loss = made(strength=2.0, warmup_steps=10)
    assert loss.strength_at(step) == pytest.approx(strength)
    image = random_features().image.requires_grad_()
    weight = loss.head[0].weight

    def gradients(batch: Features, reverse: SourceAdversary) -> tuple[Tensor, ...]:
        return torch.autograd.grad(reverse(batch)["source_adversary"], (image, weight))

    tower, head = gradients(random_features(image=image, step=step), loss)
    whole = made(strength=1.0)
    whole.head = loss.head
    full, same_head = gradients(random_features(image=image, step=step), whole)
    torch.testing.assert_close(tower, strength * full)
    torch.testing.assert_close(head, same_head)  # the head is not held back
    # A step along the tower's gradient makes the head's work harder, one along the head's makes it better.
    before = float(whole(random_features(image=image.detach()))["source_adversary"].detach())
    moved = random_features(image=(image - 1e-3 * full).detach())
    assert float(whole(moved)["source_adversary"].detach()) > before
    with torch.no_grad():
        weight -= 1e-3 * same_head
    assert float(whole(random_features(image=image.detach()))["source_adversary"].detach()) < before


def test_shares_of_the_sources_do_not_matter() -> None:
    """A head that knows nothing costs log 2 at any share, and repeating one source changes nothing."""
    loss = made()
    features = random_features(rows=6, source=torch.tensor([0, 0, 0, 0, 0, 1]), twin=None, has_twin=None)
    order = torch.tensor([0, 1, 2, 3, 4, 5, 5, 5])
    repeated = replace(
        features,
        **{name: getattr(features, name)[order] for name in ("image", "text", "source", "group", "caption_id")},
    )
    torch.testing.assert_close(loss(repeated)["source_adversary"], loss(features)["source_adversary"])
    torch.nn.init.zeros_(loss.head[-1].weight)
    assert float(loss(features)["source_adversary"].detach()) == pytest.approx(math.log(2))


@pytest.mark.parametrize("source", [0, 1])
def test_one_source_is_zero_with_a_graph(source: int) -> None:
    loss = made()
    image = random_features().image.requires_grad_()
    features = random_features(image=image, source=torch.full((12,), source), twin=None, has_twin=None)
    value = loss(features)["source_adversary"]
    value.backward()
    assert float(value.detach()) == 0.0
    assert image.grad is not None
    assert not image.grad.any()
    for parameter in loss.parameters():  # each gets a gradient, else DistributedDataParallel waits for it
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_one_row_of_each_source() -> None:
    features = random_features(rows=2, source=torch.tensor([0, 1]), twin=None, has_twin=None)
    assert float(made()(features)["source_adversary"].detach()) > 0


def test_the_head_depends_on_the_seed_alone_and_leaves_torchs_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = made(seed=1)
    assert torch.equal(torch.rand(3), expected)
    torch.rand(5)
    again, other = made(seed=1), made(seed=2)
    assert torch.equal(first.head[0].weight, again.head[0].weight)
    assert not torch.equal(first.head[0].weight, other.head[0].weight)


def test_training_against_it_hides_the_source() -> None:
    """Pictures carry a coordinate that tells their source; a linear tower learns to drop it, and keeps the content."""
    generator = torch.Generator().manual_seed(0)
    rows = 256
    content = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    source = torch.arange(rows) % 2
    mark = (2.0 * source - 1).double().unsqueeze(1) + 0.1 * torch.randn(rows, 1, generator=generator).double()
    pixels = torch.cat([content, mark], dim=1)
    tower = torch.eye(4, dtype=torch.float64, requires_grad=True)
    loss = made(width=4, head="linear", strength=1.0)

    def displacement() -> float:
        embedding = normalize(pixels @ tower, dim=1).detach()
        return float((embedding[source == 1].mean(dim=0) - embedding[source == 0].mean(dim=0)).norm())

    before = displacement()
    optimizer = torch.optim.Adam([{"params": [tower], "lr": 0.01}, {"params": loss.parameters(), "lr": 0.05}])
    for _ in range(400):
        optimizer.zero_grad()
        image = normalize(pixels @ tower, dim=1)
        features = random_features(
            rows=rows, width=4, image=image, source=source, twin=None, has_twin=None, text=image.detach()
        )
        keep = (image[:, :3] - normalize(content, dim=1)).square().sum(dim=1).mean()
        (loss(features)["source_adversary"] + keep).backward()
        optimizer.step()
    assert displacement() < 0.15 * before


def test_half_precision_is_judged_in_full() -> None:
    loss = SourceAdversary()
    loss.prepare(5, 0)
    features = random_features()
    features = replace(features, image=features.image.float(), twin=None, has_twin=None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(features)["source_adversary"]
    torch.testing.assert_close(inside, loss(features)["source_adversary"])


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(LossError, match=r"no head yet: call prepare\(embed_dim, seed\)"):
        SourceAdversary()(random_features())
    image = random_features().image.clone()
    image[0] = float("nan")
    with pytest.raises(LossError, match=r"features\.image \(1 of 12 rows, first: 0\)"):
        made()(random_features(image=image))
    for options, message in (
        ({"head": "conv"}, "head must be one of 'linear', 'mlp'; got 'conv'"),
        ({"condition": "class"}, "condition must be one of 'none', 'caption'; got 'class'"),
        ({"hidden": 0}, "hidden must be a finite number above 0; got 0"),
        ({"strength": -1.0}, "strength must be a finite number of at least 0"),
        ({"warmup_steps": -1}, "warmup_steps must be a finite number of at least 0"),
    ):
        with pytest.raises(LossError, match=f"SourceAdversary: {message}"):
            SourceAdversary(**options)  # type: ignore[arg-type]
