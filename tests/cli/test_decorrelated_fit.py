"""Training against object bias by the command line: every loss on edits, stopped and resumed, and measured."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from bias_train.cli.main import main
from datamodules.errors import DataError
from datamodules.index import ShardIndex

Train = Callable[..., Path]

LOSSES = {
    "contrastive": "InfoNCE",
    "pairs": "CounterfactualInfoNCE",
    "choices": "CounterfactualContrast",
    "captions": "HardNegativeCaptions",
    "margins": "OHDMargins",
    "prompts": "SpuriousPrompts",
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    assert main(["world", str(folder), "--objects", "--samples", "60", "--together", "0.6"]) == 0
    return folder


@pytest.fixture(scope="module")
def edited(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that takes pairs and edits from one small world of houses and balls."""
    callbacks = {
        "bias_train.callbacks.retrieval.Retrieval": {"ratios": [0.0], "resamples": 20},
        "bias_train.callbacks.weights.PullToStart": {"strength": 10.0},
        "bias_train.callbacks.object_decorrelation.ObjectDecorrelation": {
            "shards": [str(shards)], "vocabulary": str(shards / "vocabulary.csv"), "pairs": [["ball", "house"]],
            "resamples": 20, "minimum": 1,
        },
    }  # fmt: skip
    document = {
        "model": {"losses": {name: {"loss": {"class_path": f"losses.{kind}"}} for name, kind in LOSSES.items()}},
        "data": {
            "class_path": "datamodules.decorrelated.DecorrelatedDataModule",
            "init_args": {
                "train": [str(shards)], "val": [str(shards)], "edited": [str(shards)], "edit_share": 0.5, "share": 0.0,
                "twin_share": 0.0,
            },
        },
        "trainer": {"callbacks": [{"class_path": path, "init_args": given} for path, given in callbacks.items()]},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("config") / "edited.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_a_world_with_edits(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = ShardIndex.load(shards)
    assert set(index.view_names) == {"", "no-ball", "with-ball", "control-ball"}
    assert (shards / "vocabulary.csv").is_file()
    with pytest.raises(SystemExit):
        main(["world", str(shards), "--objects", "--people"])
    assert "give one of --people, --objects and --text" in capsys.readouterr().err


def test_a_stopped_run_on_edits_goes_on_to_the_same_end(train: Train, edited: Path) -> None:
    given = [f"--config={edited}", "--model.schedule.total_steps=4", "--trainer.val_check_interval=2"]
    whole = train(*given, "--trainer.max_steps=4", name="whole")
    cut = train(*given, "--trainer.max_steps=2", name="cut")
    train(*given, "--trainer.max_steps=4", "--resume=auto", name="cut")
    assert rows(cut / "metrics.csv") == rows(whole / "metrics.csv")
    states = [torch.load(f / "checkpoints" / "step=4.ckpt", weights_only=False)["state_dict"] for f in (whole, cut)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=0)
    logged = {name for row in rows(whole / "metrics.csv") for name, value in row.items() if value}
    assert {
        "train/pairs/counterfactual_infonce",
        "train/choices/a1",
        "train/choices/follows",
        "train/captions/hard_negative_captions",
        "train/margins/margin_false",
        "train/prompts/spurious_prompts",
        "bias/object/i2t_H_removed_pairs@10",
    } <= logged
    plan = json.loads((whole / "plan.json").read_text())["fingerprint_parts"]
    assert plan["edits.share"] == "0.5"
    # The plan of edits is part of what a run may not change.
    with pytest.raises(DataError, match=r"edits\.share was 0\.5, is 0\.25"):
        train(*given, "--trainer.max_steps=5", "--resume=auto", "--data.init_args.edit_share=0.25", name="cut")
