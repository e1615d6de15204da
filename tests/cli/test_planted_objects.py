"""A retriever trained on the world of objects recalls the ball that is not there; edits in training take that away."""

from __future__ import annotations

from pathlib import Path

import pytest

from bias_train.audit.object.edited_set import EditedSet, edited_set, embed_edited
from bias_train.cli.fit import fit
from bias_train.metrics.functional.object.questions import answers
from datamodules.world import WorldObjects, write_objects_world
from models import OpenClipRetriever


def measure(asked: EditedSet, weights: Path) -> dict[str, float]:
    """H@10 of the ball that was taken out, with and without a house in the picture, and R@1 of unedited pictures."""
    retriever = OpenClipRetriever(config="configs/model/world32.json", pretrained=str(weights))
    found = answers(asked.questions, *embed_edited(retriever, asked), ks=(10,), clean_ks=(1,))
    bias = found.bias["i2t"]
    has_house = bias.present[:, asked.questions.categories.index("house")]
    recalled = bias.column("H_removed", 10)
    clean = {figure.key: figure.value for figure in found.figures()}
    return {
        "house": float(recalled[has_house].mean()),
        "no house": float(recalled[~has_house].mean()),
        "original": float(bias.column("H_original", 10)[has_house].mean()),
        "R@1": clean["clean_i2t_R@1"],
    }


@pytest.mark.slow
def test_edits_take_away_what_was_planted(tmp_path: Path) -> None:
    """A short form of configs/sweep/world_object.yaml, far from converged: a quarter of the steps, one seed."""
    train, val = tmp_path / "train", tmp_path / "val"
    write_objects_world(train, samples=1500)
    write_objects_world(val, samples=300, split_offset=1500, objects=WorldObjects(together=0.5))
    asked = edited_set([str(val)], vocabulary=str(val / "vocabulary.csv"))
    found = {}
    for name, losses in (("control", "infonce"), ("edits", "counterfactual")):
        run = fit(
            [
                "--config=configs/experiment/world_object.yaml",
                f"--config=configs/loss/{losses}.yaml",
                f"--data.train=[{train}]",
                f"--data.edited=[{train}]",
                "--data.val=[]",
                f"--run_dir={tmp_path / name}",
                "--model.schedule.warmup_steps=10",
                "--data.batch_size=96",
                "--trainer.max_steps=110",
                "--trainer.callbacks=[]",
                "--logging.wandb=false",
                "--logging.tensorboard=false",
            ]
        )
        found[name] = measure(asked, run / "retriever.safetensors")
    print(found)
    control, edits = found["control"], found["edits"]
    gap = control["house"] - control["no house"]
    assert gap > 0.25  # the house alone makes the retriever recall a ball
    assert edits["house"] - edits["no house"] < 0.5 * gap
    assert edits["original"] - edits["house"] > 0.15  # and a ball that is there is still seen
    assert edits["R@1"] > control["R@1"] - 0.01
