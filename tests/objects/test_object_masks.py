"""Masks against pycocotools."""

from __future__ import annotations

import json
import pathlib
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path

from datamodules import DataError
from datamodules.objects.masks import category_mask, decode_rle, dilate, encode_rle, object_mask, union_mask

coco = pytest.importorskip("pycocotools.mask")


@settings(max_examples=100, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_run_lengths(mask: np.ndarray) -> None:
    compressed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(decode_rle(compressed), mask)
    text = {"size": compressed["size"], "counts": compressed["counts"].decode()}
    assert np.array_equal(decode_rle(text), mask)
    mine = encode_rle(mask)
    assert np.array_equal(coco.decode(coco.frPyObjects(mine, *mask.shape)).astype(bool), mask)
    assert np.array_equal(decode_rle(mine), mask)


def test_long_runs() -> None:
    mask = np.zeros((700, 900), dtype=bool)
    mask[3:690, 5:890] = True
    assert np.array_equal(decode_rle(coco.encode(np.asfortranarray(mask.astype(np.uint8)))), mask)


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2, 2], "counts": "\x01"},
        {"size": [2], "counts": [2]},
        {"counts": [4]},
        {"size": [2, 2], "counts": "Q"},
    ],
)
def test_damaged_run_lengths(rle: dict[str, object]) -> None:
    with pytest.raises(DataError, match="run-length"):
        decode_rle(rle)


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 120), st.floats(0, 80)), min_size=3, max_size=8))
def test_polygons(points: list[tuple[float, float]]) -> None:
    polygon = [float(value) for point in points for value in point]
    theirs = coco.decode(coco.merge(coco.frPyObjects([polygon], 80, 120))).astype(bool)
    mine = object_mask({"category": "x", "polygons": [polygon]}, 80, 120)
    # Ours holds theirs but for the outline, and of what is outside no pixel farther than one and a half from it.
    assert not (theirs & ~dilate(mine, 640 / 120)).any()
    y, x = np.mgrid[0:80, 0:120]
    centres = np.stack([x.ravel(), y.ravel()], axis=1) + 0.5
    inside = Path(points).contains_points(centres).reshape(80, 120)
    assert not (mine & ~inside & (_distance(centres, points).reshape(80, 120) > 1.5)).any()


def _distance(centres: np.ndarray, points: list[tuple[float, float]]) -> np.ndarray:
    """Distance of points from the nearest side of a polygon."""
    nearest = np.full(len(centres), np.inf)
    for first, second in zip(points, points[1:] + points[:1], strict=True):
        start, way = np.array(first), np.subtract(second, first)
        along = np.clip(((centres - start) @ way) / max(float(way @ way), 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.hypot(*(centres - start - along[:, None] * way).T))
    return nearest


def test_real_polygons(shared_data: pathlib.Path) -> None:
    with tarfile.open(shared_data / "coco_tiny.tar") as archive:
        file = archive.extractfile("annotations/instances.json")
        assert file is not None
        data = json.load(file)
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    overlap, missed, pixels = [], 0, 0
    for annotation in data["annotations"]:
        if not isinstance(annotation["segmentation"], list):
            continue
        height, width = sizes[annotation["image_id"]]
        theirs = coco.decode(coco.merge(coco.frPyObjects(annotation["segmentation"], height, width))).astype(bool)
        mine = object_mask({"category": "x", "polygons": annotation["segmentation"]}, height, width)
        missed, pixels = missed + int((theirs & ~mine).sum()), pixels + int(theirs.sum())
        if theirs.sum() > 5000:
            overlap.append(_iou(mine, theirs))
    assert len(overlap) > 50
    assert min(overlap) > 0.9
    assert np.mean(overlap) > 0.97
    assert missed < 0.002 * pixels


def test_boxes_and_unions() -> None:
    boxed = {"category": "x", "box": [2.2, 1.4, 3.0, 2.0]}
    mask = object_mask(boxed, 5, 8)
    assert np.argwhere(mask).min(axis=0).tolist() == [1, 2]
    assert mask.sum() == 6
    run = {"category": "x", "rle": encode_rle(np.eye(5, 8, dtype=bool))}
    assert np.array_equal(union_mask([boxed, run], 5, 8), mask | np.eye(5, 8, dtype=bool))
    assert np.array_equal(category_mask([boxed, run | {"category": "y"}], "x", 5, 8), mask)
    assert category_mask([boxed, run | {"crowd": True}], "x", 5, 8) is None
    assert not category_mask([boxed], "z", 5, 8).any()  # type: ignore[union-attr]
    assert not object_mask({"category": "x", "box": [20, 20, 5, 5]}, 5, 8).any()


@pytest.mark.parametrize(
    "thing",
    [
        {"category": "x"},
        {"category": "x", "box": [1, 2, 3]},
        {"category": "x", "box": "none"},
        {"category": "x", "polygons": [[1, 2, 3]]},
        {"category": "x", "polygons": [[1, 2, float("nan"), 3]]},
        {"category": "x", "rle": {"size": [3, 3], "counts": [9]}},
    ],
)
def test_objects_that_cannot_be_drawn(thing: dict[str, object]) -> None:
    with pytest.raises(DataError):
        object_mask(thing, 5, 8)


def test_dilation() -> None:
    mask = np.zeros((480, 640), dtype=bool)
    mask[200, 300] = True
    wide = dilate(mask, 13)
    rows, columns = np.argwhere(wide).T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (187, 213, 287, 313)
    far = np.hypot(*(np.argwhere(wide) - [200, 300]).T)
    assert far.max() <= 13.5
    assert wide.sum() == pytest.approx(np.pi * 13.5**2, rel=0.05)
    half = dilate(mask[::2, ::2], 13)  # half the picture, half the pixels; 6.5 rounds to even
    assert np.argwhere(half)[:, 1].max() - 150 == 6
    assert dilate(mask, 0) is mask
    assert not dilate(np.zeros_like(mask), 13).any()
