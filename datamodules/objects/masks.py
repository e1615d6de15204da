"""Where objects lie: masks of polygons, run lengths and boxes, as COCO writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError

Mask = npt.NDArray[np.bool_]
"""[H, W], True where the object is."""

_SUBPIXEL = 4  # bits of OpenCV's fixed-point coordinates
_MEASURE = 640  # the longer side, in pixels, that dilations are given for


def decode_rle(rle: Mapping[str, Any]) -> Mask:
    """Decode a run-length mask.

    Runs of 0 and 1 in turn, 0 first, column by column (COCO's format). ``counts`` is a list, or COCO's compressed
    string: each number in groups of five bits, low ones first, from the third number on as the difference from the one
    before the last.

    Args:
        rle: ``{"size": [height, width], "counts": list or string}``.

    Raises:
        DataError: if it is no such mask, or its runs do not fill it.

    >>> decode_rle({"size": [2, 2], "counts": [1, 2, 1]}).tolist()
    [[False, True], [True, False]]
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        runs = _decompressed(counts) if isinstance(counts, str | bytes) else [int(run) for run in counts]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"a run-length mask is {{'size': [height, width], 'counts': ...}} ({error!r})") from error
    if min([height, width, *runs]) < 0 or sum(runs) != height * width:
        raise DataError(f"a run-length mask of {height} x {width} pixels has runs for {sum(runs)}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _decompressed(text: str | bytes) -> list[int]:
    data = text.encode("ascii") if isinstance(text, str) else text
    runs: list[int] = []
    at = 0
    while at < len(data):
        value = shift = 0
        more = True
        while more:
            byte = data[at] - 48
            if not 0 <= byte < 64:
                raise ValueError(f"character {chr(data[at])!r}")
            value |= (byte & 31) << shift
            more, shift, at = bool(byte & 32), shift + 5, at + 1
            if not more and byte & 16:
                value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def encode_rle(mask: Mask) -> dict[str, Any]:
    """Encode a mask as uncompressed run lengths, see :func:`decode_rle`.

    >>> encode_rle(np.array([[False, True], [True, False]]))
    {'size': [2, 2], 'counts': [1, 2, 1]}
    """
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    return {"size": [int(side) for side in mask.shape], "counts": [0, *runs] if flat[:1].any() else runs}


def object_mask(thing: Mapping[str, Any], height: int, width: int) -> Mask:
    """Draw one object of a sample's ``meta["objects"]``.

    The finest that is known of it: polygons, else run lengths, else its box. Pixels whose centre a polygon holds are
    in, and those that its outline touches: a mask that is a pixel too wide harms less than one too narrow.

    Args:
        thing: ``{"category", "box": [left, top, width, height], "polygons" | "rle"}``, in pixels.
        height: of the picture.
        width: of the picture.

    Raises:
        DataError: if none of them is there, or what is there cannot be read or belongs to a picture of another size.
    """
    mask = np.zeros((height, width), dtype=np.uint8)
    try:
        if thing.get("polygons"):
            for points in thing["polygons"]:
                _fill(mask, points)
        elif thing.get("rle"):
            decoded = decode_rle(thing["rle"])
            if decoded.shape != mask.shape:
                raise DataError(f"its run-length mask is {decoded.shape}, the picture {mask.shape} (height, width)")
            return decoded
        else:
            left, top, its_width, its_height = (float(value) for value in thing["box"])
            x0, y0 = max(round(left), 0), max(round(top), 0)
            mask[y0 : max(round(top + its_height), y0), x0 : max(round(left + its_width), x0)] = 1
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"object {thing.get('category')!r}: has neither polygons nor rle nor a box ({error!r})"
        ) from error
    return mask.astype(bool)


def _fill(mask: npt.NDArray[np.uint8], points: Sequence[float]) -> None:
    # OpenCV's coordinates are those of pixel centres, COCO's those of the grid between the pixels.
    corners = np.asarray(points, dtype=np.float64).reshape(-1, 2) - 0.5
    if not np.isfinite(corners).all():
        raise ValueError("a polygon's coordinate is not finite")
    fixed = np.round(corners * 2**_SUBPIXEL).clip(-(2**30), 2**30).astype(np.int32)
    if len(fixed):
        cv2.fillPoly(mask, [fixed], 1, shift=_SUBPIXEL)


def category_mask(objects: Sequence[Mapping[str, Any]], category: str, height: int, width: int) -> Mask | None:
    """Draw all instances of a category together.

    Args:
        objects: a sample's ``meta["objects"]``.
        category: which of them.
        height: of the picture.
        width: of the picture.

    Returns:
        The mask; None where a crowd of the category is annotated, whose outline is not known.

    Raises:
        DataError: see :func:`object_mask`.
    """
    its = [thing for thing in objects if thing.get("category") == category]
    return None if any(thing.get("crowd") for thing in its) else union_mask(its, height, width)


def union_mask(objects: Sequence[Mapping[str, Any]], height: int, width: int) -> Mask:
    """Draw objects together, see :func:`object_mask`."""
    found = np.zeros((height, width), dtype=bool)
    for thing in objects:
        found |= object_mask(thing, height, width)
    return found


def dilate(mask: Mask, pixels: float) -> Mask:
    """Widen a mask on all sides.

    Args:
        mask: [H, W].
        pixels: by how much, in a picture whose longer side has 640 pixels; scaled to this one.
    """
    radius = round(pixels * max(mask.shape) / _MEASURE)
    if radius < 1 or not mask.any():
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)
