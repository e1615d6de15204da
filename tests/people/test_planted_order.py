"""A retriever trained on the world of people prefers groups by word in the order in which that was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from bias_train.cli.fit import fit
from bias_train.people.embed import embed_people, embed_words
from datamodules.taxonomy import load_taxonomy, word_prompts
from datamodules.world import read_strengths, write_people_world
from models import OpenClipRetriever


@pytest.mark.slow
def test_training_finds_the_planted_order(tmp_path: Path) -> None:
    train, val = tmp_path / "train", tmp_path / "val"
    write_people_world(train, samples=1792)
    write_people_world(val, samples=400, split_offset=1792)
    run = fit(
        [
            "--config=configs/experiment/world_social.yaml",
            f"--data.train=[{train}]",
            f"--data.val=[{val}]",
            f"--run_dir={tmp_path / 'run'}",
            "--trainer.max_steps=70",
            "--trainer.val_check_interval=70",
            "--trainer.callbacks=[]",
            "--logging.wandb=false",
            "--logging.tensorboard=false",
        ]
    )
    retriever = OpenClipRetriever(config="configs/model/world32.json", pretrained=str(run / "retriever.safetensors"))
    people = embed_people(retriever, [str(val)])
    words = embed_words(retriever, word_prompts(load_taxonomy(val / "words.csv").entries))
    coat = people.grouping("coat")
    score = (words.text @ people.image.T).numpy()
    purple = coat.code == coat.labels.index("purple")
    association = (score[:, purple].mean(1) - score[:, ~purple].mean(1)) / score.std(1, ddof=1)
    strength = np.array([read_strengths(val)[word] for word in words.word])
    print(f"rank correlation {spearmanr(strength, association).statistic:.3f}")
    assert spearmanr(strength, association).statistic > 0.95
