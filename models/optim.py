"""AdamW with the parameter groups and the schedule that dual encoders are trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import AdamW, Optimizer

from models.errors import ModelError

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass
class OptimizerConfig:
    """AdamW. The defaults for betas and eps are CLIP's for transformers (Radford et al. 2021, table 18).

    Attributes:
        lr: peak learning rate.
        weight_decay: decoupled; matrices and convolutions only.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        image_lr_scale: factor on ``lr`` for the image tower.
        text_lr_scale: factor on ``lr`` for the text tower.
    """

    lr: float = 1e-5
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    image_lr_scale: float = 1.0
    text_lr_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ModelError(f"model.optimizer.lr is {self.lr}; give a number above 0")
        if self.weight_decay < 0:
            raise ModelError(f"model.optimizer.weight_decay is {self.weight_decay}; give 0 or more")


@dataclass
class ScheduleConfig:
    """Linear warm-up, then a cosine, in optimiser steps.

    Attributes:
        warmup_steps: steps from near 0 to the peak.
        decay: ``cosine`` falls to ``min_lr_share`` at the last step, ``constant`` stays at the peak.
        min_lr_share: the learning rate at the end as a share of the peak, in [0, 1].
        total_steps: length of the run; None asks the trainer (``trainer.max_steps``).
    """

    warmup_steps: int = 0
    decay: Literal["cosine", "constant"] = "cosine"
    min_lr_share: float = 0.0
    total_steps: int | None = None

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ModelError(f"model.schedule.warmup_steps is {self.warmup_steps}; it counts steps, so give 0 or more")
        if not 0 <= self.min_lr_share <= 1:
            raise ModelError(
                f"model.schedule.min_lr_share is {self.min_lr_share}; it is a share of the peak, in [0, 1]"
            )

    def factor(self, total_steps: int) -> Callable[[int], float]:
        """The factor on the peak learning rate as a function of the step (0 is the first).

        Example:
            >>> factor = ScheduleConfig(warmup_steps=2).factor(total_steps=6)
            >>> [round(factor(step), 3) for step in range(7)]
            [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
        """

        def at(step: int) -> float:
            if step < self.warmup_steps:
                # Step 0 already moves: a first step at rate 0 would only fill Adam's moments.
                return (step + 1) / self.warmup_steps
            if self.decay == "constant":
                return 1.0
            done = min(1.0, (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps))
            return self.min_lr_share + (1 - self.min_lr_share) * 0.5 * (1 + math.cos(math.pi * done))

        return at


def is_decayed(owner: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices and kernels, not to norms, biases, the logit scale or other vectors."""
    return parameter.ndim >= 2 and not isinstance(owner, _NORMS)


def parameter_groups(
    module: nn.Module, config: OptimizerConfig, tower_of: Callable[[str], Literal["image", "text", "head"]]
) -> list[dict[str, Any]]:
    """Split what is trained by tower and by whether it decays.

    Args:
        module: its parameters that require gradient are trained; a parameter reached by two names counts once.
        config: rates and decay.
        tower_of: parameter name to tower.

    Returns:
        AdamW's groups, in a fixed order, each with ``params``, ``lr``, ``weight_decay`` and a ``name`` such as
        ``image/decay``. Empty groups are left out.

    Raises:
        ModelError: if nothing is left to train.
    """
    scale = {"image": config.image_lr_scale, "text": config.text_lr_scale, "head": 1.0}
    members: dict[str, list[nn.Parameter]] = {}
    seen: set[int] = set()
    for name, parameter, owner in _owned_parameters(module):
        if not parameter.requires_grad or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        group = f"{tower_of(name)}/{'decay' if is_decayed(owner, parameter) else 'no_decay'}"
        members.setdefault(group, []).append(parameter)
    if not members:
        raise ModelError("every parameter is frozen: unset lock_image or lock_text, or unlock some groups or layers")
    return [
        {
            "params": members[name],
            "lr": config.lr * scale[name.split("/")[0]],
            "weight_decay": config.weight_decay if name.endswith("/decay") else 0.0,
            "name": name,
        }
        for name in sorted(members)
    ]


def build_optimizer(groups: Iterable[dict[str, Any]], config: OptimizerConfig, fused: bool) -> Optimizer:
    """AdamW over the groups of :func:`parameter_groups`.

    Args:
        groups: what is trained.
        config: betas and eps.
        fused: one kernel for the whole update. On a CPU the plain loop takes as long for the token embedding of a
            small model as its whole backward pass. Not for Lightning's mixed precision, which refuses to clip the
            gradients of a fused optimiser.
    """
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def _owned_parameters(module: nn.Module) -> Iterable[tuple[str, nn.Parameter, nn.Module]]:
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            yield f"{prefix}.{name}" if prefix else name, parameter, owner
