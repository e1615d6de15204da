from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file
from tiny_retriever import TEXT, VISION, random_images, tiny, write_config

from models import ModelError, OpenClipRetriever


def weights(retriever: OpenClipRetriever) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in retriever.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
def test_embeddings_are_unit_float32(tmp_path: Path, kind: str) -> None:
    retriever = tiny(tmp_path, kind)
    image = retriever.encode_image(random_images(3, retriever.image_size[0]))
    text = retriever.encode_text(retriever.tokenize(["a dog", "a cat"]))
    assert (image.shape, text.shape, retriever.embed_dim) == ((3, 12), (2, 12), 12)
    for embedding in (image, text):
        assert embedding.dtype == torch.float32
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(len(embedding)))


def test_agrees_with_open_clips_own_pipeline(tmp_path: Path) -> None:
    """The same pixels through open_clip's PIL transform and model, and as uint8 through ours."""
    from PIL import Image

    retriever = tiny(tmp_path).eval()
    images = random_images(4, 16)
    transform = open_clip.image_transform(16, is_train=False)
    pixels = torch.stack([transform(Image.fromarray(i.permute(1, 2, 0).numpy().astype(np.uint8))) for i in images])
    with torch.no_grad():
        image, text, scale = retriever.model(pixels, open_clip.tokenize(["a dog", "the sea"], context_length=8))
        torch.testing.assert_close(retriever.encode_image(images), image)
        torch.testing.assert_close(retriever.encode_image(images.float() / 255), image)
        torch.testing.assert_close(retriever.encode_text(retriever.tokenize(["a dog", "the sea"])), text)
    assert retriever.logit_scale.item() == pytest.approx(scale.item())


def test_tokenizer_travels_without_the_model(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    sent = pickle.dumps(retriever.tokenize)
    tokens = pickle.loads(sent)(["a dog", "a " * 50])
    assert tokens.shape == (2, 8)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, open_clip.tokenize(["a dog", "a " * 50], context_length=8))
    assert retriever.tokenize([]).shape == (0, 8)


def test_initial_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    torch.manual_seed(1)
    first = weights(OpenClipRetriever(config=config))
    torch.manual_seed(1)
    torch.rand(17)  # something else has drawn in between
    drawn = torch.get_rng_state()
    second = OpenClipRetriever(config=config)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert same(first, weights(second))
    torch.manual_seed(2)
    assert not same(first, weights(OpenClipRetriever(config=config)))


def test_a_config_called_like_an_architecture_does_not_replace_it(tmp_path: Path) -> None:
    before = open_clip.get_model_config("ViT-B-32")
    path = tmp_path / "ViT-B-32.json"
    path.write_text(Path(write_config(tmp_path)).read_text())
    assert OpenClipRetriever(config=str(path)).embed_dim == 12
    assert open_clip.get_model_config("ViT-B-32") == before


def test_configs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    wide = write_config(tmp_path / "other", embed_dim=20)
    assert [OpenClipRetriever(config=c).embed_dim for c in (write_config(tmp_path), wide)] == [12, 20]


def test_an_exported_config_brings_its_preprocessing(tmp_path: Path) -> None:
    config = json.loads(Path(write_config(tmp_path)).read_text())
    path = tmp_path / "open_clip_config.json"
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    path.write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    spec = OpenClipRetriever(config=str(path)).preprocess
    assert (spec.mean, spec.std, spec.size) == ((0.5,) * 3, (0.25,) * 3, (16, 16))
    assert (spec.interpolation, spec.resize_mode) == ("bilinear", "squash")


def test_sigmoid_bias_is_exposed(tmp_path: Path) -> None:
    retriever = OpenClipRetriever(config=write_config(tmp_path, init_logit_bias=-10.0))
    assert retriever.logit_bias is not None
    assert retriever.logit_bias.item() == -10.0
    assert tiny(tmp_path).logit_bias is None


