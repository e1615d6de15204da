"""What adversarial losses have in common: a small head, and the reversal of the gradient that goes past it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def make_head(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with a ReLU between two of them.

    Args:
        widths: of the input, of each hidden layer, of the output.
        generator: of the weights (Glorot's uniform); biases are 0. Nothing is drawn from torch's own numbers.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def judge(head: nn.Sequential, x: Tensor) -> Tensor:
    """What the head makes of [n, width], in its own precision whatever autocast would do."""
    with torch.autocast(device_type=x.device.type, enabled=False):
        judged: Tensor = head(x.to(next(head.parameters()).dtype))
    return judged


def rising(strength: float, warmup_steps: int, step: int) -> float:
    """A strength that rises linearly from 0 over the first steps (0 is the first)."""
    return strength if step >= warmup_steps else strength * step / warmup_steps


def reverse(x: Tensor, strength: float) -> Tensor:
    """``x`` itself, whose gradient is turned around and multiplied by ``strength`` (Ganin and Lempitsky 2015)."""
    reversed_: Tensor = _Reverse.apply(x, strength)
    return reversed_


class _Reverse(torch.autograd.Function):
    """The identity; its gradient is the negative one, times the strength."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * -ctx.strength, None
