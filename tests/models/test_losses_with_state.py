"""Losses that learn or remember: trained, averaged, saved and resumed with the module, on any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from tiny_retriever import TinyData, make_batch, tiny, trainer
from torch import Tensor

from bias_train.callbacks.weights import ExponentialMovingAverage
from losses import ConstrainedGap, InfoNCE, Loss, SourceAdversary
from models import LossTerm, OptimizerConfig, PromptConfig, RetrieverModule

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "loss"
STEPS, CUT = 6, 3


class SaveAt(Callback):
    def __init__(self, path: Path, step: int = CUT) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


class KeepState(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(pl_module.losses.state_dict(), self.folder / f"rank{trainer.global_rank}.pt")


def make(folder: Path, accumulate: int = 1) -> tuple[RetrieverModule, TinyData]:
    retriever = tiny(folder, "vit", seed=2)
    batches = [make_batch(retriever, twins=(0, 1, 4, 5, 6), seed=seed) for seed in range(STEPS * accumulate)]
    losses = {
        "contrastive": LossTerm(InfoNCE()),
        "gap": LossTerm(ConstrainedGap(epsilon=0.0, dual_rate=0.5)),
        "adversary": LossTerm(SourceAdversary(hidden=6, warmup_steps=4)),
    }
    module = RetrieverModule(retriever, losses, OptimizerConfig(lr=1e-3), gradient_share_every=1)
    return module, TinyData(batches, twin_share=0.6)


def state_of(module: RetrieverModule) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.losses.state_dict().items()}


def test_the_head_is_trained_and_its_matrices_decay(tmp_path: Path) -> None:
    module, data = make(tmp_path)
    start = state_of(module)
    run = trainer(tmp_path, max_steps=STEPS)
    run.fit(module, data)
    groups = {id(p): g["name"] for g in run.optimizers[0].param_groups for p in g["params"]}
    for name, parameter in module.losses.named_parameters():
        assert groups[id(parameter)] == ("head/decay" if name.endswith("weight") else "head/no_decay")
        assert not torch.equal(parameter, start[name]), name
    assert module.losses["gap"].multipliers.max() > 0  # type: ignore[union-attr, operator]


def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    module, data = make(tmp_path)
    trainer(tmp_path, max_steps=STEPS, callbacks=[ExponentialMovingAverage(0.5), SaveAt(path)]).fit(module, data)
    through = {name: t.clone() for name, t in module.state_dict().items()}
    module, data = make(tmp_path)
    data.batches = data.batches[CUT:]
    again = trainer(tmp_path, max_steps=STEPS, callbacks=[ExponentialMovingAverage(0.5)])
    again.fit(module, data, ckpt_path=path)
    assert again.global_step == STEPS
    assert {n for n in through if n.startswith("losses.")} >= {
        "losses.gap.multipliers",
        "losses.adversary.head.0.weight",
    }
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, through[name]), name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_multipliers_move_once_an_optimiser_step(tmp_path: Path, accumulate: int) -> None:
    """With gradient shares measured at every step, and with gradients of several batches."""
    module, data = make(tmp_path, accumulate)
    moved: list[tuple[int, bool]] = []

    class Watch(Callback):
        before = torch.zeros(2)

        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            self.before = pl_module.losses["gap"].multipliers.clone()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            moved.append((batch_idx % accumulate, not torch.equal(self.before, pl_module.losses["gap"].multipliers)))

    options: dict[str, Any] = {"max_steps": STEPS, "accumulate_grad_batches": accumulate, "callbacks": [Watch()]}
    trainer(tmp_path, **options).fit(module, data)
    assert len(moved) == STEPS * accumulate
    assert all(changed == (within == 0) for within, changed in moved)


def test_two_processes_hold_the_state_of_one(tmp_path: Path) -> None:
    states = []
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        module, data = make(folder)
        strategy: Any = "auto" if world == 1 else DDPStrategy(process_group_backend="gloo", start_method="spawn")
        run = trainer(folder, devices=world, strategy=strategy, max_steps=STEPS, callbacks=[KeepState(folder)])
        run.fit(module, data)
        states.append([torch.load(folder / f"rank{rank}.pt") for rank in range(world)])
    (alone,), (first, second) = states
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(
            first[name], expected, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_retriever_starts_alike_with_and_without_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    heads = []
    for _ in range(2):
        torch.rand(7)  # what else draws numbers must not matter
        loss = SourceAdversary()
        RetrieverModule(tiny(tmp_path), {"adversary": LossTerm(loss)})
        heads.append(loss.head[0].weight)
    assert torch.equal(heads[0], heads[1])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_shipped_loss_is_built_and_asks_for_twins_where_its_file_draws_them(path: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf+")
    parser.add_argument("--losses", type=dict[str, LossTerm])
    parser.add_argument("--prompts", type=PromptConfig | None)
    given = {name: config["model"][name] for name in ("losses", "prompts") if name in config["model"]}
    built = parser.instantiate(parser.parse_object(given))
    terms: dict[str, LossTerm] = built.losses
    assert all(isinstance(term.loss, Loss) for term in terms.values())
    module = RetrieverModule(tiny(tmp_path), terms, prompts=built.prompts)
    assert module.needs_twin == (config["data"]["init_args"]["twin_share"] > 0)
    # Neutral queries are given exactly where some loss reads them.
    assert any(term.loss.needs_prompts for term in terms.values()) == (built.prompts is not None)
