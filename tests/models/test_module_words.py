"""Rendered words and overlays in a training step: what is encoded, and the gradient of one process on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from test_step_waits import Watch
from tiny_retriever import SharesKept, TinyData, make_batch, tiny, trainer
from torch import Tensor

from losses import AntiSync, Features, InfoNCE, KeepStart, Loss, OverlayInvariance, TypographicNegative
from models import LossTerm, ModelError, OptimizerConfig, RetrieverModule

WORDS = 5


class Probe(Loss):
    """Asks for everything that stands beside the anchors."""

    needs_words = needs_edit = needs_edit_prompt = needs_people = needs_twin = True

    def forward(self, features: Features) -> dict[str, Tensor]:
        return {"probe": features.image.sum() * 0}


def module_with(retriever: Any, encode_batch_size: int = 0, **losses: Loss) -> RetrieverModule:
    terms = {name: LossTerm(loss) for name, loss in losses.items()}
    return RetrieverModule(retriever, terms, OptimizerConfig(lr=1e-3), encode_batch_size=encode_batch_size)


def text_losses() -> dict[str, Loss]:
    return {
        "contrastive": InfoNCE(),
        "invariance": OverlayInvariance(),
        "follow": OverlayInvariance("anchor"),
        "negative": TypographicNegative(),
        "sync": AntiSync(),
        "language": KeepStart(of=["captions"]),
    }


def test_words_share_the_anchors_forward(tmp_path: Path) -> None:
    """The features are those of one forward over all pictures, which separate forwards of batch norm do not give."""
    retriever = tiny(tmp_path, "resnet").train()
    module = module_with(retriever, probe=Probe())
    batch = make_batch(retriever, twins=(5, 0), people=(0, 1), edits=(6, 1, 3), words=WORDS)
    together = retriever.encode_image(torch.cat([batch[n] for n in ("image", "twin", "edit", "person", "word")]))
    features = module.features(batch)
    torch.testing.assert_close(features.image, together[:8])
    assert features.edit is not None
    torch.testing.assert_close(features.edit[[6, 1, 3]], together[10:13])
    assert features.person is not None
    torch.testing.assert_close(features.person, together[13:15])
    assert features.word_image is not None
    torch.testing.assert_close(features.word_image, together[15:])
    assert features.word_text is not None
    torch.testing.assert_close(features.word_text, retriever.encode_text(batch["word_tokens"]))


def test_what_no_loss_reads_is_not_encoded(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    batch = make_batch(retriever, edits=(0, 1), words=WORDS)
    features = module_with(retriever, c=InfoNCE()).features(batch)
    assert features.word_image is None
    assert features.word_text is None
    assert features.edit is None
    features = module_with(retriever, c=InfoNCE(), s=AntiSync()).features(batch)
    assert features.word_image is not None
    assert features.edit is None


def test_the_teacher_embeds_no_words_and_no_overlays(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    module = module_with(retriever, **text_losses())
    batch = make_batch(retriever, edits=(0, 5), words=WORDS)
    teacher: Any = module.teacher
    seen: list[int] = []
    encode = teacher.encode_image
    teacher.encode_image = lambda images: (seen.append(len(images)), encode(images))[1]
    features = module.features(batch)
    assert seen == [8]
    torch.testing.assert_close(features.teacher_image, encode(batch["image"]))


def test_captions_are_kept_without_people(tmp_path: Path) -> None:
    module = module_with(tiny(tmp_path), c=InfoNCE(), language=KeepStart(of=["captions"]))
    assert not module.needs_people
    features = module.features(make_batch(module.retriever))  # type: ignore[arg-type]
    assert features.person is None
    assert float(module.terms["language"].loss(features)["keep_captions"].detach()) == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize("rows", [3, 7])
def test_encoding_in_passes_gives_the_same_gradient(tmp_path: Path, rows: int) -> None:
    gradients = []
    for size in (0, rows):
        retriever = tiny(tmp_path)
        module = module_with(retriever, size, **text_losses())
        batch = make_batch(retriever, edits=(0, 5, 6), words=WORDS)
        features = module.features(batch)
        value = torch.stack([v for term in module.terms.values() for v in term.loss(features).values()]).sum()
        value.backward()
        gradients.append({n: p.grad for n, p in retriever.named_parameters() if p.grad is not None})
    whole, parts = gradients
    assert whole.keys() == parts.keys()
    for name, expected in whole.items():
        atol = 2e-6 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(parts[name], expected, rtol=1e-4, atol=atol, msg=name)


def test_a_step_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    retriever = tiny(tmp_path)
    module = module_with(retriever, **text_losses())
    batch = make_batch(retriever, edits=(5, 0, 6), words=WORDS)
    watch = Watch()
    with watch:
        features = module.features(batch)
        terms = [term.loss.forward(features) for term in module.terms.values()]
        torch.stack([value for found in terms for value in found.values()]).sum().backward()
    assert watch.found == []


def test_data_without_words_or_overlays_is_refused(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    with pytest.raises(ModelError, match=r"the loss s reads rendered words.*set data\.rendered_words to 2 or more"):
        module_with(retriever, c=InfoNCE(), s=AntiSync()).features(make_batch(retriever))
    with pytest.raises(ModelError, match=r"the loss t reads edited pictures.*TextSpottingDataModule with data\.over"):
        module_with(retriever, c=InfoNCE(), t=OverlayInvariance()).features(make_batch(retriever))


class Record(Callback):
    """Writes every step's gradients and figures by rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gradients: list[dict[str, Tensor]] = []
        self.figures: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        found = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}
        self.gradients.append(found)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.figures.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        saved = {"gradients": self.gradients, "figures": self.figures, "shares": pl_module.shares}
        torch.save(saved, self.folder / f"rank{trainer.global_rank}.pt")


