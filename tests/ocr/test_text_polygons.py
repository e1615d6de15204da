"""Polygons of text as masks, borrowed ones, plain fills, and the blur at query time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from written import ENGINES, written

from datamodules import DataError
from datamodules.decode import Picture
from datamodules.ocr import reader_of
from datamodules.ocr.blur import read_and_blur
from datamodules.ocr.fill import BlurFill, MeanFill
from datamodules.ocr.polygons import Quad, borrow, quads_mask, relative
from datamodules.text_spans import Span


def quad(left: float, top: float, right: float, bottom: float) -> Quad:
    return (left, top), (right, top), (right, bottom), (left, bottom)


class Fixed:
    """Finds what it is told."""

    name = "fixed"

    def __init__(self, *spans: Span) -> None:
        self.spans = spans

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def read(self, image: Picture) -> tuple[Span, ...]:
        return self.spans


def test_masks() -> None:
    mask = quads_mask([quad(2, 3, 8, 6), quad(20, 0, 30, 1)], 10, 25)
    assert mask[3:6, 2:8].all()
    assert mask[:, :15].sum() <= 4 * 7  # a pixel more where the outline touches it
    assert mask[0, 20:].all()
    assert not quads_mask([], 10, 25, 5.0).any()
    tilted = quads_mask([((0, 5), (5, 0), (10, 5), (5, 10))], 10, 10)
    assert tilted.mean() == pytest.approx(0.5, abs=0.12)
    wide = quads_mask([quad(300, 300, 340, 340)], 640, 640, 10.0)
    rows, _ = np.nonzero(wide)
    assert 289 <= rows.min() <= 290
    assert 349 <= rows.max() <= 351


def test_borrowed_polygons_are_scaled_and_of_others() -> None:
    pool = [(7, shape) for shape in relative([Span("a", quad(0, 0, 50, 10))], (100, 20))]
    pool += [(8, shape) for shape in relative([Span("b", quad(5, 5, 10, 10))], (10, 10))]
    gone = Span("gone", quad(0, 0, 15, 30))  # of the area that both have in a picture of 30 x 60
    assert borrow(pool, [gone], [], 8, (30, 60), 0) == [(7, quad(0, 0, 15, 30))]
    assert borrow(pool, [gone] * 2, [], 7, (30, 60), 0) == [(8, quad(15, 30, 30, 60))] * 2  # there is no other
    assert borrow(pool, [], [], 7, (30, 60), 0) == []
    assert borrow(pool[:1], [gone], [], 7, (30, 60), 0) == []
    assert {owner for owner, _ in borrow(pool, [gone] * 2, [], 1, (30, 60), 0)} == {7, 8}


def test_borrowed_polygons_have_the_area_of_the_text() -> None:
    pool = [(0, quad(0.4, 0.4, 0.6, 0.5)), (0, quad(0.9, 0.95, 1, 1))]
    gone = [Span("large", quad(0, 0, 80, 16)), Span("small", quad(0, 0, 10, 8))]
    found = [shape for _, shape in borrow(pool, gone, [], 1, (100, 100), 2)]
    for shape, span in zip(found, gone, strict=True):
        assert Span("", shape).area() == pytest.approx(span.area())
        (left, top), _, (right, bottom), _ = shape
        assert (right - left) / (bottom - top) == pytest.approx(2)  # the shape it had
        assert min(left, top) >= 0
        assert max(right, bottom) <= 100.001


def test_borrowed_polygons_spare_the_own_text_where_they_can() -> None:
    spots = np.random.default_rng(0).uniform(0, 0.8, (40, 2))
    pool = [(at, quad(x, y, x + 0.2, y + 0.1)) for at, (x, y) in enumerate(spots)]
    own = [Span("own", quad(0, 0, 100, 50))]  # the upper half
    gone = [Span("one", quad(0, 0, 20, 10))]
    for seed in range(20):
        found = borrow(pool, gone * 5, own, 99, (100, 100), seed)
        assert len({owner for owner, _ in found}) == 5
        assert min(y for _, shape in found for _, y in shape) >= 50
    everywhere = borrow(pool, gone * 40, own, 99, (100, 100), 3)
    assert sorted(owner for owner, _ in everywhere) == list(range(40))
    draws = {tuple(owner for owner, _ in borrow(pool, gone * 5, own, 99, (100, 100), seed)) for seed in range(20)}
    assert len(draws) > 15


def test_the_mean_of_the_rest() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[2:] = 100
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    filled = MeanFill()(picture, mask)
    assert (filled[0] == round(800 / 12)).all()
    np.testing.assert_array_equal(filled[1:], picture[1:])
    assert (MeanFill()(picture, np.ones((4, 4), bool)) == 50).all()


def test_the_blur_is_a_gaussian() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    mask = np.zeros((80, 60), bool)
    mask[20:60, 15:45] = True
    blurred = BlurFill(0.05)(picture, mask)
    truth = gaussian_filter(picture.astype(float), (3, 3, 0))
    assert np.abs(blurred[mask] - truth[mask]).max() < 3
    np.testing.assert_array_equal(blurred[~mask], picture[~mask])
    with pytest.raises(DataError, match="blur of 0"):
        BlurFill(0)


def test_blur_changes_text_alone() -> None:
    image, spans = written([("pepper", 100, 100)])
    shown = read_and_blur(image, Fixed(*spans), dilation=2.0)
    mask = quads_mask([span.quad for span in spans], *image.shape[:2], 2.0)  # type: ignore[call-arg]
    np.testing.assert_array_equal(shown[~mask], image[~mask])
    assert shown[mask].min() > image[mask].min() + 30
    nothing = read_and_blur(image, Fixed())
    np.testing.assert_array_equal(nothing, image)
    assert nothing is not image
    np.testing.assert_array_equal(read_and_blur(image, Fixed(*spans), fill=MeanFill())[mask].std(axis=0), 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_blurred_is_not_read_again(engine: str) -> None:
    image, _ = written([("lantern", 20, 30), ("window", 150, 150)])
    reader = reader_of(engine)
    assert len(reader.read(image)) == 2
    assert reader.read(read_and_blur(image, reader)) == ()
