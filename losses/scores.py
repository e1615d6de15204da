"""Scores between captions and pictures, and the unit in which a debias term reads them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from losses.base import Features

Unit = Literal["logit", "cosine"]
UNITS: tuple[Unit, ...] = ("logit", "cosine")


def cosine_matrix(rows: Tensor, columns: Tensor) -> Tensor:
    """All scores of ``rows`` against ``columns``, never in half precision.

    Autocast would run this product in bfloat16. Its 8 bits of mantissa resolve a cosine of 0.3 to about 0.001, which a
    logit scale of 100 turns into steps of 0.1: coarser than the source bias that is to be measured and removed.

    Args:
        rows: [B, D] L2-normalised.
        columns: [N, D] L2-normalised.

    Returns:
        [B, N] float32 or float64.
    """
    with torch.autocast(device_type=rows.device.type, enabled=False):
        return at_least_float32(rows) @ at_least_float32(columns).T


def cosine_of_rows(first: Tensor, second: Tensor) -> Tensor:
    """The score of each row with the same row of the other tensor: [B, D], [B, D] -> [B], float32 or float64."""
    return (at_least_float32(first) * at_least_float32(second)).sum(dim=1)


def own_column(features: Features) -> Tensor:
    """[B, N] bool: where the column of the global batch is the local row itself."""
    rows = torch.arange(features.image.shape[0], device=features.image.device)
    return rows[features.local, None] == rows[None, :]


def unit_factor(unit: Unit, logit_scale: Tensor) -> Tensor | float:
    """The factor that takes a cosine to ``unit``.

    The logit scale is a unit here, not something to learn from: it changes no ranking, so a debias term that reached it
    could be lowered by shrinking it, with the bias left as it is. Hence no gradient.
    """
    return logit_scale.detach() if unit == "logit" else 1.0


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
