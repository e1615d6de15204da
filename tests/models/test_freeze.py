from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_retriever import make_batch, random_images, tiny
from torch.nn.modules.batchnorm import _BatchNorm

from models import OpenClipRetriever
from models.freeze import image_groups


def trained(retriever: OpenClipRetriever, tower: str) -> set[str]:
    return {n for n, p in retriever.named_parameters() if p.requires_grad and retriever.tower_of(n) == tower}


def step(retriever: OpenClipRetriever) -> None:
    """One step of any kind that moves everything that can move, statistics too."""
    retriever.train()
    batch = make_batch(retriever)
    loss = (retriever.encode_image(batch["image"]) * retriever.encode_text(batch["tokens"])).sum()
    (loss * retriever.logit_scale).backward()
    torch.optim.SGD(retriever.parameters(), lr=1.0).step()


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
def test_groups_are_the_whole_tower_and_disjoint(tmp_path: Path, kind: str) -> None:
    visual = tiny(tmp_path, kind).model.visual
    members = [m for group in image_groups(visual) for m in group]
    found = [id(p) for m in members for p in ([m] if isinstance(m, torch.nn.Parameter) else m.parameters())]
    assert sorted(found) == sorted(id(p) for p in visual.parameters())


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
def test_a_locked_tower_does_not_move(tmp_path: Path, kind: str) -> None:
    retriever = tiny(tmp_path, kind, lock_image=True)
    images = random_images(2, retriever.image_size[0], seed=9)
    before = {n: t.clone() for n, t in retriever.state_dict().items()}
    embedded = retriever.eval().encode_image(images)
    step(retriever)
    for name, tensor in retriever.state_dict().items():
        if name.startswith("model.visual."):
            assert torch.equal(tensor, before[name]), name
    assert torch.equal(retriever.eval().encode_image(images), embedded)
    assert not embedded.requires_grad
    assert not torch.equal(retriever.model.logit_scale, before["model.logit_scale"])


def test_the_last_groups_of_a_transformer_move(tmp_path: Path) -> None:
    assert trained(tiny(tmp_path, lock_image=True, unlocked_groups=1), "image") == {"model.visual.proj"}
    two = trained(tiny(tmp_path, lock_image=True, unlocked_groups=2), "image")
    assert "model.visual.ln_post.weight" in two
    assert {n.split(".")[4] for n in two if "resblocks" in n} == {"1"}


def test_the_last_groups_of_a_residual_network_move(tmp_path: Path) -> None:
    names = trained(tiny(tmp_path, "resnet", lock_image=True, unlocked_groups=2), "image")
    assert {name.split(".")[2] for name in names} == {"layer4", "attnpool"}


def test_the_first_group_of_a_timm_tower_is_its_projection(tmp_path: Path) -> None:
    assert {n.split(".")[2] for n in trained(tiny(tmp_path, "timm", lock_image=True, unlocked_groups=1), "image")} == {
        "head"
    }
    names = trained(tiny(tmp_path, "timm", lock_image=True, unlocked_groups=2), "image")
    assert {n.split(".")[2] for n in names} == {"head", "trunk"}
    assert names < trained(tiny(tmp_path, "timm"), "image")


@pytest.mark.parametrize("freeze_bn_stats", [True, False])
def test_statistics_of_frozen_batch_norms(tmp_path: Path, freeze_bn_stats: bool) -> None:
    retriever = tiny(tmp_path, "resnet", lock_image=True, unlocked_groups=2, freeze_bn_stats=freeze_bn_stats)
    step(retriever)
    moved = {
        name.split(".")[0]: int(module.num_batches_tracked) > 0  # type: ignore[arg-type]
        for name, module in retriever.model.visual.named_modules()
        if isinstance(module, _BatchNorm)
    }
    assert moved["layer4"]
    assert moved["bn1"] == moved["layer1"] == (not freeze_bn_stats)


@pytest.mark.parametrize("locked", [{}, {"lock_image": True, "unlocked_groups": 2}], ids=["all trained", "locked"])
def test_statistics_of_all_batch_norms_are_kept(tmp_path: Path, locked: dict[str, Any]) -> None:
    retriever = tiny(tmp_path, "resnet", freeze_bn_stats="all", **locked)
    images = random_images(4, retriever.image_size[0], seed=3)
    in_evaluation = retriever.eval().encode_image(images)
    in_training = retriever.train().encode_image(images)
    torch.testing.assert_close(in_training, in_evaluation)
    assert not torch.allclose(tiny(tmp_path, "resnet", **locked).train().encode_image(images), in_evaluation, atol=1e-3)
    before = {n: t.clone() for n, t in retriever.state_dict().items()}
    step(retriever)
    after = retriever.state_dict()
    statistics = [n for n in after if n.startswith("model.visual.") and ("running_" in n or "num_batches" in n)]
    assert statistics
    assert all(torch.equal(after[n], before[n]) for n in statistics)
    moved = {n for n in after if n.startswith("model.visual.layer4") and not torch.equal(after[n], before[n])}
    assert any(".bn" in n for n in moved)  # their weights are trained


def test_folded_statistics_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new tower's statistics look like folded ones; only of trained weights do they say anything."""
    path = tmp_path / "folded.safetensors"
    tiny(tmp_path, "resnet").save_weights(str(path))
    assert not caplog.messages

    def told(**options: Any) -> bool:
        caplog.clear()
        tiny(tmp_path, "resnet", pretrained=str(path), **options)
        return any("freeze_bn_stats: all" in message and str(path) in message for message in caplog.messages)

    assert told()
    assert told(lock_image=True, unlocked_groups=2)
    assert not told(lock_image=True)
    assert not told(freeze_bn_stats="all")
    retriever = tiny(tmp_path, "resnet")
    step(retriever)
    retriever.save_weights(str(path))
    assert not told()


def test_locked_text_tower(tmp_path: Path) -> None:
    assert trained(tiny(tmp_path, lock_text=True), "text") == set()
    assert trained(tiny(tmp_path, lock_text=True, unlocked_layers=1), "text") == {"model.text_projection"}
    retriever = tiny(tmp_path, lock_text=True)
    before = {n: p.clone() for n, p in retriever.named_parameters() if retriever.tower_of(n) == "text"}
    step(retriever)
    assert all(torch.equal(p, before[n]) for n, p in retriever.named_parameters() if n in before)
    assert before
