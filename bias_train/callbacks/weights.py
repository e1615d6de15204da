"""Holding on to the weights: a moving average, a way back to the start, or a pull towards it in every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor

from models.errors import ModelError
from models.interpolation import between, floating_state


class ExponentialMovingAverage(WeightAveraging):
    """Exponential moving average of the weights (Polyak and Juditsky 1992).

    Validation, and the weights in a checkpoint's ``state_dict``, are the average's; training goes on from its own. At
    the end of training the module holds the average. A resumed run continues both.

    Lightning's own class with a warm-up of the decay: at a fixed decay of 0.999 the average of a run of a thousand
    steps is to a third its first weights.

    Args:
        decay: share of the average that an update keeps, in [0, 1).
        warm_up: use ``min(decay, (1 + n) / (10 + n))`` at the n-th update (n counts from 0), as in TensorFlow's and
            timm's averages.
        every_n_steps: optimiser steps between two updates.
    """

    def __init__(self, decay: float = 0.999, warm_up: bool = True, every_n_steps: int = 1) -> None:
        if not 0 <= decay < 1:
            raise ModelError(f"ExponentialMovingAverage: decay is {decay}; it is a share, in [0, 1)")
        if every_n_steps < 1:
            raise ModelError(f"ExponentialMovingAverage: every_n_steps is {every_n_steps}; give 1 or more")
        super().__init__(avg_fn=_moving_average(decay, warm_up))
        self.every_n_steps = every_n_steps

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether the average moves after this step (0 is the first)."""
        return step_idx is not None and step_idx % self.every_n_steps == 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the average, a copy of the weights at the start."""
        _refuse_company(trainer)
        super().setup(trainer, pl_module, stage)


class InterpolateToStart(Callback):
    """Weights on the line between the starting point and the trained ones: ``(1 - alpha) * start + alpha * trained``.

    Fine-tuning on one bias can cost what the starting model knew; part of the way back often returns it and keeps most
    of what was learned (WiSE-FT, Wortsman et al. 2022, equation 1; PAINT, Ilharco et al. 2022). Running statistics of
    batch norms are interpolated like weights, which is an approximation.

    Training itself is untouched; validation sees the interpolated weights, and a file of them is written at the end.

    Args:
        alpha: how far to go from the start, in [0, 1]; 1 is the trained model.
        evaluate: validate with the interpolated weights.
        write: at the end of training, write ``interpolated.safetensors`` beside the checkpoints; it can be given as
            ``pretrained``.
    """

    def __init__(self, alpha: float = 0.5, evaluate: bool = True, write: bool = True) -> None:
        if not 0 <= alpha <= 1:
            raise ModelError(f"InterpolateToStart: alpha is {alpha}; it is a share of the way, in [0, 1]")
        self.alpha = alpha
        self.evaluate = evaluate
        self.write = write
        self._start: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the start: before a checkpoint is restored, so that a resumed run has the same one."""
        _refuse_company(trainer)
        if stage == "fit" and not self._start:
            self._start = {name: t.detach().cpu().clone() for name, t in _interpolated(pl_module).items()}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the interpolated weights in."""
        if self.evaluate and self._start:
            self._swap_in(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the trained weights back."""
        self._swap_out(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the interpolated weights."""
        if not (self.write and trainer.is_global_zero):
            return
        checkpoints = getattr(trainer.checkpoint_callback, "dirpath", None)
        folder = Path(checkpoints or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._swap_in(pl_module)
        pl_module.retriever.save_weights(str(folder / "interpolated.safetensors"))  # type: ignore[union-attr, operator]
        self._swap_out(pl_module)

    @torch.no_grad()
    def _swap_in(self, module: L.LightningModule) -> None:
        for name, tensor in _interpolated(module).items():
            self._trained[name] = tensor.detach().clone()
            tensor.copy_(between(self._start[name].to(tensor.device), tensor, self.alpha))

    @torch.no_grad()
    def _swap_out(self, module: L.LightningModule) -> None:
        for name, tensor in _interpolated(module).items():
            if name in self._trained:
                tensor.copy_(self._trained[name])
        self._trained = {}


class PullToStart(Callback):
    """Pull what is trained towards its starting point in every step, as weight decay pulls towards 0.

    After each optimiser step every trained parameter of the retriever moves by
    ``-lr * strength * (parameter - start)`` with its own group's learning rate.

    The penalty ``mu * |theta - theta_0|^2`` (L2-SP, Li et al. 2018, "Explicit Inductive Bias for Transfer Learning with
    Convolutional Networks", for all parameters) has this step in plain gradient descent, for ``strength = 2 mu``. It is
    no term of the loss here: AdamW would divide its gradient by that of the losses, which weakens it just where they
    pull hardest, the reason for which decay is decoupled too (Loshchilov and Hutter 2019). So it costs no backward
    pass and has no share in the logged gradient; a copy of the trained weights is kept. Decay still pulls towards 0:
    set ``model.optimizer.weight_decay`` to 0 where the start is to be the only anchor. Over processes it is the same
    step on each.

    Args:
        strength: not below 0; at a learning rate of 1e-5 a strength of 100 takes back a thousandth of the way a step.
    """

    def __init__(self, strength: float) -> None:
        if not 0 <= strength < float("inf"):
            raise ModelError(f"PullToStart: strength is {strength}; give a finite number not below 0")
        self.strength = strength
        self._start: dict[str, Tensor] = {}
        self._rate: dict[int, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the start: before a checkpoint is restored, so that a resumed run has the same one."""
        if stage == "fit" and not self._start:
            self._start = {name: p.detach().clone() for name, p in _trained(pl_module).items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Have the start where the parameters are."""
        self._start = {name: self._start[name].to(p.device) for name, p in _trained(pl_module).items()}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Note the rates of the step; after it the schedule has moved on."""
        self._rate = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Pull, where the batch has made a step: one that is only accumulated has not."""
        if not self._rate:
            return
        for name, parameter in _trained(pl_module).items():
            parameter.lerp_(self._start[name], min(1.0, self._rate[id(parameter)] * self.strength))
        self._rate = {}


def _trained(module: L.LightningModule) -> dict[str, Tensor]:
    """The retriever's parameters that are trained."""
    return {name: p for name, p in module.retriever.named_parameters() if p.requires_grad}  # type: ignore[union-attr]


def _interpolated(module: L.LightningModule) -> dict[str, Tensor]:
    """The retriever's weights and statistics; counters are left as they are."""
    return floating_state(module.retriever)  # type: ignore[arg-type]


def _moving_average(decay: float, warm_up: bool) -> Any:
    def update(average: Tensor, current: Tensor, updates: Tensor) -> Tensor:
        # The first weights are copied, not averaged, so `updates` is 1 at the first call.
        keep = ((1 + updates) / (10 + updates)).clamp(max=decay) if warm_up else decay
        if not average.is_floating_point():
            return current  # a count of batches has no average
        return keep * average + (1 - keep) * current

    return update


def _refuse_company(trainer: Any) -> None:
    # Each swaps weights in and out around a validation, in the same order at both ends: two would put each other's in.
    swapping = [type(c).__name__ for c in trainer.callbacks if isinstance(c, (WeightAveraging, InterpolateToStart))]
    if len(swapping) > 1:
        raise ModelError(
            f"trainer.callbacks holds {' and '.join(swapping)}, which swap weights alike: keep one of them"
        )
