"""A batch in parts: the gradient of the whole, dropout included, without the whole's activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_retriever import TinyData, make_batch, tiny, trainer
from torch import Tensor, nn

from losses import InfoNCE, RankHinge
from models import LossTerm, ModelError, OptimizerConfig, RetrieverModule
from models.passes import in_passes


def module_of(retriever: Any, rows: int) -> RetrieverModule:
    losses = {"contrastive": LossTerm(InfoNCE()), "hinge": LossTerm(RankHinge(two_sided=True))}
    return RetrieverModule(retriever, losses, OptimizerConfig(lr=1e-3), encode_batch_size=rows)


def gradients(retriever: Any, batch: dict[str, Any], rows: int) -> dict[str, Tensor]:
    module = module_of(retriever, rows)
    features = module.features(batch)
    retriever.zero_grad()
    torch.stack([t for term in module.terms.values() for t in term.loss(features).values()]).sum().backward()
    return {name: p.grad.clone() for name, p in retriever.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_the_gradient_is_that_of_the_whole_batch(tmp_path: Path, rows: int) -> None:
    retriever = tiny(tmp_path).double()
    batch = make_batch(retriever, twins=(5, 0, 6))
    whole, parts = gradients(retriever, batch, 0), gradients(retriever, batch, rows)
    assert whole.keys() == parts.keys()
    assert "model.logit_scale" in parts  # which must count once, not once a part
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-7)


def test_accumulating_smaller_batches_is_another_objective(tmp_path: Path) -> None:
    """What the option is for: were it not so, the trainer's accumulation would do."""
    retriever = tiny(tmp_path).double()
    batch = make_batch(retriever, twins=(5, 0, 6))
    whole = gradients(retriever, batch, 0)["model.token_embedding.weight"]
    halves = [{k: v[part] for k, v in batch.items() if not k.startswith("twin")} for part in (slice(4), slice(4, 8))]
    module = RetrieverModule(retriever, {"contrastive": LossTerm(InfoNCE())})
    retriever.zero_grad()
    for half in halves:
        (module.terms["contrastive"].loss(module.features(half))["infonce"] / 2).backward()
    added = retriever.model.token_embedding.weight.grad
    assert torch.nn.functional.cosine_similarity(whole.flatten(), added.flatten(), dim=0) < 0.99


def test_random_numbers_are_drawn_once() -> None:
    layers = nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.5), nn.Linear(50, 4)).double()
    inputs = torch.randn(10, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for encode in (lambda x: in_passes(layers, x, 4), lambda x: torch.cat([layers(part) for part in x.split(4)])):
        torch.manual_seed(7)
        layers.zero_grad()
        out = encode(inputs)
        torch.rand(3)  # what is drawn in between must not matter
        out.square().sum().backward()
        found.append([out.detach(), *(p.grad.clone() for p in layers.parameters() if p.grad is not None)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_activations_of_one_part_are_held(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    images = torch.randint(0, 255, (32, 3, *retriever.image_size), dtype=torch.uint8)

    def held(rows: int) -> int:
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
            in_passes(retriever.encode_image, images, rows)
        return sum(kept)

    # What is left are the pictures themselves, of which everything is computed again.
    assert held(4) == images.numel() < held(0) / 5


def test_batch_norm_is_refused_unless_frozen(tmp_path: Path) -> None:
    data = TinyData([make_batch(tiny(tmp_path, "resnet"), twins=(0, 1))])
    with pytest.raises(ModelError, match=r"encode_batch_size.*batch norm \S+.*lock_image"):
        trainer(tmp_path, max_steps=1).fit(module_of(tiny(tmp_path, "resnet"), 4), data)
    trainer(tmp_path, max_steps=1).fit(module_of(tiny(tmp_path, "resnet", lock_image=True), 4), data)
    with pytest.raises(ModelError, match="encode_batch_size is -1"):
        module_of(tiny(tmp_path), -1)
