"""Callbacks that evaluate and keep other weights than the last step's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tiny_retriever import TinyData, make_batch, random_images, tiny, trainer
from torch import Tensor

from bias_train.callbacks.weights import ExponentialMovingAverage, InterpolateToStart, PullToStart
from losses import InfoNCE
from models import LossTerm, ModelError, OptimizerConfig, RetrieverModule, ScheduleConfig

State = dict[str, Tensor]


class History(Callback):
    """The weights after every step, and those that each validation saw with what it embedded."""

    def __init__(self) -> None:
        self.steps: list[State] = []
        self.validated: list[State] = []
        self.texts: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.steps.append(state_of(pl_module))

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.validated.append(state_of(pl_module))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.texts.append(pl_module.embedded_set().text)


def state_of(module: L.LightningModule) -> State:
    return {name: t.detach().clone() for name, t in module.retriever.state_dict().items()}  # type: ignore[union-attr]


def make(folder: Path, kind: str = "resnet") -> tuple[RetrieverModule, TinyData]:
    retriever = tiny(folder, kind, seed=2)
    batches = [make_batch(retriever, seed=seed) for seed in range(6)]
    data = TinyData(batches, random_images(4, retriever.image_size[0]), ("a dog", "a cat"))
    return RetrieverModule(retriever, {"c": LossTerm(InfoNCE())}, OptimizerConfig(lr=1e-2)), data


def close(a: State, b: State) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("warm_up", [True, False])
def test_average_against_the_recursion(tmp_path: Path, warm_up: bool) -> None:
    module, data = make(tmp_path)
    history = History()
    average = ExponentialMovingAverage(decay=0.3, warm_up=warm_up)
    trainer(tmp_path, max_steps=6, callbacks=[average, history]).fit(module, data)
    expected = history.steps[0]
    for n, current in enumerate(history.steps[1:], start=1):
        keep = min(0.3, (1 + n) / (10 + n)) if warm_up else 0.3
        expected = {
            name: keep * expected[name] + (1 - keep) * t if t.is_floating_point() else t for name, t in current.items()
        }
    close(history.validated[-1], expected)
    close(state_of(module), expected)  # at the end the module holds the average
    # The queries too were embedded with the average, though it has been swapped out by the time they are read.
    text = module.retriever.eval().encode_text(module.retriever.tokenize(["a dog", "a cat"]))
    torch.testing.assert_close(history.texts[-1], text.detach())


def test_average_goes_on_after_a_resume(tmp_path: Path) -> None:
    cut, path = 3, tmp_path / "middle.ckpt"
    module, data = make(tmp_path)
    trainer(tmp_path, max_steps=6, callbacks=[ExponentialMovingAverage(0.5), SaveAt(cut, path)]).fit(module, data)
    through = state_of(module)

    module, data = make(tmp_path)
    data.batches = data.batches[cut:]
    resumed = trainer(tmp_path, max_steps=6, callbacks=[ExponentialMovingAverage(0.5)])
    resumed.fit(module, data, ckpt_path=path)
    assert resumed.global_step == 6
    assert all(torch.equal(t, through[name]) for name, t in state_of(module).items())


class SaveAt(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_interpolation_is_evaluated_and_written_but_not_trained_on(tmp_path: Path, alpha: float) -> None:
    module, data = make(tmp_path)
    start = state_of(module)
    history = History()
    options: dict[str, Any] = {"max_steps": 6, "callbacks": [InterpolateToStart(alpha), history]}
    trainer(tmp_path, **options).fit(module, data)
    end = state_of(module)
    close(end, history.steps[-1])
    expected = {name: (1 - alpha) * start[name] + alpha * t if t.is_floating_point() else t for name, t in end.items()}
    close(history.validated[-1], expected)
    again = tiny(tmp_path, "resnet", pretrained=str(tmp_path / "interpolated.safetensors"))
    close(dict(again.state_dict()), expected)
    # Training is the same as without the callback.
    plain, data = make(tmp_path)
    trainer(tmp_path, max_steps=6).fit(plain, data)
    assert all(torch.equal(end[name], t) for name, t in state_of(plain).items())


def test_wrong_options_are_named() -> None:
    with pytest.raises(ModelError, match=r"alpha is 1\.5"):
        InterpolateToStart(1.5)
    with pytest.raises(ModelError, match=r"decay is 1\.0"):
        ExponentialMovingAverage(1.0)
    with pytest.raises(ModelError, match="every_n_steps is 0"):
        ExponentialMovingAverage(every_n_steps=0)


def test_two_that_swap_weights_are_refused(tmp_path: Path) -> None:
    module, data = make(tmp_path)
    both = [ExponentialMovingAverage(), InterpolateToStart()]
    with pytest.raises(ModelError, match="ExponentialMovingAverage and InterpolateToStart"):
        trainer(tmp_path, max_steps=1, callbacks=both).fit(module, data)


class Rates(Callback):
    """The learning rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def trained_states(folder: Path, *callbacks: Callback, steps: int = 3, **options: Any) -> tuple[State, list[State]]:
    """The start, and the weights after every step, of a run whose learning rate falls from step to step."""
    module, data = make(folder, "vit")
    module.schedule_config = ScheduleConfig(warmup_steps=0)
    start, history = state_of(module), History()
    trainer(folder, max_steps=steps, callbacks=[*callbacks, history], **options).fit(module, datamodule=data)
    return start, history.steps


def test_a_pull_takes_back_a_part_of_the_first_step(tmp_path: Path) -> None:
    rates = Rates()
    start, free = trained_states(tmp_path, rates, steps=1)
    _, pulled = trained_states(tmp_path, PullToStart(strength=30.0), steps=1)
    assert rates.rates == [1e-2]
    moved = 0.0
    for name, value in free[0].items():
        if value.is_floating_point():
            moved = max(moved, float((value - start[name]).abs().max()))
            torch.testing.assert_close(pulled[0][name] - start[name], 0.7 * (value - start[name]), rtol=1e-4, atol=1e-7)
    assert moved > 1e-3


def test_a_pull_follows_the_rate_of_its_own_step(tmp_path: Path) -> None:
    """An endless pull holds the weights at the start in any step whose rate is high enough, and only there."""
    rates = Rates()
    start, pulled = trained_states(tmp_path, PullToStart(strength=150.0), rates, steps=3)
    kept = [1 - min(1.0, rate * 150.0) for rate in rates.rates]
    assert kept[:2] == [0.0, 0.0]
    assert kept[2] > 0.1
    for step, share in enumerate(kept):
        far = max(float((v - start[n]).abs().max()) for n, v in pulled[step].items() if v.is_floating_point())
        assert far < 1e-6 if share == 0 else far > 1e-4


def test_a_pull_waits_for_the_step_of_accumulated_batches(tmp_path: Path) -> None:
    start, pulled = trained_states(tmp_path, PullToStart(strength=30.0), steps=1, accumulate_grad_batches=2)
    _, free = trained_states(tmp_path, steps=1, accumulate_grad_batches=2)
    assert len(pulled) == 2
    close(pulled[0], start)
    for name, value in free[1].items():
        if value.is_floating_point():
            torch.testing.assert_close(pulled[1][name] - start[name], 0.7 * (value - start[name]), rtol=1e-4, atol=1e-7)


def test_no_pull_changes_nothing_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    _, free = trained_states(tmp_path)
    _, pulled = trained_states(tmp_path, PullToStart(strength=0.0))
    close(free[-1], pulled[-1])
    with pytest.raises(ModelError, match="PullToStart: strength is -1"):
        PullToStart(-1)
