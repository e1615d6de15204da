"""Scores of every row against every column, judged a few rows at a time: the matrix is never held.

A loss that is a mean over rows needs of a row's scores no more than its own value and its own gradient. Both are taken
while the row's scores are there, in the forward pass, so that the backward pass computes nothing again: as many matrix
products as without chunks, and memory for ``chunk`` rows in place of all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from losses.scores import at_least_float32

Judge = Callable[[Tensor, int], Tensor]
"""Takes ``logits [c, N]`` of the rows from the given one on, turns them in place into the gradient of the rows' summed
loss, and returns that sum."""


def mean_over_rows(
    rows: Tensor, columns: Tensor, scale: Tensor, bias: Tensor | None, judge: Judge, chunk: int
) -> Tensor:
    """Mean loss of ``scale * rows @ columns.T + bias``, judged row by row.

    Args:
        rows: [B, D] float.
        columns: [N, D] float.
        scale: [] float.
        bias: [] float, or None for none.
        judge: the loss of a few rows.
        chunk: how many rows at once.

    Returns:
        [] float32 or float64. Its gradient can be taken once, and not differentiated again.
    """
    inputs = (at_least_float32(rows), at_least_float32(columns), scale, bias)
    value: Tensor = _MeanOverRows.apply(*inputs, judge, chunk)
    return value


def recomputed(judge: Callable[[Tensor], Tensor], rows: Tensor, chunk: int) -> Tensor:
    """What ``judge`` says of rows, a few at a time; what it needs for that is computed again in the backward pass.

    For terms that are no plain function of one matrix of scores, at the price of computing them twice.

    Args:
        judge: takes int64 [c] rows, returns [c, ...].
        rows: int64 [R].
        chunk: how many rows at once; 0 takes all, and computes nothing twice.

    Returns:
        [R, ...], in the order of ``rows``.
    """
    if not chunk or len(rows) <= chunk:
        return judge(rows)
    # Nothing here draws random numbers, so there is no generator's state to bring back.
    return torch.cat(
        [checkpoint(judge, part, use_reentrant=False, preserve_rng_state=False) for part in rows.split(chunk)]
    )


class _MeanOverRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, scale: Tensor, bias: Tensor | None, judge: Judge, chunk: int
    ) -> Tensor:
        total = rows.new_zeros(())
        wanted = any(ctx.needs_input_grad)
        of_rows = torch.empty_like(rows) if wanted else None
        of_columns = torch.zeros_like(columns) if wanted else None
        of_scale, of_bias = rows.new_zeros(()), rows.new_zeros(())
        room = rows.new_empty(min(chunk, len(rows)), len(columns))
        # Autocast would take these products in half precision.
        with torch.autocast(rows.device.type, enabled=False):
            for start in range(0, len(rows), chunk):
                own = rows[start : start + chunk]
                logits = torch.mm(own, columns.T, out=room[: len(own)]).mul_(scale)
                if bias is not None:
                    logits.add_(bias)
                total += judge(logits, start)
                if of_rows is not None and of_columns is not None:
                    pull = torch.mm(logits, columns, out=of_rows[start : start + chunk])
                    of_scale += (pull * own).sum()
                    of_columns.addmm_(logits.T, own)
                    of_bias += logits.sum()
        if of_rows is not None and of_columns is not None:
            factor = scale / len(rows)
            ctx.save_for_backward(
                of_rows.mul_(factor), of_columns.mul_(factor), of_scale / len(rows), of_bias / len(rows)
            )
        ctx.has_bias = bias is not None
        return total / len(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_rows, of_columns, of_scale, of_bias = ctx.saved_tensors
        return (
            gradient * of_rows, gradient * of_columns, gradient * of_scale,
            gradient * of_bias if ctx.has_bias else None, None, None,
        )  # fmt: skip
