"""One token of the last block is what the whole tower makes of it, forward and backward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_retriever import TEXT, VISION
from torch.utils.flop_counter import FlopCounterMode

from models import OpenClipRetriever
from models.last_block import class_token_tower, encode_class_token, reads_one_token, transform_one

VIT = VISION["vit"]
CAUSAL = torch.full((9, 9), float("-inf")).triu_(1)


def visual(folder: Path, **changes: Any) -> Any:
    config = folder / "tower.json"
    config.write_text(json.dumps({"embed_dim": 12, "vision_cfg": VIT | changes, "text_cfg": TEXT}))
    torch.manual_seed(3)
    return OpenClipRetriever(config=str(config)).double().model.visual


@pytest.mark.parametrize(
    "changes",
    [{}, {"ls_init_value": 0.1}, {"final_ln_after_pool": True}, {"layers": 1}, {"no_ln_pre": True}],
    ids=["plain", "layer scale", "norm after pooling", "one block", "no first norm"],
)
def test_a_picture_comes_out_as_from_the_whole_tower(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = visual(tmp_path, **changes)
    tower = class_token_tower(whole)
    assert tower is not None
    pixels = torch.randn(5, 3, *whole.image_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, wanted = encode_class_token(tower, pixels), whole(pixels)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    weight = torch.randn(wanted.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parameters = list(whole.parameters())
    mine, theirs = (torch.autograd.grad((out * weight).sum(), parameters) for out in (found, wanted))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mask", [None, CAUSAL], ids=["sees all", "causal"])
def test_any_token_of_any_row_can_be_read(tmp_path: Path, mask: torch.Tensor | None) -> None:
    transformer = visual(tmp_path).transformer
    x = torch.randn(4, 9, transformer.width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    token = torch.tensor([8, 0, 3, 5])
    whole = transformer(x, attn_mask=mask)
    torch.testing.assert_close(
        transform_one(transformer, x, token, mask), whole[torch.arange(4), token], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    "changes", [{"pool_type": "avg"}, {"attentional_pool": True, "attn_pooler_heads": 2}, {"output_tokens": True}]
)
def test_towers_that_read_more_than_one_token_are_left_alone(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert class_token_tower(visual(tmp_path, **changes)) is None


def test_who_watches_or_changes_a_block_sees_all_of_it(tmp_path: Path) -> None:
    whole = visual(tmp_path)
    assert reads_one_token(whole.transformer)
    for part in (whole.transformer.resblocks[-1], whole.transformer.resblocks[0], whole.transformer.resblocks[-1].mlp):
        handle = part.register_forward_hook(lambda *_: None)
        assert not reads_one_token(whole.transformer)
        handle.remove()
    assert reads_one_token(whole.transformer)
    whole.transformer.grad_checkpointing = True
    assert not reads_one_token(whole.transformer)
    whole.transformer.grad_checkpointing = False

    class Mine(type(whole.transformer.resblocks[-1])):  # type: ignore[misc]
        pass

    whole.transformer.resblocks[-1].__class__ = Mine
    assert not reads_one_token(whole.transformer)
    assert class_token_tower(torch.nn.Linear(1, 1)) is None


def test_it_is_less_work(tmp_path: Path) -> None:
    """Counted and not timed: of two blocks that are alike, all of the second but keys and values goes."""
    whole = visual(tmp_path, layers=2).float()
    pixels = torch.randn(4, 3, *whole.image_size)
    counts = []
    for run in (lambda: whole(pixels), lambda: encode_class_token(class_token_tower(whole), pixels)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.75 * counts[0]
