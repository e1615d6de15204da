"""Galleries at an exact mixing ratio, nested across ratios."""

from __future__ import annotations

import numpy as np

from datamodules.catalogue import Ints
from datamodules.errors import DataError
from datamodules.hashing import mix


def gallery(source: Ints, target: Ints, ratio: float, *, generator: int | None = None, seed: int = 0) -> Ints:
    """Choose the largest gallery of a given share of generated pictures.

    Pictures leave in an order that alternates over targets and is hashed within them, so that every target keeps its
    part and a gallery at one ratio shares its pictures with the next.

    Args:
        source: [M] int64, 0 real.
        target: [M] int64 what each picture shows (a class or a photo's id).
        ratio: share of generated pictures, in [0, 1].
        generator: take only this source code as generated; None takes all.
        seed: of the order.

    Returns:
        [G] row numbers in ascending order.

    Raises:
        DataError: if the ratio is outside [0, 1] or a source that it needs has no pictures.

    Example:
        >>> import numpy as np
        >>> source, target = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 0, 0, 1, 1])
        >>> chosen = gallery(source, target, 0.2)
        >>> int((source[chosen] == 0).sum()), int((source[chosen] == 1).sum())
        (4, 1)
    """
    if not 0.0 <= ratio <= 1.0:
        raise DataError(f"a gallery's ratio must lie in [0, 1], got {ratio}")
    real = np.flatnonzero(source == 0)
    made = np.flatnonzero(source > 0 if generator is None else source == generator)
    if (ratio < 1 and len(real) == 0) or (ratio > 0 and len(made) == 0):
        raise DataError(f"a gallery at ratio {ratio} needs pictures of a source that the evaluation shards do not hold")
    if ratio in (0.0, 1.0):
        return np.sort(real if ratio == 0.0 else made)
    total = min(len(real) / (1 - ratio), len(made) / ratio)
    counts = round(total * (1 - ratio)), round(total * ratio)
    return np.sort(
        np.concatenate([_spread(rows, target, seed)[:n] for rows, n in zip((real, made), counts, strict=True)])
    )


def _spread(rows: Ints, target: Ints, seed: int) -> Ints:
    """Order rows so that every prefix holds each target nearly equally often."""
    hashed = rows[np.argsort(mix(seed, 7, target[rows], rows), kind="stable")]
    by_target = hashed[np.argsort(target[hashed], kind="stable")]
    _, first, counts = np.unique(target[by_target], return_index=True, return_counts=True)
    turn = np.arange(len(by_target)) - np.repeat(first, counts)
    return by_target[np.lexsort((mix(seed, 8, target[by_target]), turn))]
