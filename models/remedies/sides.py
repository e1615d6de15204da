"""What the remedies share that map pictures, queries or both: the choice of side, bases of subspaces, the record."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from models.erasure import LinearEraser
from models.errors import ModelError
from models.remedies.base import Calibration, FittedLinear

Side = Literal["image", "text", "both"]

# Singular values below this share of the largest are rounding, not directions.
SMALLEST = 1e-6


def check_side(side: str, owner: object) -> None:
    """Require a side.

    Raises:
        ModelError: naming the remedy.
    """
    if side not in get_args(Side):
        raise ModelError(f"{type(owner).__name__}: side is {side!r}; choose {', '.join(get_args(Side))}")


def basis(rows: Tensor) -> Tensor:
    """Orthonormal basis of what rows span.

    Args:
        rows: [n, D] float.

    Returns:
        [r, D] float64, r being the rank; none for rows that are all zero.

    Raises:
        ModelError: for rows that span the whole space: nothing would be left of any vector.

    Example:
        >>> basis(torch.tensor([[0.0, 2.0, 0.0], [0.0, 3.0, 0.0]])).abs().tolist()
        [[0.0, 1.0, 0.0]]
    """
    width = rows.shape[1]
    _, size, directions = torch.linalg.svd(rows.double(), full_matrices=False)
    kept = directions[size > SMALLEST * size.max()] if len(rows) else directions[:0]
    if len(kept) == width:
        raise ModelError(f"the directions to remove span all {width} dimensions: nothing would be left; give fewer")
    return kept


def projection_off(directions: Tensor) -> Tensor:
    """[D, D] float64 orthogonal projection on what an orthonormal basis [r, D] leaves."""
    eye = torch.eye(directions.shape[1], dtype=torch.float64)
    return eye - directions.T @ directions


def record(method: str, calibration: Calibration, **more: Any) -> dict[str, Any]:
    """How a remedy was fitted, for its metadata.

    Args:
        method: its short name.
        calibration: what it was fitted to.
        more: options and findings; whatever JSON holds.
    """
    counts = torch.bincount(calibration.group, minlength=calibration.groups).tolist()
    return {
        "method": method,
        **more,
        "width": calibration.width,
        "pictures": dict(zip(calibration.labels, counts, strict=True)),
        "seed": calibration.seed,
    }


def fitted_on(side: Side, matrix: Tensor, about: dict[str, Any]) -> FittedLinear:
    """The same linear map [D, D] of pictures, of queries or of both."""
    one = LinearEraser(matrix)
    return FittedLinear(
        one if side in ("image", "both") else None, one if side in ("text", "both") else None, {**about, "side": side}
    )
