"""Training against text spotting by the command line: every loss on overlays and words, stopped and resumed."""

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

Train = Callable[..., Path]

LOSSES = {
    "contrastive": ("InfoNCE", {}),
    "twins": ("TwinConsistency", {}),
    "invariance": ("OverlayInvariance", {}),
    "follow": ("OverlayInvariance", {"target": "anchor"}),
    "choice": ("TypographicNegative", {}),
    "words": ("AntiSync", {"side": "image"}),
    "language": ("KeepStart", {"of": ["captions"]}),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that adds overlays and words to one with generated pictures and twins."""
    document = {
        "model": {
            "losses": {
                name: {"loss": {"class_path": f"losses.{kind}", "init_args": options}}
                for name, (kind, options) in LOSSES.items()
            }
        },
        "data": {
            "class_path": "datamodules.text_spotting.TextSpottingDataModule",
            "init_args": {
                "overlay_share": 0.5, "rendered_words": 6, "caption_with_word": "{word}, {caption}",
                "lettering": {"height": [0.2, 0.4], "fonts": ["dejavu-sans-bold"]}, "augment": {"flip": 0.5},
            },
        },
    }  # fmt: skip
    path = tmp_path_factory.mktemp("text") / "text.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_stopped_run_on_overlays_and_words_goes_on_to_the_same_end(
    train: Train, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--config={text}", "--model.schedule.total_steps=4", "--trainer.val_check_interval=2"]
    whole = train(*given, "--trainer.max_steps=4", name="whole")
    cut = train(*given, "--trainer.max_steps=2", name="cut")
    train(*given, "--trainer.max_steps=4", "--resume=auto", name="cut")
    assert rows(cut / "metrics.csv") == rows(whole / "metrics.csv")
    states = [torch.load(f / "checkpoints" / "step=4.ckpt", weights_only=False)["state_dict"] for f in (whole, cut)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=0)
    logged = {name for row in rows(whole / "metrics.csv") for name, value in row.items() if value}
    assert {
        "train/contrastive/infonce",
        "train/twins/twin_consistency",
        "train/invariance/overlay_invariance",
        "train/follow/overlay_invariance",
        "train/choice/typographic_negative",
        "train/choice/caption_wins",
        "train/words/anti_sync",
        "train/words/sync",
        "train/language/keep_captions",
        "train/words/gradient_share",
    } <= logged
    parts = json.loads((whole / "plan.json").read_text())["fingerprint_parts"]
    assert (parts["overlays.share"], parts["overlays.rendered_words"]) == ("0.5", "6")
    # The plan of overlays is part of what a run may not change.
    with pytest.raises(DataError, match=r"overlays\.share was 0\.5, is 0\.25"):
        train(*given, "--trainer.max_steps=5", "--resume=auto", "--data.init_args.overlay_share=0.25", name="cut")
    capsys.readouterr()
    listing = tmp_path / "plan.csv"
    assert main(["shards", "plan", "--run", str(whole), "--steps", "0:4", "--output", str(listing)]) == 0
    assert len(rows(listing)) == 4 * 16
    changed = ["--data.init_args.word_query=a {word}"]
    assert main(["shards", "plan", "--run", str(whole), "--steps", "0:4", *changed]) != 0
    assert "overlays.word_query was" in capsys.readouterr().err
