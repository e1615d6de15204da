"""Edited pictures and captions in a training step: what is encoded, and in which rows it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_retriever import TinyData, make_batch, tiny, trainer
from torch import Tensor

from losses import CounterfactualContrast, CounterfactualInfoNCE, Features, InfoNCE, Loss, SpuriousPrompts
from models import LossTerm, ModelError, OptimizerConfig, RetrieverModule


class Probe(Loss):
    """Asks for edits, and keeps what it was given."""

    needs_edit = True
    needs_people = True
    needs_twin = True
    needs_teacher = True

    def __init__(self, prompts: bool = False) -> None:
        super().__init__()
        self.needs_edit_prompt = prompts

    def forward(self, features: Features) -> dict[str, Tensor]:
        return {"probe": features.image.sum() * 0}


def module_with(retriever: object, **losses: Loss) -> RetrieverModule:
    terms = {name: LossTerm(loss) for name, loss in losses.items()}
    return RetrieverModule(retriever, terms, OptimizerConfig(lr=1e-3))  # type: ignore[arg-type]


def test_edits_share_the_anchors_batch_norm_and_stand_in_their_rows(tmp_path: Path) -> None:
    retriever = tiny(tmp_path, "resnet").train()
    module = module_with(retriever, probe=Probe(prompts=True))
    batch = make_batch(retriever, twins=(5, 0), people=(0, 1), edits=(6, 1, 3))
    pictures = [batch[name] for name in ("image", "twin", "edit", "person")]
    together = retriever.encode_image(torch.cat(pictures))
    features = module.features(batch)
    torch.testing.assert_close(features.image, together[:8])
    assert features.twin is not None
    torch.testing.assert_close(features.twin[[5, 0]], together[8:10])
    assert features.person is not None
    torch.testing.assert_close(features.person, together[13:])
    for found, expected in (
        (features.edit, together[10:13]),
        (features.edit_text, retriever.encode_text(batch["edit_tokens"])),
        (features.edit_prompt, retriever.encode_text(batch["edit_prompt_tokens"])),
    ):
        assert found is not None
        torch.testing.assert_close(found[[6, 1, 3]], expected)
        assert not found[[0, 2, 4, 5, 7]].any()
    assert features.has_edit is not None
    assert features.has_edit.nonzero().flatten().tolist() == [1, 3, 6]
    assert features.edit_added is not None
    assert features.edit_added.nonzero().flatten().tolist() == [1, 3]
    assert features.edit_caption_id is not None
    assert features.edit_caption_id[[6, 1, 3]].tolist() == batch["edit_caption_id"].tolist()
    assert features.teacher_image is not None
    torch.testing.assert_close(features.teacher_image, module.teacher.encode_image(batch["image"]))  # type: ignore[union-attr]


def test_what_no_loss_reads_is_not_encoded(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    batch = make_batch(retriever, edits=(0, 1), people=(0,), twins=(2,))
    features = module_with(retriever, c=InfoNCE()).features(batch)
    assert features.edit is None
    assert features.has_edit is None
    features = module_with(retriever, probe=Probe()).features(batch)
    assert features.edit is not None
    assert features.edit_prompt is None


def test_training_with_and_without_edits_in_a_step(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    losses = {"c": CounterfactualInfoNCE(), "d": CounterfactualContrast(), "s": SpuriousPrompts()}
    batches = [make_batch(retriever, edits=edits, seed=seed) for seed, edits in enumerate([(0, 3), (), (7,)])]
    run = trainer(tmp_path, max_steps=3)
    run.fit(module_with(retriever, **losses), TinyData(batches))
    assert {"train/d/a1", "train/d/a2", "train/d/follows", "train/s/spurious_prompts"} <= set(run.callback_metrics)


def test_data_without_edits_is_refused(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    with pytest.raises(ModelError, match=r"the loss d reads edited pictures .*DecorrelatedDataModule"):
        module_with(retriever, c=InfoNCE(), d=CounterfactualContrast()).features(make_batch(retriever))
