"""Training against social bias by the command line: people beside pairs, every loss on them, stopped and resumed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from datamodules.errors import DataError
from datamodules.world import WorldPeople, write_people_world

Train = Callable[..., Path]

LOSSES = {
    "contrastive": "InfoNCE",
    "scores": "GroupScores",
    "prompts": "PromptAdversary",
    "attributes": "AttributeAdversary",
    "spread": "GroupSpread",
    "joint": "JointAlignment",
    "keep": "KeepStart",
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that takes pairs and people from one small world of robots."""
    folder = tmp_path_factory.mktemp("faces")
    write_people_world(folder / "robots", samples=60, people=WorldPeople())
    robots = folder / "robots"
    document = {
        "model": {
            "losses": {name: {"loss": {"class_path": f"losses.{kind}"}} for name, kind in LOSSES.items()},
            "prompts": {"words": str(robots / "words.csv"), "groups_file": str(robots / "group_prompts.json")},
        },
        "data": {
            "class_path": "datamodules.faces.FacesDataModule",
            "init_args": {
                "train": [str(robots)], "val": [str(robots)], "people": [str(robots)], "attribute": "coat",
                "people_batch_size": 8, "share": 0.0, "twin_share": 0.0,
            },
        },
        "trainer": {
            "callbacks": [{"class_path": "bias_train.callbacks.retrieval.Retrieval", "init_args": {"resamples": 20}}]
        },
    }  # fmt: skip
    path = folder / "faces.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_stopped_run_on_people_goes_on_to_the_same_end(train: Train, faces: Path) -> None:
    given = [f"--config={faces}", "--model.schedule.total_steps=4", "--trainer.val_check_interval=2"]
    whole = train(*given, "--trainer.max_steps=4", name="whole")
    cut = train(*given, "--trainer.max_steps=2", name="cut")
    train(*given, "--trainer.max_steps=4", "--resume=auto", name="cut")
    assert rows(cut / "metrics.csv") == rows(whole / "metrics.csv")
    states = [torch.load(f / "checkpoints" / "step=4.ckpt", weights_only=False)["state_dict"] for f in (whole, cut)]
    assert {"losses.prompts.head.0.weight", "losses.attributes.heads.0.0.weight"} <= states[0].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=0)
    logged = {name for row in rows(whole / "metrics.csv") for name, value in row.items() if value}
    assert {
        "train/scores/group_scores",
        "train/scores/groups_left_out",
        "train/prompts/prompt_adversary",
        "train/prompts/accuracy",
        "train/attributes/attribute_adversary",
        "train/spread/group_spread",
        "train/joint/joint_alignment",
        "train/keep/keep_people",
    } <= logged
    plan = json.loads((whole / "plan.json").read_text())["fingerprint_parts"]
    assert plan["people.attribute"] == '"coat"'
    # The plan of people is part of what a run may not change.
    with pytest.raises(DataError, match=r'people\.sampling was "balanced", is "pool"'):
        train(*given, "--trainer.max_steps=5", "--resume=auto", "--data.init_args.sampling=pool", name="cut")
