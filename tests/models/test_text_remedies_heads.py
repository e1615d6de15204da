"""Taking heads out of a ViT: exactly what they write to the class token, and nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_retriever import TEXT, random_images, tiny
from torch import Tensor, nn

from models import ModelError, OpenClipRetriever
from models.text_remedies.heads import (
    AblatedAttention,
    ablate,
    ablated,
    ablated_heads,
    bottom_rows,
    choose_heads,
    class_attention,
    class_write,
    load_heads,
    save_heads,
    text_attention,
)

BLOCKS, HEADS = 2, 2  # of the tiny ViT


@pytest.fixture
def retriever(tmp_path: Path) -> OpenClipRetriever:
    found = tiny(tmp_path).eval()
    # Biases of zero would hide what is done with them.
    generator = torch.Generator().manual_seed(1)
    for name, parameter in found.named_parameters():
        if "attn" in name and "bias" in name:
            nn.init.normal_(parameter, generator=generator)
    return found


@pytest.fixture(autouse=True)
def _no_gradient() -> Iterator[None]:
    with torch.no_grad():
        yield


def images(count: int = 5) -> Tensor:
    return random_images(count, 16, seed=3)


def by_hand(retriever: OpenClipRetriever, heads: set[tuple[int, int]]) -> Tensor:
    """The tower written out head by head, without the write of some heads to the class token."""
    visual: Any = retriever.model.visual
    x = visual._embeds(retriever.preprocess.normalise(images()))
    for number, block in enumerate(visual.transformer.resblocks):
        a, y = block.attn, block.ln_1(x)
        q, k, v = (y @ w.T + b for w, b in zip(a.in_proj_weight.chunk(3), a.in_proj_bias.chunk(3), strict=True))
        size = a.embed_dim // a.num_heads
        out = a.out_proj.bias.expand_as(x).clone()
        for head in range(a.num_heads):
            part = slice(head * size, (head + 1) * size)
            weights = (q[..., part] @ k[..., part].transpose(1, 2) / size**0.5).softmax(-1)
            write = weights @ v[..., part] @ a.out_proj.weight[:, part].T
            if (number, head) in heads:
                write[:, 0] = 0
            out += write
        x = x + out
        x = x + block.mlp(block.ln_2(x))
    return torch.nn.functional.normalize(visual.ln_post(x)[:, 0] @ visual.proj, dim=-1)


@pytest.mark.parametrize("heads", [{(0, 0)}, {(0, 1)}, {(1, 0)}, {(0, 1), (1, 0)}, {(0, 0), (0, 1), (1, 0), (1, 1)}])
def test_ablation_is_the_manual_computation(retriever: OpenClipRetriever, heads: set[tuple[int, int]]) -> None:
    before = retriever.encode_image(images())
    torch.testing.assert_close(before, by_hand(retriever, set()), rtol=0, atol=2e-6)
    with ablated(retriever, heads):
        after = retriever.encode_image(images())
        assert ablated_heads(retriever) == tuple(sorted(heads))
    torch.testing.assert_close(after, by_hand(retriever, heads), rtol=0, atol=2e-6)
    assert (after - before).abs().max() > 1e-3
    assert torch.equal(retriever.encode_image(images()), before)


def test_ablating_nothing_changes_no_bit(retriever: OpenClipRetriever) -> None:
    before = retriever.encode_image(images())
    kinds = [type(block.attn) for block in retriever.model.visual.transformer.resblocks]
    ablate(retriever, [])
    assert torch.equal(retriever.encode_image(images()), before)
    assert [type(block.attn) for block in retriever.model.visual.transformer.resblocks] == kinds
    # Also where the module stands but has no head to take out.
    block = retriever.model.visual.transformer.resblocks[0]
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    plain = block.attn(x, x, x, need_weights=False)[0]
    assert torch.equal(AblatedAttention(block.attn, [])(x, x, x, need_weights=False)[0], plain)


@pytest.mark.parametrize("batch_first", [True, False])
def test_all_but_the_class_token_stays_bit_for_bit(batch_first: bool) -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(12, 3, batch_first=batch_first).eval()
    changed = AblatedAttention(plain, [0, 2])
    x = torch.randn(2, 5, 12)
    given = x if batch_first else x.transpose(0, 1)
    before, after = (module(given, given, given, need_weights=False)[0] for module in (plain, changed))
    if not batch_first:
        before, after = before.transpose(0, 1), after.transpose(0, 1)
    assert torch.equal(before[:, 1:], after[:, 1:])
    write = class_write(plain, x, [0, 2]).sum(dim=1)
    torch.testing.assert_close(before[:, 0] - after[:, 0], write)
    # The heads' writes and the output's bias make up all that the class token gets.
    whole = class_write(plain, x, range(3)).sum(dim=1) + plain.out_proj.bias
    torch.testing.assert_close(before[:, 0], whole)


def test_class_attention_against_torch() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    nn.init.normal_(attention.in_proj_bias)
    x = torch.randn(2, 5, 12)
    weights = attention(x, x, x, need_weights=True, average_attn_weights=False)[1]
    torch.testing.assert_close(class_attention(attention, x), weights[:, :, 0])
    torch.testing.assert_close(class_attention(attention, x, [2]), weights[:, 2:, 0])


def test_weights_are_saved_and_copied_as_before(retriever: OpenClipRetriever, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in retriever.state_dict().items()}
    key = retriever.tower_key("image")
    ablate(retriever, [(0, 1)])
    assert all(torch.equal(state[name], tensor) for name, tensor in retriever.state_dict().items())
    assert len(retriever.state_dict()) == len(state)
    # Cached features of the plain tower must not be taken for this one's.
    assert retriever.tower_key("image") != key
    retriever.save_weights(str(tmp_path / "w.safetensors"))
    loaded = OpenClipRetriever(config=str(next(tmp_path.glob("*.json"))), pretrained=str(tmp_path / "w.safetensors"))
    assert ablated_heads(loaded) == ()
    twin = copy.deepcopy(retriever)
    assert torch.equal(twin.encode_image(images()), retriever.encode_image(images()))
    assert torch.equal(ablate(loaded.eval(), [(0, 1)]).encode_image(images()), retriever.encode_image(images()))
    ablate(retriever, [])
    assert retriever.tower_key("image") == key


def test_heads_that_were_out_come_back(retriever: OpenClipRetriever) -> None:
    ablate(retriever, [(0, 0)])
    with ablated(retriever, [(1, 1)]):
        assert ablated_heads(retriever) == ((1, 1),)
    assert ablated_heads(retriever) == ((0, 0),)


def test_text_attention_against_attention_maps(retriever: OpenClipRetriever) -> None:
    text = torch.tensor([[True, False, False, True]]).expand(5, 4).clone()
    text[2] = torch.tensor([False, True, False, False])
    found = text_attention(retriever, images(), text, batch_size=2)
    visual: Any = retriever.model.visual
    x = visual._embeds(retriever.preprocess.normalise(images()))
    for number, block in enumerate(visual.transformer.resblocks):
        y = block.ln_1(x)
        weights = block.attn(y, y, y, need_weights=True, average_attn_weights=False)[1][:, :, 0, 1:].double()
        expected = [[float(w[h][text[i]].sum() / w[h].sum()) for i, w in enumerate(weights)] for h in range(HEADS)]
        torch.testing.assert_close(found[number], torch.tensor(expected).double().mean(dim=1), rtol=0, atol=1e-6)
        x = block(x)
    shared = text_attention(retriever, images(), text[0])
    assert shared.shape == (BLOCKS, HEADS)
    assert bool(((shared > 0) & (shared < 1)).all())


def test_a_planted_head_is_found(retriever: OpenClipRetriever) -> None:
    # Keys of one head are large where the patches are bright, and so are queries of the class token everywhere.
    visual: Any = retriever.model.visual
    visual.conv1.weight.zero_()
    visual.conv1.weight[0] = 0.05
    visual.ln_pre = nn.Identity()
    attention = visual.transformer.resblocks[0].attn
    visual.transformer.resblocks[0].ln_1 = nn.Identity()
    attention.in_proj_weight[16] = 0
    attention.in_proj_bias[16] = 20.0
    attention.in_proj_weight[32 + 16] = 0
    attention.in_proj_weight[32 + 16, 0] = 5.0
    pictures = torch.zeros(6, 3, 16, 16, dtype=torch.uint8)
    pictures[:, :, 8:] = 255
    score = text_attention(retriever, pictures, bottom_rows(retriever, 1))
    assert divmod(int(score.argmax()), HEADS) == (0, 1)
    assert score[0, 1] > 0.95


def test_bottom_rows(retriever: OpenClipRetriever) -> None:
    assert bottom_rows(retriever, 1).tolist() == [False, False, True, True]
    with pytest.raises(ModelError, match="2 in all"):
        bottom_rows(retriever, 2)


def test_the_search_adds_heads_that_help_in_the_order_of_their_scores() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.3, 0.2]])
    gain = {(0, 1): 0.2, (1, 0): -0.1, (0, 2): 0.1, (1, 1): 0.0, (1, 2): 0.3, (0, 0): 0.3}
    cost = {(0, 1): 0.004, (1, 0): 0.0, (0, 2): 0.004, (1, 1): 0.0, (1, 2): 0.02, (0, 0): 0.0}
    asked: list[tuple[tuple[int, int], ...]] = []

    def measure(heads: tuple[tuple[int, int], ...]) -> tuple[float, float]:
        asked.append(heads)
        return 0.5 - sum(cost[head] for head in heads), 0.1 + sum(gain[head] for head in heads)

    chosen = choose_heads(scores, measure, drop=0.01)
    # (1, 0) and (1, 1) bring nothing, and (1, 2) costs too much, which ends it before (0, 0).
    assert chosen.heads == ((0, 1), (0, 2))
    assert asked[0] == ()
    assert [one.head for one in chosen.tried] == [(0, 1), (1, 0), (0, 2), (1, 1), (1, 2)]
    assert [one.kept for one in chosen.tried] == [True, False, True, False, False]
    assert chosen.before == (0.5, 0.1)
    assert chosen.after == pytest.approx((0.492, 0.4))
    # One skip is enough to end it where only one is allowed.
    assert choose_heads(scores, measure, skips=1).heads == ((0, 1),)
    # A drop of exactly the limit is too much.
    assert choose_heads(scores, lambda heads: (0.5 if not heads else 0.25, len(heads)), drop=0.25).heads == ()


def test_files(retriever: OpenClipRetriever, tmp_path: Path) -> None:
    path = tmp_path / "made" / "heads.json"
    save_heads(path, retriever, [(1, 0), (0, 1)], {"drop": 0.01})
    assert load_heads(path, retriever) == ((1, 0), (0, 1))
    assert json.loads(path.read_text())["drop"] == 0.01
    other = dict(json.loads(path.read_text()), tower={"blocks": 12, "heads": 12, "width": 768})
    path.write_text(json.dumps(other))
    with pytest.raises(ModelError, match="a tower of 12 blocks, 12 heads, 768 width"):
        load_heads(path, retriever)
    path.write_text("[]")
    with pytest.raises(ModelError, match="no list of heads"):
        load_heads(path, retriever)
    with pytest.raises(ModelError, match="no list of heads"):
        load_heads(tmp_path / "absent.json", retriever)
    with pytest.raises(ModelError, match=r"in \.json"):
        save_heads(tmp_path / "heads.txt", retriever, [])


def test_other_towers_are_refused(tmp_path: Path) -> None:
    for kind in ("resnet", "timm"):
        with pytest.raises(ModelError, match="convolutional tower has no heads"):
            ablate(tiny(tmp_path, kind), [])
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    for name, change, words in (
        ("pooled", {"pool_type": "avg"}, "it pools"),
        ("attentive", {"attentional_pool": True, "attn_pooler_heads": 2}, "it pools"),
        ("custom", {"qk_norm": True}, "heads can be told apart in"),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"embed_dim": 12, "vision_cfg": vision | change, "text_cfg": TEXT}))
        with pytest.raises(ModelError, match=words):
            ablate(OpenClipRetriever(config=str(path)), [(0, 0)])
    retriever = tiny(tmp_path)
    for head in ((2, 0), (0, 2), (-1, 0)):
        with pytest.raises(ModelError, match="2 blocks of 2 heads"):
            ablate(retriever, [head])
    assert ablated_heads(retriever) == ()
    with pytest.raises(ModelError, match="4 patches"):
        text_attention(retriever, images(), torch.ones(9, dtype=torch.bool))
    with pytest.raises(ModelError, match="no picture"):
        text_attention(retriever, images(0), torch.ones(4, dtype=torch.bool))
