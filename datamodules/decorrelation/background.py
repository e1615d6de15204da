"""Finds room for a mask on the background, so that a picture can be inpainted as much without losing an object."""

from __future__ import annotations

import cv2
import numpy as np

from datamodules.hashing import generator
from datamodules.objects.masks import Mask

_CELL = 4  # pixels of the grid on which room is looked for


def control_mask(mask: Mask, occupied: Mask, *parts: int) -> tuple[Mask, bool] | None:
    """Make a mask of the same area where nothing is annotated, of the same shape if it can be.

    All places of a grid of four pixels are tried at once, by a correlation; one that fits is drawn at random. Where the
    mask fits nowhere as it is, it is mirrored or turned; where it does not fit then, the control is the part of the
    background, as many pixels large, that is closest to a random point of it.

    Args:
        mask: [H, W] what was inpainted.
        occupied: [H, W] what no pixel may touch: every annotated object, and ``mask`` itself.
        parts: integers that the draw depends on.

    Returns:
        The mask [H, W], and whether its shape is the same; None where the background is too small.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    shape = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rng = generator(*parts)
    taken = _coarse(occupied)
    mirrored = (shape, shape[:, ::-1], shape[::-1], shape[::-1, ::-1])
    for candidate in (*mirrored, *(one.T for one in mirrored)):
        height, width = candidate.shape
        if height > mask.shape[0] or width > mask.shape[1]:
            continue
        places = _places(_coarse(candidate), taken)
        # The last cell of a side may be cut off by the picture's edge.
        inside = [(y, x) for y, x in places * _CELL if y + height <= mask.shape[0] and x + width <= mask.shape[1]]
        if inside:
            y, x = inside[int(rng.integers(len(inside)))]
            found = np.zeros_like(mask)
            found[y : y + height, x : x + width] = candidate
            return found, True
    free = np.argwhere(~occupied)
    area = int(mask.sum())
    if len(free) < area:
        return None
    away = ((free - free[int(rng.integers(len(free)))]) ** 2).sum(axis=1)
    nearest = free[np.argsort(away, kind="stable")[:area]]
    found = np.zeros_like(mask)
    found[nearest[:, 0], nearest[:, 1]] = True
    return found, False


def _coarse(mask: Mask) -> Mask:
    """A mask on the grid: a cell is taken where any of its pixels is."""
    height, width = (-side % _CELL for side in mask.shape)
    padded = np.pad(mask, ((0, height), (0, width)))
    cells = padded.reshape(padded.shape[0] // _CELL, _CELL, padded.shape[1] // _CELL, _CELL)
    return np.asarray(cells.any(axis=(1, 3)))


def _places(shape: Mask, taken: Mask) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Cells (row, column) at which the shape touches nothing that is taken: [n, 2]."""
    if shape.shape[0] > taken.shape[0] or shape.shape[1] > taken.shape[1]:
        return np.empty((0, 2), dtype=np.int64)
    touched = cv2.matchTemplate(taken.astype(np.float32), shape.astype(np.float32), cv2.TM_CCORR)
    return np.argwhere(touched < 0.5)  # whole numbers but for rounding
