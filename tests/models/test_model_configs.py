"""The shipped model configurations, and the module as the command line builds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from tiny_retriever import make_batch, random_images, write_config

from losses import InfoNCE, RankHinge
from models import LossTerm, ModelError, OpenClipRetriever, RetrieverModule, WeightSchedule

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "model"


def build(config: dict[str, Any]) -> RetrieverModule:
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf+")
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(RetrieverModule, "model")
    return parser.instantiate(parser.parse_string(yaml.safe_dump(config))).model  # type: ignore[no-any-return]


def test_the_module_is_built_from_yaml(tmp_path: Path) -> None:
    text = f"""
    model:
      retriever:
        class_path: models.OpenClipRetriever
        init_args: {{config: {write_config(tmp_path)}, lock_image: true, unlocked_groups: 1}}
      losses:
        contrastive: {{weight: 1.0, loss: {{class_path: losses.InfoNCE}}}}
        debias:
          weight: {{start: 0.0, end: 0.5, warmup_steps: 10}}
          loss: {{class_path: losses.source.RankHinge, init_args: {{two_sided: true}}}}
      optimizer: {{lr: 3.0e-4, betas: [0.9, 0.95]}}
      schedule: {{warmup_steps: 5, min_lr_share: 0.1}}
    """
    module = build(yaml.safe_load(text))
    assert isinstance(module.retriever, OpenClipRetriever)
    contrastive, debias = module.terms["contrastive"], module.terms["debias"]
    assert isinstance(contrastive, LossTerm)
    assert isinstance(contrastive.loss, InfoNCE)
    assert contrastive.weight == 1.0
    assert isinstance(debias.loss, RankHinge)
    assert debias.loss.two_sided
    assert debias.weight == WeightSchedule(0.0, 0.5, 10)
    assert (module.optimizer_config.lr, module.optimizer_config.betas) == (3e-4, (0.9, 0.95))
    assert (module.schedule_config.warmup_steps, module.schedule_config.decay) == (5, "cosine")


@pytest.mark.parametrize(("name", "side"), [("tiny32", 48), ("tiny64", 64)])
def test_tiny_configurations_train(name: str, side: int) -> None:
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    options = config["model"]["retriever"]["init_args"]
    options["config"] = str(CONFIGS.parents[1] / options["config"])
    config["model"]["losses"] = {"contrastive": {"weight": 1.0, "loss": {"class_path": "losses.InfoNCE"}}}
    retriever = build(config).retriever
    assert isinstance(retriever, OpenClipRetriever)
    assert retriever.image_size == (side, side)
    batch = make_batch(retriever)
    (retriever.encode_image(batch["image"]) * retriever.encode_text(batch["tokens"])).sum().backward()
    without = [n for n, p in retriever.named_parameters() if p.grad is None and n != "model.logit_scale"]
    assert not without


def test_the_checkpoint_configuration_loads(shared_data: Path) -> None:
    config = yaml.safe_load((CONFIGS / "mobilenet_checkpoint.yaml").read_text())
    options = config["model"]["retriever"]["init_args"]
    for key in ("config", "pretrained"):
        options[key] = str(shared_data / "checkpoint" / Path(options[key]).name)
    config["model"]["losses"] = {"contrastive": {"weight": 1.0, "loss": {"class_path": "losses.InfoNCE"}}}
    retriever = build(config).retriever
    with torch.no_grad():
        assert retriever.eval().encode_image(random_images(2, 224)).shape == (2, 256)


def test_the_pretrained_configuration_names_a_tag_that_exists() -> None:
    import open_clip

    options = yaml.safe_load((CONFIGS / "vit_b32.yaml").read_text())["model"]["retriever"]["init_args"]
    assert options["pretrained"] in open_clip.list_pretrained_tags_by_model(options["name"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_architectures_have_names_of_their_own(path: Path) -> None:
    import open_clip

    assert path.stem not in open_clip.list_models()
    assert {"embed_dim", "vision_cfg", "text_cfg"} <= json.loads(path.read_text()).keys()


def test_a_wrong_value_is_the_modules_own_message(tmp_path: Path) -> None:
    config = {
        "model": {
            "retriever": {"class_path": "models.OpenClipRetriever", "init_args": {"name": "ViT-B-31"}},
            "losses": {"contrastive": {"loss": {"class_path": "losses.InfoNCE"}}},
        }
    }
    with pytest.raises(ModelError, match="nearest are ViT-B-32"):
        build(config)
