"""Contrastive losses a few rows at a time: the value and the gradients of the whole matrix, without the matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from random_features import random_features
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from losses import (
    Features,
    InfoNCE,
    Loss,
    LossError,
    ScoreDistribution,
    SigLIP,
    SourceMMD,
    TwoSourceContrastive,
)
from losses.contrastive import DUPLICATES

KINDS = {"infonce": InfoNCE, "siglip": SigLIP}


def value_and_gradients(loss: Loss, features: Features) -> list[Tensor]:
    inputs = [features.image, features.text, features.logit_scale, features.logit_bias]
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in inputs]
    given = dict(zip(("image", "text", "logit_scale", "logit_bias"), leaves, strict=True))
    (value,) = loss(replace(features, **given)).values()  # type: ignore[arg-type]
    found = torch.autograd.grad(3.0 * value, [t for t in leaves if t is not None], allow_unused=True)
    return [value.detach(), *(torch.zeros(()) if g is None else g for g in found)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("duplicates", DUPLICATES)
@pytest.mark.parametrize("rows", [None, slice(8, 16)])
def test_as_with_the_whole_matrix(kind: str, duplicates: Any, rows: slice | None) -> None:
    features = replace(random_features(rows=24), rows=rows)
    assert features.image.dtype == torch.float64
    wanted = value_and_gradients(KINDS[kind](duplicates), features)
    for chunk in (1, 5, 8, 24, 1000):
        found = value_and_gradients(KINDS[kind](duplicates, chunk=chunk), features)
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


RECOMPUTED: dict[str, Any] = {
    "two sources": lambda chunk: TwoSourceContrastive(chunk=chunk),
    "two sources, text to image": lambda chunk: TwoSourceContrastive("text_to_image", "negative", chunk=chunk),
    "distribution": lambda chunk: ScoreDistribution("all", order=2, min_count=2, chunk=chunk),
    # The median of distances is taken from a matrix of bounded size, whatever the chunk.
    "mmd": lambda chunk: SourceMMD(bandwidth=1.0, chunk=chunk),
    "mmd of pairs": lambda chunk: SourceMMD(pictures="pairs", bandwidth=0.7, unbiased=False, chunk=chunk),
}


def sum_and_gradients(loss: Loss, features: Features) -> list[Tensor]:
    names = ("image", "text", "twin", "logit_scale")
    leaves = {name: getattr(features, name).detach().clone().requires_grad_() for name in names}
    terms = loss(replace(features, **leaves))
    value = torch.stack([factor * term for factor, term in zip((1.0, 3.0), terms.values(), strict=False)]).sum()
    found = torch.autograd.grad(value, [*leaves.values()], allow_unused=True)
    return [value.detach(), *(torch.zeros(()) if g is None else g for g in found)]


@pytest.mark.parametrize("kind", RECOMPUTED)
@pytest.mark.parametrize("rows", [None, slice(8, 16)])
def test_debias_terms_are_those_of_the_whole_matrix(kind: str, rows: slice | None) -> None:
    features = replace(random_features(rows=24), rows=rows)
    wanted = sum_and_gradients(RECOMPUTED[kind](0), features)
    assert wanted[0] != 0
    for chunk in (1, 5, 1000):
        found = sum_and_gradients(RECOMPUTED[kind](chunk), features)
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", RECOMPUTED)
def test_debias_terms_hold_no_more_than_a_chunk_needs(kind: str) -> None:
    features = random_features(rows=96, width=4)
    with Largest() as plain:
        sum_and_gradients(RECOMPUTED[kind](0), features)
    with Largest() as chunked:
        sum_and_gradients(RECOMPUTED[kind](4), features)
    assert chunked.numel < plain.numel / 8


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_no_tensor_is_larger_than_a_chunk_needs(kind: str, duplicates: Any) -> None:
    count, width, chunk = 96, 4, 8
    features = random_features(rows=count, width=width)
    with Largest() as plain:
        value_and_gradients(KINDS[kind](duplicates), features)
    with Largest() as chunked:
        value_and_gradients(KINDS[kind](duplicates, chunk=chunk), features)
    assert plain.numel == count * count
    assert chunked.numel == chunk * count


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    features = random_features(rows=12)
    with torch.no_grad():
        value = InfoNCE(chunk=4)(features)["infonce"]
    assert not value.requires_grad
    torch.testing.assert_close(value, InfoNCE()(features)["infonce"])


def test_half_precision_is_scored_in_single() -> None:
    features = random_features(rows=12)
    half = replace(features, image=features.image.bfloat16(), text=features.text.bfloat16())
    single = replace(half, image=half.image.float(), text=half.text.float())
    for kind in KINDS.values():
        wanted = value_and_gradients(kind(), single)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = value_and_gradients(kind(chunk=4), half)
        assert found[1].dtype == torch.bfloat16
        torch.testing.assert_close(found[0], wanted[0])
        # A gradient is handed on in the embeddings' own precision, rounded once for each direction.
        for mine, theirs in zip(found[1:], wanted[1:], strict=True):
            torch.testing.assert_close(mine.float(), theirs.float(), rtol=0, atol=0.01 * float(theirs.abs().max()))


def test_a_negative_chunk_is_refused() -> None:
    for kind in KINDS.values():
        with pytest.raises(LossError, match="chunk"):
            kind(chunk=-1)
