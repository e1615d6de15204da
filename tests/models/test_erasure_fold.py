"""A folded retriever embeds as the retriever and the eraser do together, and its file is the library's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from tiny_retriever import TEXT, VISION, random_images, tiny, write_config
from torch.nn.functional import normalize

from models import HuggingFaceRetriever, ModelError, OpenClipRetriever
from models.erasure import LinearEraser, fold, folded, projection_of
from models.retriever import Retriever

TIMM: dict[str, dict[str, Any]] = {
    "timm linear": {"timm_proj": "linear"},
    "timm linear with bias": {"timm_proj": "linear", "timm_proj_bias": True},
    "timm mlp": {"timm_proj": "mlp"},
    "timm classifier": {"timm_proj": ""},
}


def build(folder: Path, kind: str, seed: int = 0) -> OpenClipRetriever:
    if kind in VISION:
        return tiny(folder, kind, seed=seed)
    vision = {"timm_model_name": "test_resnet", "timm_pool": "avg", "image_size": 32, **TIMM[kind]}
    path = folder / "timm.json"
    path.write_text(json.dumps({"embed_dim": 12, "vision_cfg": vision, "text_cfg": TEXT}))
    torch.manual_seed(seed)
    return OpenClipRetriever(config=str(path))


def some_eraser(width: int, seed: int = 5) -> LinearEraser:
    """An oblique map of full rank but one, far from any symmetry that could hide a transposition."""
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(2, width, generator=generator, dtype=torch.float64)
    return LinearEraser(torch.eye(width, dtype=torch.float64) - torch.outer(left, right) / (left @ right))


def embed(retriever: Retriever) -> torch.Tensor:
    with torch.no_grad():
        return retriever.eval().encode_image(random_images(5, retriever.image_size[0], seed=7))


@pytest.mark.parametrize("kind", ["vit", "resnet", *TIMM])
def test_the_folded_tower_embeds_as_the_eraser_does(tmp_path: Path, kind: str) -> None:
    retriever = build(tmp_path, kind)
    layer = projection_of(retriever)
    if layer.bias is not None:  # a bias of zero would hide one that is not erased
        torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(1))
    eraser = some_eraser(retriever.embed_dim)
    before, text = embed(retriever), retriever.encode_text(retriever.tokenize(["a dog"]))
    expected = eraser.apply(before)
    assert (expected - before).abs().max() > 0.05
    retriever.train()
    fold(retriever, eraser)
    assert retriever.training
    torch.testing.assert_close(embed(retriever), expected, rtol=0, atol=1e-5)
    assert torch.equal(retriever.encode_text(retriever.tokenize(["a dog"])), text)

    # The file loads in open_clip without anything of ours.
    file = tmp_path / "folded.safetensors"
    retriever.save_weights(str(file))
    config = next(tmp_path.glob("*.json")).rename(tmp_path / f"plain-{kind.replace(' ', '-')}.json")
    open_clip.add_model_config(config)
    plain = open_clip.create_model(config.stem, pretrained=str(file))
    pixels = retriever.preprocess.normalise(random_images(5, retriever.image_size[0], seed=7))
    with torch.no_grad():
        features = plain.eval().encode_image(pixels, normalize=True)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceRetriever:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models

    path = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 4}
    config = transformers.CLIPConfig(
        text_config={**text, "max_position_embeddings": 6},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=10,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(path)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<start>": 1, "<end>": 2, "a": 3}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(path)
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(path)
    return HuggingFaceRetriever(str(path))


def test_hugging_face_projection(clip: HuggingFaceRetriever, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    eraser = some_eraser(clip.embed_dim)
    before = embed(clip)
    with folded(clip, eraser):
        torch.testing.assert_close(embed(clip), eraser.apply(before), rtol=0, atol=1e-5)
        clip.save_weights(str(tmp_path / "model.safetensors"))
    assert torch.equal(embed(clip), before)
    stored = load_file(tmp_path / "model.safetensors")["visual_projection.weight"]
    assert not torch.equal(stored, clip.model.visual_projection.weight)


def test_folding_for_a_while_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    state = {name: t.clone() for name, t in retriever.state_dict().items()}
    with folded(retriever, some_eraser(12)):
        assert not torch.equal(retriever.model.visual.proj, state["model.visual.proj"])
    assert all(torch.equal(t, state[name]) for name, t in retriever.state_dict().items())


def test_what_cannot_be_folded_is_refused_and_left_alone(tmp_path: Path) -> None:
    retriever = tiny(tmp_path, "timm")
    state = {name: t.clone() for name, t in retriever.state_dict().items()}
    affine = LinearEraser(torch.eye(12, dtype=torch.float64), torch.ones(12, dtype=torch.float64))
    with pytest.raises(ModelError, match="affine off"):
        fold(retriever, affine)
    with pytest.raises(ModelError, match="13 wide"):
        fold(retriever, some_eraser(13))

    class Shifted(torch.nn.Module):
        def __init__(self, tower: torch.nn.Module) -> None:
            super().__init__()
            self.tower = tower
            self.head, self.trunk = tower.head, tower.trunk

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return normalize(self.tower(x), dim=-1) + 0.3

    tower, retriever.model.visual = retriever.model.visual, Shifted(retriever.model.visual)
    with pytest.raises(ModelError, match="something after that layer"):
        fold(retriever, some_eraser(12))
    retriever.model.visual = tower
    assert all(torch.equal(t, state[name]) for name, t in retriever.state_dict().items())
    retriever.model.visual.head = torch.nn.Sequential()
    retriever.model.visual.trunk.reset_classifier(0)
    with pytest.raises(ModelError, match="no linear layer"):
        projection_of(retriever)


def test_a_zero_bias_is_no_bias(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    eraser = LinearEraser(some_eraser(12).matrix, torch.zeros(12, dtype=torch.float64))
    before = embed(retriever)
    fold(retriever, eraser)
    torch.testing.assert_close(embed(retriever), eraser.apply(before), rtol=0, atol=1e-5)


def embed_text(retriever: Retriever) -> torch.Tensor:
    with torch.no_grad():
        return retriever.eval().encode_text(retriever.tokenize(["a dog", "two green spheres", "a"]))


@pytest.mark.parametrize("kind", ["open_clip", "open_clip, its own text tower", "hugging face"])
def test_a_map_of_queries_folds_into_the_text_tower(tmp_path: Path, clip: HuggingFaceRetriever, kind: str) -> None:
    retriever: Retriever = clip
    if kind != "hugging face":
        own = {"custom_text": True} if "own" in kind else {}
        retriever = OpenClipRetriever(config=write_config(tmp_path, **own))
    state = {name: tensor.clone() for name, tensor in retriever.state_dict().items()}
    eraser = some_eraser(retriever.embed_dim)
    before, images = embed_text(retriever), embed(retriever)
    layer = fold(retriever, eraser, "text")
    assert layer.where == ("text.text_projection" if "own" in kind else "text_projection")
    torch.testing.assert_close(embed_text(retriever), eraser.apply(before), rtol=0, atol=1e-5)
    assert torch.equal(embed(retriever), images)
    retriever.load_state_dict(state)


def test_a_text_tower_without_a_projection_is_refused(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    retriever.model.text_projection = None
    with pytest.raises(ModelError, match="the text tower"):
        fold(retriever, some_eraser(12), "text")
