"""A learned token before class names: where it stands, what it is trained to do, and what it leaves alone."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_retriever import TEXT, VISION, random_images, tiny
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, normalize

from models import ModelError, OpenClipRetriever
from models.short_text import end_of_text
from models.text_remedies.class_prefix import (
    ClassPrefix,
    PrefixRetriever,
    PrefixTokenizer,
    PrefixTraining,
    encode_text_with_prefix,
    with_prefix,
)

LABELS = ("dog", "cat", "ship")
QUICK = PrefixTraining(steps=60, rate=2.0, last_rate=0.1)


def vector(seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def retriever(tmp_path: Path) -> OpenClipRetriever:
    return tiny(tmp_path).eval()


def test_the_token_stands_before_the_class_name(retriever: OpenClipRetriever) -> None:
    tokenize = PrefixTokenizer(retriever.tokenize, retriever.context_length)
    plain = retriever.tokenize(["a red dog"])[0].tolist()
    found = tokenize(["a red [prefix] dog", "[prefix] dog", "a red dog"])
    # Start of text, a, red, the place, dog, end of text.
    assert found[0, :6].tolist() == [*plain[:3], -1, *plain[3:5]]
    assert found[1, :4].tolist() == [plain[0], -1, plain[3], plain[4]]
    assert found[2, :5].tolist() == plain[:5]
    assert end_of_text(found).tolist() == [5, 3, 4]
    assert torch.equal(tokenize(["a red dog"]), retriever.tokenize(["a red dog"]))
    assert tokenize([]).shape[0] == 0
    assert torch.equal(pickle.loads(pickle.dumps(tokenize))(["a [prefix] dog"]), tokenize(["a [prefix] dog"]))


def test_a_prompt_that_is_cut_still_ends(retriever: OpenClipRetriever) -> None:
    tokenize = PrefixTokenizer(retriever.tokenize, retriever.context_length)
    found = tokenize(["a red [prefix] dog on a mat by the sea"])
    plain = retriever.tokenize(["a red dog on a mat by the sea"])
    assert found.shape == (1, 8)
    assert found[0].tolist() == [*plain[0, :3].tolist(), -1, *plain[0, 3:6].tolist(), int(plain.max())]
    with pytest.raises(ModelError, match="no place for"):
        tokenize(["a b c d e f g [prefix] dog"])
    with pytest.raises(ModelError, match="more than once"):
        tokenize(["a [prefix] [prefix] dog"])


def test_the_embedding_of_a_known_token_gives_the_prompt_with_that_word(retriever: OpenClipRetriever) -> None:
    # The answer is known: with the embedding of "red" as the prefix, the prompt is "a photo of a red dog".
    red = int(retriever.tokenize(["red"])[0, 1])
    as_prefix = retriever.model.token_embedding.weight[red].detach()
    prompts = PrefixTokenizer(retriever.tokenize, 8)(["a [prefix] dog", "[prefix] cat by the sea", "a ship"])
    with torch.no_grad():
        found = encode_text_with_prefix(retriever, prompts, as_prefix)
        expected = retriever.encode_text(retriever.tokenize(["a red dog", "red cat by the sea", "a ship"]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_training_lowers_the_loss_of_the_paper(retriever: OpenClipRetriever) -> None:
    before = {name: tensor.clone() for name, tensor in retriever.state_dict().items()}
    tokenize = PrefixTokenizer(retriever.tokenize, 8)
    with torch.no_grad():
        # Pictures that look like their class with a strange token before it: a token that is there to be found.
        there = encode_text_with_prefix(retriever, tokenize(with_prefix("a {label}", LABELS)), vector(4))
    attacked = there.repeat(20, 1)
    label = torch.arange(3).repeat(20)
    clean = normalize(torch.randn(30, 12, generator=torch.Generator().manual_seed(1)))
    freely = replace(QUICK, keep=0.0, steps=150)
    prefix = freely.fit(retriever, LABELS, attacked, clean, label, ["a {label}"])
    scale = retriever.logit_scale.detach()

    def loss(token: Tensor) -> tuple[float, float]:
        with torch.no_grad():
            plain = retriever.encode_text(retriever.tokenize([f"a {name}" for name in LABELS]))
            text = encode_text_with_prefix(retriever, tokenize(with_prefix("a {label}", LABELS)), token)
            p, q = ((scale * clean @ one.T).softmax(1) for one in (plain, text))
            by_hand = float((p * (p / q).log()).sum(1).mean())
            assert by_hand == pytest.approx(float(kl_div(q.log(), p, reduction="batchmean")), abs=1e-6)
            return float(cross_entropy(scale * attacked @ text.T, label)), by_hand

    start = QUICK.start * torch.randn(16, generator=torch.Generator().manual_seed(QUICK.seed))
    # At least half of what the planted token gains.
    assert loss(prefix.vector)[0] < (loss(start)[0] + loss(vector(4))[0]) / 2 < loss(start)[0]
    # The record is of batches drawn with replacement, the first of them with the token that it starts from.
    assert prefix.about["loss before"][1] == pytest.approx(loss(start)[1], rel=0.5)
    assert all(torch.equal(before[name], tensor) for name, tensor in retriever.state_dict().items())
    assert all(parameter.requires_grad for parameter in retriever.parameters())
    # The weight of clean pictures is what keeps them.
    kept = replace(freely, keep=100.0, rate=0.02, last_rate=0.02).fit(
        retriever, LABELS, attacked, clean, label, ["a {label}"]
    )
    assert loss(kept.vector)[1] < loss(prefix.vector)[1] / 2


def test_it_is_a_function_of_its_seed(retriever: OpenClipRetriever) -> None:
    rows = normalize(torch.randn(9, 12, generator=torch.Generator().manual_seed(2)))
    label = torch.arange(3).repeat(3)
    short = replace(QUICK, steps=4)
    one = short.fit(retriever, LABELS, rows, rows, label, ["a {label}", "the {label}"])
    torch.manual_seed(7)
    assert torch.equal(short.fit(retriever, LABELS, rows, rows, label, ["a {label}", "the {label}"]).vector, one.vector)
    other = replace(short, seed=1).fit(retriever, LABELS, rows, rows, label, ["a {label}", "the {label}"])
    assert not torch.equal(other.vector, one.vector)


def test_the_wrapped_retriever(retriever: OpenClipRetriever, tmp_path: Path) -> None:
    ClassPrefix(vector(), {"steps": 3}).save(tmp_path / "p.safetensors")
    assert ClassPrefix.load(tmp_path / "p.safetensors").about == {"steps": 3}
    wrapped = PrefixRetriever(retriever, str(tmp_path / "p.safetensors")).eval()
    images = random_images(3, 16)
    with torch.no_grad():
        assert torch.equal(wrapped.encode_image(images), retriever.encode_image(images))
        plain, own = ["a dog", "a cat on a mat"], ["a [prefix] dog"]
        assert torch.equal(
            wrapped.encode_text(wrapped.tokenize(plain)), retriever.encode_text(retriever.tokenize(plain))
        )
        found = wrapped.encode_text(wrapped.tokenize(own))
    with torch.no_grad():
        assert torch.equal(found, encode_text_with_prefix(retriever, wrapped.tokenize(own), vector()))
        assert float((found * retriever.encode_text(retriever.tokenize(["a dog"]))).sum()) < 0.999
    assert wrapped.embed_dim == retriever.embed_dim
    assert torch.equal(wrapped.logit_scale, retriever.logit_scale)
    assert {wrapped.tower_of(name) for name in wrapped.state_dict()} == {"image", "text", "head"}
    assert wrapped.tower_key("text") != PrefixRetriever(retriever, ClassPrefix(vector(1))).tower_key("text")
    wrapped.save_weights(str(tmp_path / "w.safetensors"))
    again = OpenClipRetriever(config=str(next(tmp_path.glob("vit*.json"))), pretrained=str(tmp_path / "w.safetensors"))
    with torch.no_grad():
        assert torch.equal(again.eval().encode_image(images), retriever.encode_image(images))


def test_other_text_towers_are_refused(tmp_path: Path, retriever: OpenClipRetriever) -> None:
    path = tmp_path / "other.json"
    text = TEXT | {"no_causal_mask": True, "pool_type": "last"}
    path.write_text(json.dumps({"embed_dim": 12, "vision_cfg": VISION["vit"], "text_cfg": text, "custom_text": True}))
    other = OpenClipRetriever(config=str(path))
    for call in (
        lambda: PrefixRetriever(other, ClassPrefix(vector())),
        lambda: encode_text_with_prefix(other, torch.zeros(1, 8, dtype=torch.int64), vector()),
        lambda: QUICK.fit(other, LABELS, torch.ones(1, 12), torch.ones(1, 12), torch.zeros(1, dtype=torch.int64)),
    ):
        with pytest.raises(ModelError, match="causal text tower"):
            call()
    with pytest.raises(ModelError, match="16 wide"):
        PrefixRetriever(retriever, ClassPrefix(torch.ones(5)))
    retriever.save_weights(str(tmp_path / "w.safetensors"))
    with pytest.raises(ModelError, match="holds no class prefix"):
        ClassPrefix.load(tmp_path / "w.safetensors")


def test_mistakes_are_named(retriever: OpenClipRetriever) -> None:
    rows, label = torch.ones(3, 12), torch.arange(3)
    for arguments, words in (
        ((("dog",), rows, rows, label), "there are 1"),
        ((LABELS, rows, rows, label[:2]), "3 attacked pictures have 2 labels"),
        ((LABELS, rows, rows[:0], label), "0 clean ones"),
        ((LABELS[:2], rows, rows, label), "there are 2 classes"),
        ((LABELS, rows, rows, label, ["a photo"]), "no {label}"),
        ((LABELS, rows, rows, label, ["a photo-{label}"]), "behind a space"),
    ):
        with pytest.raises(ModelError, match=words):
            QUICK.fit(retriever, *arguments)  # type: ignore[arg-type]
    for change in ({"keep": -1.0}, {"last_rate": 5.0}, {"steps": 0}, {"batch": 0}):
        with pytest.raises(ModelError, match="PrefixTraining"):
            replace(QUICK, **change)  # type: ignore[arg-type]
