"""A small world and a small retriever for the commands' tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bias_train.cli.fit import fit
from datamodules.world import World, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a few scenes with twins: ``train`` and ``val``."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder / "train", samples=96, world=World(size=32))
    write_world(folder / "val", samples=40, world=World(size=32), split_offset=96)
    return folder


@pytest.fixture(scope="session")
def config(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that trains a very small dual encoder for six steps."""
    folder = tmp_path_factory.mktemp("config")
    model = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "model.json").write_text(json.dumps(model))
    document = {
        "include": ["configs/loss/rank_hinge.yaml", "configs/trainer/cpu.yaml"],
        "seed_everything": 3,
        "model": {
            "retriever": {
                "class_path": "models.open_clip_retriever.OpenClipRetriever",
                "init_args": {"config": str(folder / "model.json")},
            },
            "optimizer": {"lr": 1e-3},
        },
        "data": {
            "class_path": "datamodules.mixed_source.MixedSourceDataModule",
            "init_args": {
                "train": [str(world / "train")],
                "val": [str(world / "val")],
                "share": 0.5,
                "batch_size": 16,
            },
        },
        "trainer": {
            "max_steps": 6,
            "val_check_interval": 3,
            "log_every_n_steps": 1,
            "enable_progress_bar": True,
            "callbacks": [
                {
                    "class_path": "bias_train.callbacks.source_bias.SourceBias",
                    "init_args": {"ratios": [0.5], "ks": [1, 5], "resamples": 50, "examples": 2, "example_top": 3},
                },
                {"class_path": "bias_train.callbacks.retrieval.Retrieval", "init_args": {"resamples": 50}},
            ],
        },
        "logging": {"wandb": False, "tensorboard": False},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def train(config: Path, tmp_path: Path) -> Callable[..., Path]:
    """Run ``bias-train fit`` in this process with the small configuration and further arguments."""

    def run(*arguments: str, name: str = "run") -> Path:
        return fit(["--config", str(config), "--run_dir", str(tmp_path / name), *arguments])

    return run
