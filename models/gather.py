"""Gather embeddings over the ranks so that gradients flow back to the rank that made them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather_with_gradient(x: Tensor) -> Tensor:
    """Concatenate every rank's rows, in rank order.

    The backward sums the gradient that all ranks have for this rank's rows. With a loss whose mean over ranks is the
    loss of the global batch (see `losses.base`) and DistributedDataParallel's average over ranks, parameters get the
    gradient of that loss, for any number of ranks. A gather that cuts the gradient, or keeps only a rank's own part of
    it, gives another one.

    Backward is a collective, so every rank must run it or none. A rank on which ``x`` happens to need no gradient (a
    batch without twins) takes part all the same; a rank whose loss does not use the result would leave the others
    waiting.

    Args:
        x: [B, ...], any dtype; B and the rest alike on all ranks. Integers are gathered without gradient.

    Returns:
        [W * B, ...] for W ranks; ``x`` itself where torch.distributed is not initialised or there is one rank.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    if torch.is_grad_enabled() and x.is_floating_point() and not x.requires_grad:
        x = x.detach().requires_grad_()
    gathered: Tensor = _Gather.apply(x)
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather forward; sum of the gradients, then this rank's slice, backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # A copy: autograd may hand the same gradient to another consumer, and all_reduce works in place.
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]
