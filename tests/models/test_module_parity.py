"""A whole training run on one process and on two gloo processes of the same global batch, through Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from tiny_retriever import CAPTIONS, SharesKept, TinyData, make_batch, random_images, tiny, trainer

from losses import (
    AttributeAdversary,
    CounterfactualContrast,
    CounterfactualInfoNCE,
    GroupScores,
    GroupSpread,
    InfoNCE,
    JointAlignment,
    KeepStart,
    PromptAdversary,
    RankHinge,
    SpuriousPrompts,
    TwinConsistency,
)
from models import LossTerm, PromptConfig

QUERIES = tuple(CAPTIONS[:5])
GALLERY = 11


class Record(Callback):
    """Writes every step's gradients and figures, and the embedded set, by rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.figures: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        found = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}
        self.gradients.append(found)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.figures.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        embedded = pl_module.embedded_set()
        saved = {
            "gradients": self.gradients,
            "figures": self.figures,
            "shares": pl_module.shares,
            "image": embedded.image,
            "text": embedded.text,
        }
        torch.save(saved, self.folder / f"rank{trainer.global_rank}.pt")


# Groups that lie on one rank only, unknown people, and a batch of one group.
PEOPLE = [(0, 0, 1, 1, 2, 2, 0, -1, 0, 0), (-1, 1, 1, 0, 0, 0, 2, 1, 2, 1), (1,) * 10]
EDITS = [(0, 1, 3, 7), (), (2, 5)]  # mostly on one rank, on none, and one on each
PROMPTS = PromptConfig(
    neutral=["a photo of a smart person", "a photo of a lazy person", "a photo of a rich person"],
    groups={name: [f"a photo of a {name} person", f"a {name} face"] for name in ("red", "green", "blue")},
)


def social_losses() -> dict[str, LossTerm]:
    return {
        "prompts": LossTerm(PromptAdversary(groups=3), 0.5),
        "attributes": LossTerm(AttributeAdversary(groups=[3, 2], hidden=4), 0.5),
        "scores": LossTerm(GroupScores(), 0.5),
        "spread": LossTerm(GroupSpread(), 5.0),
        "joint": LossTerm(JointAlignment(), 0.5),
        "keep": LossTerm(KeepStart(of=["captions", "people", "prompts", "group_prompts"]), 5.0),
    }


def object_losses() -> dict[str, LossTerm]:
    return {
        "pairs": LossTerm(CounterfactualInfoNCE(), 0.5),
        "choices": LossTerm(CounterfactualContrast(b1=0.5), 0.5),
        "words": LossTerm(SpuriousPrompts(), 0.5),
    }


def run(folder: Path, world: int) -> list[dict[str, Any]]:
    folder.mkdir()
    retriever = tiny(folder, "vit", seed=1)  # no batch norm: its statistics are each rank's own
    drawn = [(0, 1, 6), (2,), (4, 5, 7)]
    batches = [make_batch(retriever, 8, twins, seed, PEOPLE[seed], EDITS[seed]) for seed, twins in enumerate(drawn)]
    batches[0]["caption_id"][5] = batches[0]["caption_id"][0]  # a duplicate that lies on the other rank
    batches[1]["tokens"] = batches[1]["tokens"][[0, 0, 0, 0, 1, 2, 3, 4]]  # encoded once on one rank, each on the other
    losses = {
        "contrastive": LossTerm(InfoNCE()),
        "hinge": LossTerm(RankHinge(two_sided=True, p=0.7), 0.5),
        "twins": LossTerm(TwinConsistency(teacher="frozen"), 0.3),
        **social_losses(),
        **object_losses(),
    }
    module = SharesKept(retriever, losses, gradient_share_every=1, prompts=PROMPTS)
    data = TinyData(batches, random_images(GALLERY, 16, seed=5), QUERIES, twin_share=0.4)
    strategy: Any = "auto" if world == 1 else DDPStrategy(process_group_backend="gloo", start_method="spawn")
    trainer(folder, devices=world, strategy=strategy, max_steps=3, callbacks=[Record(folder)]).fit(module, data)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("parity")
    return run(folder / "one", 1)[0], run(folder / "two", 2)


def test_gradients_are_those_of_one_process(runs: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    alone, together = runs
    names = set(alone["gradients"][0])
    assert {"retriever.model.logit_scale", "retriever.model.visual.proj", "retriever.model.text_projection"} <= names
    # Of the first step, where the weights are equal to the bit; later ones differ by what Adam makes of rounding.
    for rank in together:
        assert set(rank["gradients"][0]) == names
        for name, expected in alone["gradients"][0].items():
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                rank["gradients"][0][name], expected, rtol=1e-4, atol=2e-6 * max(1.0, scale), msg=name
            )
    assert float(alone["gradients"][0]["retriever.model.logit_scale"].abs()) > 1e-3


def test_figures_are_those_of_one_process(runs: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    alone, together = runs
    for rank in together:
        for expected, found in zip(alone["figures"], rank["figures"], strict=True):
            assert found.keys() == expected.keys()
            assert {"train/contrastive/infonce", "train/hinge/rank_hinge"} <= found.keys()
            assert {"train/scores/groups_left_out", "train/prompts/accuracy"} <= found.keys()
            for name, value in expected.items():
                assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
        assert rank["shares"].keys() == {0, 1, 2}
        for step, shares in rank["shares"].items():
            assert shares == pytest.approx(alone["shares"][step], rel=1e-3, abs=1e-4)
            # The start has moved from itself only after a step, the second batch has no edits, and the last one people
            # of one group.
            still = {0: {"keep"}, 1: {"choices", "words"}, 2: {"prompts", "attributes", "scores", "joint"}}[step]
            for name, share in shares.items():
                assert (share < 1e-6) if name in still else (share > 1e-3), (step, name)


def test_gallery_is_whole_on_every_rank(runs: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """Though the ranks hold unequal numbers of rows, and one of them twice."""
    alone, together = runs
    assert alone["image"].shape == (GALLERY, 12)
    assert alone["text"].shape == (len(QUERIES), 12)
    for rank in together:
        torch.testing.assert_close(rank["image"], alone["image"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(rank["text"], alone["text"], rtol=1e-3, atol=1e-4)
        assert torch.equal(rank["image"], together[0]["image"])
