"""Weights on the line between two states of one model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.errors import ModelError

State = Mapping[str, Tensor]


def between(start: Tensor, trained: Tensor, alpha: float) -> Tensor:
    """A point of the line: ``(1 - alpha) * start + alpha * trained``.

    Not lerp: at alpha = 1 and 0 this is exact.

    Example:
        >>> between(torch.tensor([1.0]), torch.tensor([3.0]), 0.25)
        tensor([1.5000])
    """
    return (1 - alpha) * start + alpha * trained


def floating_state(module: nn.Module) -> dict[str, Tensor]:
    """Weights and statistics of a module by name, as they lie in it; counters are left out."""
    state: dict[str, Tensor] = module.state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def kept_state(module: nn.Module) -> dict[str, Tensor]:
    """Copies of :func:`floating_state`, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in floating_state(module).items()}


@torch.no_grad()
def put_between(module: nn.Module, start: State, trained: State, alpha: float) -> None:
    """Give a module the weights at a point of the line, in place. Running statistics of batch norms go likewise.

    Args:
        module: of the architecture of both states.
        start: weights at alpha 0, of :func:`kept_state`.
        trained: weights at alpha 1.
        alpha: how far to go from the start; beyond [0, 1] it extrapolates.

    Raises:
        ModelError: naming a weight that one of the three lacks or has in another shape.
    """
    target = floating_state(module)
    check_same(start, trained, "the starting and the finetuned weights")
    check_same(target, start, "the retriever and the starting weights")
    for name, tensor in target.items():
        there = start[name].to(tensor.device), trained[name].to(tensor.device)
        tensor.copy_(between(*there, alpha))


def check_same(one: State, other: State, what: str) -> None:
    """Require two states of one architecture.

    Raises:
        ModelError: naming the first weight that differs.
    """
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            raise ModelError(f"{what} are of different architectures: only one of them has {name}")
        if one[name].shape != other[name].shape:
            shapes = f"{tuple(one[name].shape)} and {tuple(other[name].shape)}"
            raise ModelError(f"{what} are of different architectures: {name} is {shapes}")
