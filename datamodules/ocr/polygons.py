"""Quadrilaterals of text as masks, and those of other pictures as a control."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.hashing import mix
from datamodules.objects.masks import Mask, dilate, union_mask
from datamodules.text_spans import Point, Span

Quad = tuple[Point, Point, Point, Point]


def quads_mask(quads: Sequence[Quad], height: int, width: int, dilation: float = 0.0) -> Mask:
    """Draw quadrilaterals.

    Args:
        quads: corners in pixels.
        height: of the picture.
        width: of the picture.
        dilation: pixels by which they are widened, in a picture whose longer side has 640; scaled to this one.

    Returns:
        [H, W] bool.
    """
    things = [{"polygons": [[value for corner in quad for value in corner]]} for quad in quads]
    return dilate(union_mask(things, height, width), dilation)


def relative(spans: Sequence[Span], size: tuple[int, int]) -> list[Quad]:
    """The corners of spans as shares of the picture's width and height."""
    width, height = size
    return [_quad([(x / width, y / height) for x, y in span.quad]) for span in spans]


def _quad(corners: Sequence[Point]) -> Quad:
    a, b, c, d = corners
    return a, b, c, d


def borrow(
    pool: Sequence[tuple[int, Quad]],
    gone: Sequence[Span],
    own: Sequence[Span],
    row: int,
    size: tuple[int, int],
    *draw: int,
) -> list[tuple[int, Quad]]:
    """Draw polygons of other pictures, scaled to this one: the random control of arXiv 2312.14232.

    Two things are our construction. Each polygon keeps its shape and its place, but is brought to the area of the piece
    of text that it stands for, so that text and control differ in nothing but where they are. And those that would
    cover the picture's own text are passed over while there are others, since a control that removes text is none.

    Args:
        pool: number of a picture, and corners as shares of its width and height.
        gone: the pieces of text that they stand for, one polygon each.
        own: all text of this picture.
        row: number of this picture, whose own polygons are not drawn.
        size: width and height of this picture.
        draw: integers that decide the draw.

    Returns:
        One for each of ``gone``, with the picture that it is from, corners in pixels; none where no other picture has
        any, and the same one again where there are too few.
    """
    others = np.asarray([at for at, (owner, _) in enumerate(pool) if owner != row], dtype=np.int64)
    if not len(others):
        return []
    order = others[np.argsort(mix(*draw, others), kind="stable")].tolist()
    boxes = [_box(span.quad) for span in own]
    found: list[tuple[int, Quad]] = []
    for span in gone:
        order = order or others.tolist()
        fallback = (order[0], _matched(pool[order[0]][1], span.area(), size))
        at, quad = next(
            (
                (at, quad)
                for at, quad in ((at, _matched(pool[at][1], span.area(), size)) for at in order)
                if not any(_meet(_box(quad), box) for box in boxes)
            ),
            fallback,
        )
        order.remove(at)
        found.append((pool[at][0], quad))
    return found


def _matched(shares: Quad, area: float, size: tuple[int, int]) -> Quad:
    """Scale a polygon to a picture, then about its centre to an area in pixels, and move it into the picture."""
    corners = np.asarray(shares) * size
    now = Span("", _quad([(x, y) for x, y in corners.tolist()])).area()
    if now > 0 and area > 0:
        centre = corners.mean(axis=0)
        corners = centre + (corners - centre) * np.sqrt(area / now)
    # Where it is larger than the picture, its upper left stays in.
    corners += np.minimum(size - corners.max(axis=0), 0)
    corners += np.maximum(-corners.min(axis=0), 0)
    return _quad([(x, y) for x, y in corners.tolist()])


def _box(quad: Quad) -> tuple[float, float, float, float]:
    xs, ys = zip(*quad, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