def run(folder: Path, world: int) -> list[dict[str, Any]]:
    folder.mkdir()
    retriever = tiny(folder, "vit", seed=1)
    # Overlays mostly on one rank, on none, and one on each.
    overlays = [(0, 1, 3, 7), (), (2, 5)]
    batches = [make_batch(retriever, 8, (), seed, None, rows, WORDS) for seed, rows in enumerate(overlays)]
    losses = {name: LossTerm(loss, 0.5) for name, loss in text_losses().items()}
    module = SharesKept(retriever, losses, OptimizerConfig(lr=1e-3), gradient_share_every=1)
    strategy: Any = "auto" if world == 1 else DDPStrategy(process_group_backend="gloo", start_method="spawn")
    trainer(folder, devices=world, strategy=strategy, max_steps=3, callbacks=[Record(folder)]).fit(
        module, TinyData(batches)
    )
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    (alone,), together = run(tmp_path / "one", 1), run(tmp_path / "two", 2)
    for rank in together:
        # Of the first step, where the weights are equal to the bit; later ones differ by what Adam makes of rounding.
        assert set(rank["gradients"][0]) == set(alone["gradients"][0])
        for name, expected in alone["gradients"][0].items():
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                rank["gradients"][0][name], expected, rtol=1e-4, atol=2e-6 * max(1.0, scale), msg=name
            )
        for expected, found in zip(alone["figures"], rank["figures"], strict=True):
            assert {"train/sync/anti_sync", "train/sync/sync", "train/negative/caption_wins"} <= found.keys()
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
        for step, shares in rank["shares"].items():
            assert shares == pytest.approx(alone["shares"][step], rel=1e-3, abs=1e-4)
            # The start has moved from itself only after a step, and the second batch has no overlays.
            still = {0: {"language"}, 1: {"invariance", "follow", "negative"}, 2: set()}[step]
            for name, share in shares.items():
                assert (share < 1e-6) if name in still else (share > 1e-4), (step, name)
