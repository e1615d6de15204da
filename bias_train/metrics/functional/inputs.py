"""Checks on what a metric is given: wrong embeddings end in one clear error, never in a silent number."""

from __future__ import annotations

import torch
from torch import Tensor


def check_embeddings(**named: Tensor) -> None:
    """Require [n, D] float tensors of one width, without non-finite or all-zero rows.

    A zero row has no direction: its cosine would be 0/0, or, unnormalised, a score of 0 with everything. A collapsed
    or diverged model must not pass for a neutral one.

    Args:
        named: the tensors by the names under which the caller knows them.

    Raises:
        ValueError: naming the tensor, and the row where one is to blame.
    """
    width: tuple[str, int] | None = None
    for name, tensor in named.items():
        if tensor.ndim != 2 or not tensor.is_floating_point():
            raise ValueError(f"{name} must be a [rows, width] float tensor, not {tuple(tensor.shape)} {tensor.dtype}")
        if len(tensor) == 0:
            raise ValueError(f"{name} is empty: nothing can be ranked")
        if width is not None and tensor.shape[1] != width[1]:
            raise ValueError(f"{name} is {tensor.shape[1]} wide, but {width[0]} is {width[1]} wide")
        width = (name, tensor.shape[1])
        fault = first_fault(tensor)
        if fault is not None:
            raise ValueError(f"{name} row {fault[0]} {fault[1]}")


def first_fault(embedding: Tensor) -> tuple[int, str] | None:
    """The first row of [n, D] that cannot be scored, and why; None where all can."""
    finite = torch.isfinite(embedding).all(dim=1)
    bad = ~finite | (embedding == 0).all(dim=1)
    if not bool(bad.any()):
        return None
    row = int(torch.nonzero(bad)[0, 0])
    if bool(finite[row]):
        return row, "is all zeros: it has no direction to score"
    return row, "is not finite: the encoder diverged or its input was corrupt"


def check_ids(rows: int, owner: str, **named: Tensor) -> None:
    """Require one integer id per row of the tensor called ``owner``, which has ``rows`` rows.

    Raises:
        ValueError: naming the ids that are of another length or kind.
    """
    for name, ids in named.items():
        if ids.shape != (rows,):
            raise ValueError(f"{name} has shape {tuple(ids.shape)}, but {owner} has {rows} rows: give one id per row")
        if ids.is_floating_point() or ids.is_complex():
            raise ValueError(f"{name} must hold integers, not {ids.dtype}")


def check_cutoffs(name: str, ks: tuple[int, ...]) -> None:
    """Require positive cut-offs.

    Raises:
        ValueError: naming the option and the cut-off.
    """
    for k in ks:
        if k < 1:
            raise ValueError(f"{name} holds {k}; a cut-off must be at least 1")


def is_normalised(*tensors: Tensor, tolerance: float = 1e-3) -> bool:
    """Whether every row has unit length, so that scores are cosines."""
    return all(bool(((t.double().norm(dim=1) - 1.0).abs() <= tolerance).all()) for t in tensors)
