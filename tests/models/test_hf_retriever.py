from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from tiny_retriever import random_images

from models import HuggingFaceRetriever, ModelError

WORDS = ["<pad>", "<start>", "<end>", "<unk>", "a", "dog", "cat", "red", "cube"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of a few thousand weights, as save_pretrained writes it, with a word tokenizer."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    path = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config={**tower, **ids, "vocab_size": len(WORDS), "max_position_embeddings": 6},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=10,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(path)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<start>", eos_token="<end>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(path)
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(path)
    return path


def test_embeddings_are_transformers_own(folder: Path) -> None:
    from transformers import CLIPModel

    retriever = HuggingFaceRetriever(str(folder)).eval()
    images, captions = random_images(3, 16), ["a dog", "a red cube", "a cat"]
    model = CLIPModel.from_pretrained(folder).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = model(input_ids=retriever.tokenize(captions), pixel_values=(images / 255 - mean) / std)
        torch.testing.assert_close(retriever.encode_image(images), expected.image_embeds)
        torch.testing.assert_close(retriever.encode_text(retriever.tokenize(captions)), expected.text_embeds)
    assert (retriever.embed_dim, retriever.context_length, retriever.image_size) == (10, 6, (16, 16))
    assert retriever.preprocess.resize_mode == "shortest"
    assert retriever.logit_bias is None
    assert retriever.logit_scale.item() == pytest.approx(model.logit_scale.exp().item())


def test_tokenizer_pads_cuts_and_travels(folder: Path) -> None:
    tokenize = pickle.loads(pickle.dumps(HuggingFaceRetriever(str(folder)).tokenize))
    assert tokenize(["a dog", "a a a a a a a"]).tolist() == [[1, 4, 5, 2, 0, 0], [1, 4, 4, 4, 4, 2]]
    assert tokenize([]).shape == (0, 6)


def test_towers_lock_apart(folder: Path) -> None:
    retriever = HuggingFaceRetriever(str(folder), lock_image=True)
    trained = {retriever.tower_of(n) for n, p in retriever.named_parameters() if p.requires_grad}
    assert trained == {"text", "head"}
    assert not retriever.encode_image(random_images(1, 16)).requires_grad
    assert retriever.encode_text(retriever.tokenize(["a dog"])).requires_grad
    retriever.model.logit_scale.data.fill_(9.0)
    retriever.clamp_logit_scale()
    assert retriever.logit_scale.item() == pytest.approx(100.0, rel=1e-5)


def test_what_cannot_be_loaded_is_named(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=f"{tmp_path} cannot be loaded from the folder"):
        HuggingFaceRetriever(str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"bias-train\[huggingface\]"):
        HuggingFaceRetriever(str(folder))
