"""One training step: what is encoded, how the losses are weighted, what is logged, and when it stops."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from tiny_retriever import SharesKept, TinyData, make_batch, tiny, trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from losses import Features, InfoNCE, Loss, RankHinge, TwinConsistency
from models import LossTerm, ModelError, OptimizerConfig, RetrieverModule, ScheduleConfig, WeightSchedule
from models.step_scalars import StepScalars


class Probe(Loss):
    """Keeps what it was given and returns what it was told."""

    def __init__(self, value: float = 0.0, needs_twin: bool = False, needs_teacher: bool = False) -> None:
        super().__init__()
        self.value = value
        self.needs_twin = needs_twin
        self.needs_teacher = needs_teacher
        self.seen: list[Features] = []

    def forward(self, features: Features) -> dict[str, Tensor]:
        self.seen.append(features)
        return {"a": features.image.sum() * 0 + self.value, "b": torch.tensor(0.5)}


class Squared(Loss):
    """Half a squared distance to zero of one tower, scaled: its gradient is the embedding itself, of norm sqrt(N)."""

    def __init__(self, tower: str, factor: float) -> None:
        super().__init__()
        self.tower, self.factor = tower, factor

    def forward(self, features: Features) -> dict[str, Tensor]:
        embedding = features.image if self.tower == "image" else features.text
        return {"half_square": 0.5 * self.factor * embedding.square().sum()}


class Recorder(Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def module_with(retriever: Any, /, **losses: Loss | LossTerm) -> RetrieverModule:
    terms = {name: loss if isinstance(loss, LossTerm) else LossTerm(loss) for name, loss in losses.items()}
    return RetrieverModule(retriever, terms, OptimizerConfig(lr=1e-3))


def fit(folder: Path, module: RetrieverModule, data: TinyData, steps: int = 1) -> Recorder:
    recorder = Recorder()
    trainer(folder, max_steps=steps, callbacks=[recorder]).fit(module, data)
    return recorder


def test_twins_share_the_anchors_batch_norm(tmp_path: Path) -> None:
    """The features are those of one forward over both, which separate forwards do not give."""
    retriever = tiny(tmp_path, "resnet").train()
    module = module_with(retriever, probe=Probe(needs_twin=True))
    batch = make_batch(retriever, twins=(5, 0, 6))
    together = retriever.encode_image(torch.cat([batch["image"], batch["twin"]]))
    features = module.features(batch)
    torch.testing.assert_close(features.image, together[:8])
    assert features.twin is not None
    torch.testing.assert_close(features.twin[[5, 0, 6]], together[8:])
    assert not torch.allclose(retriever.encode_image(batch["image"]), features.image, atol=1e-4)
    others = [1, 2, 3, 4, 7]
    assert not features.twin[others].any()
    assert features.has_twin is not None
    assert features.has_twin.nonzero().flatten().tolist() == [0, 5, 6]
    assert features.local == slice(0, 8)
    assert features.twin_source is not None
    assert features.twin_source[[5, 0, 6]].tolist() == batch["twin_source"].tolist()


def test_a_batch_without_twins_among_batches_with_twins(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    module = module_with(retriever, hinge=RankHinge(), contrastive=InfoNCE())
    batches = [make_batch(retriever, twins=(1, 2)), make_batch(retriever, twins=())]
    rows = fit(tmp_path, module, TinyData(batches, twin_share=0.1), steps=2).rows
    assert rows[1]["train/hinge/rank_hinge"] == 0.0


def test_twins_are_not_encoded_where_no_loss_asks(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    features = module_with(retriever, probe=Probe()).features(make_batch(retriever, twins=(1,)))
    assert features.twin is None
    assert features.has_twin is None


def test_repeated_captions_are_encoded_once_and_alike(tmp_path: Path) -> None:
    # Embeddings and their gradients are in single precision all the same; the tower is not to add to their rounding.
    retriever = tiny(tmp_path).double()
    batch = make_batch(retriever)
    batch["tokens"] = batch["tokens"][[0, 1, 1, 0, 2, 2, 1, 0]]
    batch |= {"distinct": torch.tensor([0, 1, 4]), "distinct_of": torch.tensor([0, 1, 1, 0, 2, 2, 1, 0])}
    module = module_with(retriever, probe=Probe())
    sizes: list[int] = []
    encode = retriever.encode_text
    retriever.encode_text = lambda tokens: (sizes.append(len(tokens)), encode(tokens))[1]  # type: ignore[method-assign]
    text = module.features(batch).text
    assert sizes == [3]
    weight = torch.randn(text.shape, generator=torch.Generator().manual_seed(0))
    once = torch.autograd.grad((text * weight).sum(), retriever.model.token_embedding.weight)[0]
    each = torch.autograd.grad((encode(batch["tokens"]) * weight).sum(), retriever.model.token_embedding.weight)[0]
    torch.testing.assert_close(text, encode(batch["tokens"]))
    torch.testing.assert_close(once, each, rtol=1.3e-6, atol=1e-5)


def test_terms_are_weighted_summed_and_logged(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    module = module_with(
        retriever,
        first=LossTerm(Probe(2.0), 3.0),
        second=LossTerm(Probe(1.0), WeightSchedule(start=0.0, end=4.0, warmup_steps=4)),
    )
    rows = fit(tmp_path, module, TinyData([make_batch(retriever, seed=s) for s in range(3)]), steps=3).rows
    for step, row in enumerate(rows):
        assert row["train/second/weight"] == step
        assert row["train/loss"] == pytest.approx(3.0 * 2.5 + step * 1.5)
        assert (row["train/first/a"], row["train/first/b"], row["train/first/weight"]) == (2.0, 0.5, 3.0)
    assert rows[0]["train/lr"] == pytest.approx(1e-3)
    assert rows[0]["train/logit_scale"] == pytest.approx(1 / 0.07, rel=1e-4)


def test_gradient_share_against_its_closed_form(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    losses = {
        "i": LossTerm(Squared("image", 3.0), 2.0),
        "t": LossTerm(Squared("text", 2.0)),
        "none": LossTerm(Probe(1.0)),
    }
    module = SharesKept(retriever, losses)
    fit(tmp_path, module, TinyData([make_batch(retriever)]))
    # Rows are unit vectors, so the gradients' norms are 6, 2 and 0 times sqrt(8).
    assert module.shares == {0: pytest.approx({"i": 0.75, "t": 0.25, "none": 0.0})}


@pytest.mark.parametrize(("every", "steps"), [(2, [0, 2]), (0, [])])
def test_gradient_share_is_logged_at_its_steps_only(tmp_path: Path, every: int, steps: list[int]) -> None:
    retriever = tiny(tmp_path)
    module = RetrieverModule(retriever, {"c": LossTerm(InfoNCE())}, gradient_share_every=every)
    logger = CSVLogger(tmp_path, name="", version="")
    trainer(tmp_path, max_steps=4, logger=logger).fit(module, TinyData([make_batch(retriever)] * 4))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    measured = {int(row["step"]): float(v) for row in rows if (v := row.get("train/c/gradient_share"))}
    assert measured == dict.fromkeys(steps, 1.0)


def test_a_term_that_overflows_on_another_rank_names_itself() -> None:
    """Over ranks a loss cannot judge its own terms; their mean over ranks is judged."""
    with pytest.raises(ModelError, match=r"train/odd/a is nan at step 7.*model\.optimizer\.lr"):
        StepScalars().put(7, ["train/loss", "train/odd/a"], torch.tensor([1.0, math.nan]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_step(tmp_path: Path, value: float) -> None:
    retriever = tiny(tmp_path)
    before = {n: p.clone() for n, p in retriever.named_parameters()}
    module = module_with(retriever, contrastive=InfoNCE(), odd=Probe(value))
    with pytest.raises(ModelError, match=r"model\.losses\.odd: Probe, step 0: term 'a' .*[Ll]ower the learning rate"):
        fit(tmp_path, module, TinyData([make_batch(retriever)]))
    assert all(torch.equal(p, before[n]) for n, p in retriever.named_parameters())


def test_twins_that_are_missing_are_an_error_before_training(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    batch = make_batch(retriever)
    without = {k: v for k, v in batch.items() if not k.startswith("twin")}
    for data in (TinyData([batch], twin_share=0.0), TinyData([batch])):
        with pytest.raises(ModelError, match=r"the loss hinge .*data\.twin_share"):
            fit(tmp_path, module_with(retriever, hinge=RankHinge(), contrastive=InfoNCE()), data)
    with pytest.raises(ModelError, match=r"data\.twin_share"):
        module_with(retriever, hinge=RankHinge()).features(without)


def test_teacher_is_the_start_and_stays(tmp_path: Path) -> None:
    retriever = tiny(tmp_path, "resnet")
    start = tiny(tmp_path, "resnet").eval()
    module = module_with(retriever, contrastive=InfoNCE(), twins=TwinConsistency(teacher="frozen"))
    batch = make_batch(retriever, twins=(0, 1, 2, 3))
    fit(tmp_path, module, TinyData([batch] * 3, twin_share=0.5), steps=3)
    module.train()
    assert module.teacher is not None
    assert not module.teacher.training
    assert not any(p.requires_grad for p in module.teacher.parameters())
    features = module.features(batch)
    taught, taught_twin = features.teacher_image, features.teacher_twin
    assert taught is not None
    assert taught_twin is not None
    torch.testing.assert_close(taught, start.encode_image(batch["image"]).detach())
    torch.testing.assert_close(taught_twin[:4], start.encode_image(batch["twin"]).detach())
    assert not taught_twin[4:].any()
    assert not torch.allclose(taught, module.retriever.eval().encode_image(batch["image"]), atol=1e-3)


def test_logit_scale_is_clamped_after_the_step(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    retriever.model.logit_scale.data.fill_(math.log(100.0) + 1)
    module = RetrieverModule(retriever, {"c": LossTerm(InfoNCE())}, OptimizerConfig(lr=1e-4), max_logit_scale=50.0)
    rows = fit(tmp_path, module, TinyData([make_batch(retriever)] * 2), steps=2).rows
    assert rows[0]["train/logit_scale"] == pytest.approx(100 * math.e, rel=1e-4)  # before the first step
    assert rows[1]["train/logit_scale"] == pytest.approx(50.0, rel=1e-4)


def test_seed_and_step_reach_the_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    retriever, probe = tiny(tmp_path), Probe()
    fit(tmp_path, module_with(retriever, probe=probe, c=InfoNCE()), TinyData([make_batch(retriever)] * 2), steps=2)
    assert [(f.seed, f.step) for f in probe.seen] == [(77, 0), (77, 1)]


def test_names_and_lengths_that_cannot_work_are_refused(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    with pytest.raises(ModelError, match="losses is empty"):
        RetrieverModule(retriever, {})
    with pytest.raises(ModelError, match=r"'a\.b'"):
        RetrieverModule(retriever, {"a.b": LossTerm(InfoNCE())})


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_with_clipping_trains(tmp_path: Path, precision: str) -> None:
    retriever = tiny(tmp_path)
    module = module_with(retriever, c=InfoNCE())
    options: dict[str, Any] = {"precision": precision, "gradient_clip_val": 1.0, "max_steps": 3}
    recorder = Recorder()
    trainer(tmp_path, callbacks=[recorder], **options).fit(module, TinyData([make_batch(retriever)] * 3))
    assert recorder.rows[-1]["train/loss"] < recorder.rows[0]["train/loss"]


def test_training_lowers_the_loss_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    ends: list[dict[str, Tensor]] = []
    for _ in range(2):
        retriever = tiny(tmp_path, "resnet", seed=5)
        module = module_with(retriever, c=InfoNCE(), hinge=LossTerm(RankHinge(two_sided=True), 0.1))
        rows = fit(tmp_path, module, TinyData([make_batch(retriever, twins=(0, 3))] * 12, twin_share=0.25), 12).rows
        assert rows[-1]["train/c/infonce"] < 0.8 * rows[0]["train/c/infonce"]
        ends.append({n: t.clone() for n, t in retriever.state_dict().items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_learning_rate_follows_the_steps_of_the_run(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    module = RetrieverModule(
        retriever, {"c": LossTerm(InfoNCE())}, OptimizerConfig(lr=1.0e-3), ScheduleConfig(warmup_steps=2)
    )
    rows = fit(tmp_path, module, TinyData([make_batch(retriever)] * 3), steps=6).rows  # two epochs of three batches
    assert [row["train/lr"] / 1e-3 for row in rows] == pytest.approx(
        [0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466], rel=1e-5
    )


def test_a_run_without_an_end_is_refused(tmp_path: Path) -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            while True:
                yield make_batch(retriever)

    retriever = tiny(tmp_path)
    loader: DataLoader[Any] = DataLoader(Endless(), batch_size=None)
    with pytest.raises(ModelError, match=r"trainer\.max_steps"):
        trainer(tmp_path, max_steps=-1, max_epochs=5).fit(module_with(retriever, c=InfoNCE()), loader)


def test_the_loader_is_made_where_a_resumed_run_stands(tmp_path: Path) -> None:
    made: list[int] = []

    class Data(TinyData):
        def train_dataloader(self) -> Any:
            assert self.trainer is not None
            made.append(self.trainer.global_step)
            return super().train_dataloader()

    retriever = tiny(tmp_path)
    first = trainer(tmp_path, max_steps=2)
    first.fit(module_with(retriever, c=InfoNCE()), Data([make_batch(retriever)] * 4))
    first.save_checkpoint(tmp_path / "two.ckpt")
    again = module_with(tiny(tmp_path), c=InfoNCE())
    trainer(tmp_path, max_steps=4).fit(again, Data([make_batch(retriever)] * 4), ckpt_path=tmp_path / "two.ckpt")
    assert made == [0, 2]
