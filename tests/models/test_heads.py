"""Maps behind frozen towers: what they compute, what they leave alone, and that they vanish into the weights."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_retriever import CAPTIONS, random_images, tiny, write_config

from models import HeadRetriever, OpenClipRetriever
from models.erasure import LinearEraser, folded
from models.errors import ModelError
from models.heads import CAPTIONS as CAPTION_FILE
from models.heads import caption_ids, read_captions, write_captions


def shaken(retriever: HeadRetriever) -> HeadRetriever:
    """Maps and scale that training might have led to."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for head in (retriever.image_head, retriever.text_head):
            if head is not None:
                head.weight += 0.3 * torch.randn(head.weight.shape, generator=draw)
        retriever.log_scale.fill_(1.5)
    return retriever


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
def test_at_first_it_is_the_frozen_retriever(kind: str, tmp_path: Path) -> None:
    base = tiny(tmp_path, kind).eval()
    images, tokens = random_images(4, base.image_size[0]), base.tokenize(CAPTIONS)
    image, text = base.encode_image(images).detach(), base.encode_text(tokens).detach()
    retriever = HeadRetriever(base)
    torch.testing.assert_close(retriever.encode_image(images), image)
    torch.testing.assert_close(retriever.encode_image(image), image)
    torch.testing.assert_close(retriever.encode_text(tokens), text)
    torch.testing.assert_close(retriever.logit_scale, base.logit_scale.detach())
    assert retriever.tower_key("image") == tiny(tmp_path, kind).tower_key("image")


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
@pytest.mark.parametrize(("image_head", "text_head"), [(True, True), (True, False), (False, True)])
def test_the_written_weights_are_an_ordinary_checkpoint(
    kind: str, image_head: bool, text_head: bool, tmp_path: Path
) -> None:
    base = tiny(tmp_path, kind)
    before = copy.deepcopy(base.state_dict())
    retriever = shaken(HeadRetriever(base, image_head=image_head, text_head=text_head))
    retriever.save_weights(str(tmp_path / "written.safetensors"))
    plain = OpenClipRetriever(
        config=write_config(tmp_path, kind), pretrained=str(tmp_path / "written.safetensors")
    ).eval()
    images, tokens = random_images(4, base.image_size[0]), base.tokenize(CAPTIONS)
    torch.testing.assert_close(plain.encode_image(images), retriever.encode_image(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.encode_text(tokens), retriever.encode_text(tokens), atol=1e-5, rtol=0)
    assert plain.logit_scale.item() == pytest.approx(math.exp(1.5))
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_only_the_maps_and_the_scale_are_trained_and_saved(tmp_path: Path) -> None:
    retriever = HeadRetriever(tiny(tmp_path))
    assert set(retriever.state_dict()) == {"image_head.weight", "text_head.weight", "log_scale"}
    assert {retriever.tower_of(name) for name in retriever.state_dict()} == {"image", "text", "head"}
    features = F.normalize(torch.randn(5, 12), dim=1)
    scores = retriever.encode_image(features) @ retriever.encode_text(retriever.tokenize(CAPTIONS)).T
    (retriever.logit_scale * scores).sum().backward()
    assert all(parameter.grad is not None for parameter in retriever.parameters())
    assert all(parameter.grad is None for parameter in retriever.base.parameters())
    twin = copy.deepcopy(retriever)
    assert twin.base is retriever.base
    assert twin.image_head is not retriever.image_head


def test_known_captions_are_looked_up_and_others_encoded(tmp_path: Path) -> None:
    base = tiny(tmp_path).eval()
    made_up = F.normalize(torch.randn(3, 12), dim=1)  # no tower gives these, so a look-up shows
    write_captions(tmp_path, caption_ids(CAPTIONS[:3]), made_up, base.tower_key("text"))
    retriever = HeadRetriever(base, features=str(tmp_path), text_head=False)
    known = retriever.tokenize([CAPTIONS[2], CAPTIONS[0], CAPTIONS[2]])
    assert known.shape == (3, 1)
    torch.testing.assert_close(retriever.encode_text(known), made_up[[2, 0, 2]])
    mixed = retriever.tokenize(CAPTIONS[:4])
    assert mixed.shape[1] > 1
    torch.testing.assert_close(retriever.encode_text(mixed), base.encode_text(base.tokenize(CAPTIONS[:4])).detach())
    assert retriever.tokenize([]).shape[0] == 0
    sent = pickle.loads(pickle.dumps(retriever.tokenize))
    assert torch.equal(sent(CAPTIONS[:2]), retriever.tokenize(CAPTIONS[:2]))


def test_captions_survive_the_file(tmp_path: Path) -> None:
    ids, vectors = caption_ids(CAPTIONS), torch.randn(len(CAPTIONS), 12)
    assert len(set(ids.tolist())) == len(CAPTIONS)
    write_captions(tmp_path, ids, vectors, "key")
    found, rows = read_captions(tmp_path, "key")
    assert (np.diff(found) > 0).all()
    torch.testing.assert_close(rows, vectors[np.argsort(ids)])
    with pytest.raises(ModelError, match=r"another text tower \(key key, not other\)"):
        read_captions(tmp_path, "other")
    with pytest.raises(ModelError, match="`bias-train embed` writes one"):
        HeadRetriever(tiny(tmp_path), features=str(tmp_path / "nowhere"))
    assert (tmp_path / CAPTION_FILE).is_file()


def test_a_tower_s_key_follows_all_that_its_output_depends_on(tmp_path: Path) -> None:
    base = tiny(tmp_path, "timm")
    key = base.tower_key("image")
    assert base.tower_key("text") != key
    assert tiny(tmp_path, "timm", seed=1).tower_key("image") != key
    text = base.tower_key("text")
    with torch.no_grad():
        next(p for n, p in base.named_parameters() if base.tower_of(n) == "text").view(-1)[0] += 1
    assert base.tower_key("image") == key
    assert base.tower_key("text") != text
    buffer = next(b for n, b in base.named_buffers() if n.endswith("running_mean"))
    buffer[0] += 1
    assert base.tower_key("image") != key
    buffer[0] -= 1
    base.model.visual.act = torch.nn.GELU()  # a module that holds no weight
    assert base.tower_key("image") != key


def test_features_need_a_frozen_image_tower(tmp_path: Path) -> None:
    features = torch.randn(3, 12)
    locked = tiny(tmp_path, lock_image=True)
    torch.testing.assert_close(locked.encode_image(features), F.normalize(features, dim=1))
    with pytest.raises(ModelError, match="lock_image: true"):
        tiny(tmp_path).encode_image(features)
    with pytest.raises(ModelError, match="lock_image: true"):
        tiny(tmp_path, lock_image=True, unlocked_groups=1).encode_image(features)
    with pytest.raises(ModelError, match="image_head, text_head or both"):
        HeadRetriever(tiny(tmp_path), image_head=False, text_head=False)


def test_an_eraser_goes_behind_the_map(tmp_path: Path) -> None:
    retriever = shaken(HeadRetriever(tiny(tmp_path)))
    draw = torch.Generator().manual_seed(6)
    eraser = LinearEraser(torch.eye(12, dtype=torch.float64) - 0.5 * torch.rand(12, 12, generator=draw).double() / 12)
    images = random_images(4, retriever.image_size[0])
    wanted = eraser.apply(retriever.encode_image(images).detach())
    with folded(retriever, eraser):
        retriever.save_weights(str(tmp_path / "erased.safetensors"))
    plain = OpenClipRetriever(config=write_config(tmp_path), pretrained=str(tmp_path / "erased.safetensors")).eval()
    torch.testing.assert_close(plain.encode_image(images).detach(), wanted, atol=1e-5, rtol=0)
