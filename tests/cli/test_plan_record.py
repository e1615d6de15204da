from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules.errors import DataError

Train = Callable[..., Path]


def test_the_plan_is_in_the_run_folder_and_in_every_checkpoint(train: Train) -> None:
    folder = train("--checkpoint_every=2")
    recorded = json.loads((folder / "plan.json").read_text())
    checkpoint = torch.load(folder / "checkpoints" / "step=6.ckpt", weights_only=False)
    assert checkpoint["MixedSourceDataModule"]["plan"] == recorded["fingerprint_parts"]
    assert checkpoint["MixedSourceDataModule"]["samples"] == 6 * 16
    assert recorded["fingerprint"] == recorded["fingerprint_parts"]["plan"]
    assert (recorded["fingerprint_parts"]["share"], recorded["fingerprint_parts"]["seed"]) == ("0.5", "3")
    assert recorded["sources"] == {"real": 96, "world-gen": 96}
    assert (recorded["photos"], recorded["generated"], recorded["skipped_photos"]) == (96, 96, 0)


def test_another_plan_is_recorded_beside_the_old_one_and_only_when_forced(train: Train) -> None:
    folder = train("--trainer.max_steps=3")
    first = (folder / "plan.json").read_bytes()
    train("--resume=auto", "--trainer.max_steps=4")
    with pytest.raises(DataError, match=r"share was 0.5, is 0.25"):
        train("--resume=auto", "--data.share=0.25")
    assert [path.name for path in folder.glob("plan*")] == ["plan.json"]
    assert (folder / "plan.json").read_bytes() == first
    train("--resume=auto", "--data.share=0.25", "--data.force_resume=true")
    assert sorted(path.name for path in folder.glob("plan*")) == ["plan.before-4.json", "plan.json"]
    assert (folder / "plan.before-4.json").read_bytes() == first
    assert json.loads((folder / "plan.json").read_text())["fingerprint_parts"]["share"] == "0.25"