def test_logit_scale_is_clamped_in_place(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    for raw, expected in ((9.0, 100.0), (-3.0, 1.0), (2.0, float(np.exp(2.0)))):
        retriever.model.logit_scale.data.fill_(raw)
        retriever.clamp_logit_scale()
        assert retriever.logit_scale.item() == pytest.approx(expected, rel=1e-5)


def test_weights_round_trip_through_safetensors(tmp_path: Path) -> None:
    retriever = tiny(tmp_path, "resnet", seed=3)
    path = str(tmp_path / "weights.safetensors")
    retriever.save_weights(path)
    again = tiny(tmp_path, "resnet", seed=4, pretrained=path)
    assert same(weights(retriever), weights(again))
    assert load_file(path).keys() == retriever.model.state_dict().keys()


@pytest.mark.parametrize("form", ["plain", "wrapped", "run"])
def test_weights_from_torch_files(tmp_path: Path, form: str) -> None:
    retriever = tiny(tmp_path, seed=3)
    state = retriever.model.state_dict()
    saved: dict[str, Any] = {
        "plain": state,
        "wrapped": {"state_dict": {f"module.{name}": t for name, t in state.items()}, "epoch": 3},
        "run": {"state_dict": {f"retriever.model.{n}": t for n, t in state.items()} | {"losses.a.b": torch.zeros(1)}},
    }[form]
    path = tmp_path / ("last.ckpt" if form == "run" else "weights.pt")
    torch.save(saved, path)
    assert same(weights(retriever), weights(tiny(tmp_path, seed=4, pretrained=str(path))))


def test_shared_checkpoint_loads(shared_data: Path) -> None:
    folder = shared_data / "checkpoint"
    options = {"config": str(folder / "MobileNetV2-tiny.json")}
    retriever = OpenClipRetriever(pretrained=str(folder / "MobileNetV2-tiny.safetensors"), **options).eval()
    stored = load_file(folder / "MobileNetV2-tiny.safetensors")
    for name, tensor in retriever.model.state_dict().items():
        assert torch.equal(tensor, stored[name].to(tensor.dtype)), name
    assert (retriever.image_size, retriever.context_length, retriever.embed_dim) == ((224, 224), 32, 256)


def test_errors_name_the_option_and_the_remedy(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    broken, lacking, odd = tmp_path / "broken.json", tmp_path / "lacking.json", tmp_path / "odd.json"
    broken.write_text('{"embed_dim": 12,')
    lacking.write_text('{"embed_dim": 12}')
    odd.write_text(json.dumps({**json.loads(Path(config).read_text()), "vision_cfg": {"widht": 3}}))
    misfit = tmp_path / "misfit.safetensors"
    tiny(tmp_path, "resnet").save_weights(str(misfit))
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"no weights")
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "either name .* or config"),
        ({"name": "ViT-B-32", "config": config}, "either name .* or config"),
        ({"name": "ViT-B-31"}, "'ViT-B-31'.*nearest are ViT-B-32"),
        ({"config": str(tmp_path / "none.json")}, "none.json"),
        ({"config": str(broken)}, "broken.json is not JSON"),
        ({"config": str(lacking)}, "lacks vision_cfg, text_cfg"),
        ({"config": str(odd)}, "widht"),
        ({"config": config, "pretrained": "/no/such.pt"}, "no file /no/such.pt"),
        ({"name": "RN50", "pretrained": "laion9"}, "laion9.*tags of RN50 are openai"),
        ({"config": config, "pretrained": str(misfit)}, "misfit.safetensors does not fit"),
        ({"config": config, "pretrained": str(garbage)}, "garbage.pt does not fit"),
        ({"config": config, "unlocked_groups": 1}, "needs lock_image"),
        ({"config": config, "lock_image": True, "unlocked_groups": -1}, "0 or more"),
        ({"config": config, "lock_image": True, "unlocked_groups": 9}, "has 4 groups"),
    ]
    for options, message in cases:
        with pytest.raises(ModelError, match=message):
            OpenClipRetriever(**options)


def test_a_tag_that_cannot_be_fetched_says_so(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its switches when it is imported."""
    program = (
        "from models import ModelError, OpenClipRetriever\n"
        "try:\n    OpenClipRetriever('ViT-B-32', pretrained='laion2b_s34b_b79k')\n"
        "except ModelError as error:\n    print('ModelError:', error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True, timeout=300
    )
    assert (
        "ModelError: the weights ViT-B-32/laion2b_s34b_b79k are not in the cache and cannot be fetched" in done.stdout
    )
    assert "model.retriever.pretrained" in done.stdout


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"32 x 32 pixels reach a tower for 16 x 16"):
        tiny(tmp_path).encode_image(random_images(1, 32))


@pytest.mark.parametrize("options", [{"grad_checkpointing": True}, {"channels_last": True}])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_memory_options_change_no_value(tmp_path: Path, kind: str, options: dict[str, bool]) -> None:
    plain, other = tiny(tmp_path, kind), tiny(tmp_path, kind, **options)
    images = random_images(4, plain.image_size[0])
    for retriever in (plain, other):
        retriever.eval()  # batch norm over four pictures of one pixel multiplies rounding a thousandfold
        retriever.encode_image(images)[:, 0].sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), other.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_compiled_towers_keep_names_and_values(tmp_path: Path) -> None:
    plain, compiled = tiny(tmp_path).eval(), tiny(tmp_path, compile=True).eval()
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    images, tokens = random_images(3, 16), plain.tokenize(["a dog", "a cat"])
    with torch.no_grad():
        torch.testing.assert_close(compiled.encode_image(images), plain.encode_image(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compiled.encode_text(tokens), plain.encode_text(tokens), rtol=1e-4, atol=1e-5)


def test_compiled_towers_are_not_compiled_anew_for_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions have lengths of their own in every batch, and last batches are short: a graph that has once met another
    length or size has to do for all."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_module(module, backend="eager"))
    torch._dynamo.reset()
    config = tmp_path / "tower.json"
    text = TEXT | {"context_length": 32}
    config.write_text(json.dumps({"embed_dim": 12, "vision_cfg": VISION["vit"], "text_cfg": text}))
    ours = OpenClipRetriever(config=str(config), compile=True)
    counters = torch._dynamo.utils.counters["stats"]
    counters.clear()
    lengths, graphs = set(), []
    for words, size in ((3, 8), (12, 8), (20, 5), (3, 7), (13, 2), (28, 6)):
        tokens = ours.tokenize(["dog " * words] * size)
        lengths.add(tokens.shape[1])
        text = ours.encode_text(tokens)
        image = ours.encode_image(random_images(size, ours.image_size[0]))
        (text.sum() + image.sum()).backward()
        graphs.append(counters["unique_graphs"])
    assert lengths == {8, 16, 24, 32}
    assert graphs[0] == 2
    assert graphs[2:] == [graphs[2]] * 4
    assert graphs[-1] <= 5  # as written, any length, any length and size; as written, any size
