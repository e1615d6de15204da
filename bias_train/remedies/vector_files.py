"""A fitted remedy applied to an index of pictures or queries on disk, a piece at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bias_train.erasure.vector_files import map_file
from bias_train.errors import RunError
from models.remedies import Fitted


def apply_to_file(
    fitted: Fitted,
    source: Path,
    result: Path,
    *,
    side: Literal["image", "text"] = "image",
    name: str | None = None,
    chunk: int = 16384,
) -> int:
    """Write a copy of an index with the vectors of one side mapped; forms as in `bias_train.erasure.vector_files`.

    Rows are brought to unit length before, as the remedy was fitted on, and come out so.

    Args:
        fitted: the remedy.
        source: the index.
        result: another file of the same ending; it appears when it is whole.
        side: "image" or "text".
        name: array or column; None takes the first usual one.
        chunk: rows at once.

    Returns:
        Vectors mapped.

    Raises:
        RunError: naming the file, where it has another form or width, or a row without a direction, and for a remedy
            that leaves this side as it is.
    """
    width = fitted.metadata.get("width")
    if isinstance(width, int) and _leaves(fitted, side, width):
        raise RunError(f"--side {side}: the remedy leaves this side as it is; there is nothing to apply")

    def change(rows: NDArray[Any], first: int) -> NDArray[Any]:
        if rows.ndim != 2 or width not in (None, rows.shape[1]):
            raise RunError(f"{source}: its rows have shape {rows.shape[1:]}, but the remedy is for width {width}")
        work = np.array(rows, dtype=np.float64 if rows.dtype == np.float64 else np.float32)
        length = np.linalg.norm(work, axis=1, keepdims=True)
        bad = ~np.isfinite(length[:, 0]) | (length[:, 0] == 0)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise RunError(f"{source}: row {first + row} is all zeros or no number: it has no direction")
        vectors = torch.from_numpy(work / length)
        mapped = fitted.image(vectors) if side == "image" else fitted.text(vectors)
        return mapped.numpy().astype(rows.dtype)

    return map_file(change, source, result, name=name, side=side, chunk=chunk)


def _leaves(fitted: Fitted, side: str, width: int) -> bool:
    """Whether a remedy gives vectors of a side back untouched."""
    probe = torch.eye(width)[:1]
    return (fitted.image(probe) if side == "image" else fitted.text(probe)) is probe
