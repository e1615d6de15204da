from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from tiny_retriever import TEXT, VISION, tiny

from models import OpenClipRetriever
from models.short_text import STEP, cut, encode, short_tower

CAPTIONS = ["a dog", "two large dogs that run along a beach near the sea", "", "cat " * 40]
LONG = TEXT | {"context_length": 40}

# What open_clip can be asked for, and whether its output is read off the end of a causal tower.
TOWERS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "causal": ({}, LONG, True),
    "causal, linear projection with bias": ({}, LONG | {"proj_bias": True}, True),
    "causal, tower of its own": ({"custom_text": True}, LONG, True),
    "causal, custom blocks": ({"custom_text": True}, LONG | {"ls_init_value": 0.1}, True),
    "both ways": ({"custom_text": True}, LONG | {"no_causal_mask": True}, False),
    "causal, normalised queries and keys": ({"custom_text": True}, LONG | {"qk_norm": True}, True),
    "last token": ({"custom_text": True}, LONG | {"pool_type": "last"}, False),
    "first token": ({"custom_text": True}, LONG | {"pool_type": "first"}, False),
    "class token": ({"custom_text": True}, LONG | {"embed_cls": True}, False),
}


def retriever(folder: Path, name: str) -> OpenClipRetriever:
    top, text, _ = TOWERS[name]
    config = folder / "tower.json"
    config.write_text(json.dumps({"embed_dim": 12, "vision_cfg": VISION["vit"], "text_cfg": text, **top}))
    torch.manual_seed(3)
    return OpenClipRetriever(config=str(config)).double().eval()


@pytest.mark.parametrize("name", TOWERS)
def test_captions_come_out_as_from_the_full_context(tmp_path: Path, name: str) -> None:
    ours = retriever(tmp_path, name)
    weight = torch.randn(len(CAPTIONS), 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for captions in (CAPTIONS, CAPTIONS[:1], CAPTIONS[:3], CAPTIONS[3:]):
        full = open_clip.tokenize(captions, context_length=40)
        wanted = torch.nn.functional.normalize(ours.model.encode_text(full).float(), dim=-1)
        parameters = [p for n, p in ours.named_parameters() if ours.tower_of(n) == "text"]
        wanted_gradient = torch.autograd.grad((wanted * weight[: len(captions)]).sum(), parameters, allow_unused=True)
        tokens = ours.tokenize(captions)
        for given in (tokens, full):
            found = ours.encode_text(given)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)
            gradient = torch.autograd.grad((found * weight[: len(captions)]).sum(), parameters, allow_unused=True)
            for mine, theirs in zip(gradient, wanted_gradient, strict=True):
                assert (mine is None) == (theirs is None)
                if mine is not None and theirs is not None:
                    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
        short = TOWERS[name][2]
        assert (short_tower(ours.model) is not None) == short
        assert tokens.shape[1] == (min(40, -(-int((full > 0).sum(1).max()) // STEP) * STEP) if short else 40)


@pytest.mark.parametrize("name", [name for name, (_, _, short) in TOWERS.items() if short])
def test_what_stands_behind_the_end_is_never_read(tmp_path: Path, name: str) -> None:
    tower: Any = short_tower(retriever(tmp_path, name).model)
    tokens = open_clip.tokenize(CAPTIONS[:3], context_length=40)
    noise = torch.randint(1, 49000, tokens.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(encode(tower, torch.where(tokens > 0, tokens, noise)), encode(tower, cut(tokens)))


def test_a_tower_that_somebody_changed_keeps_the_full_context(tmp_path: Path) -> None:
    ours = tiny(tmp_path)

    class Mine(type(ours.model)):  # type: ignore[misc]
        pass

    ours.model.__class__ = Mine
    assert short_tower(ours.model) is None


def test_frozen_text_has_no_gradient(tmp_path: Path) -> None:
    ours = tiny(tmp_path, lock_text=True)
    assert not ours.encode_text(ours.tokenize(["a dog"])).requires_grad
