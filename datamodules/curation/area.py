"""What share of a picture lies under text."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np

from datamodules.text_spans import PictureText, Span

_RASTER = 512  # pixels of the longer side at which polygons that overlap are united
_SHIFT = 4  # bits of a pixel's fraction that OpenCV is given


def area_share(text: PictureText) -> float:
    """Share of the picture that lies under text, in [0, 1].

    Exact where the spans' bounding boxes lie apart and inside the picture; else of a raster of 512 pixels on the longer
    side.

    >>> a, b = ((0, 0), (10, 0), (10, 5), (0, 5)), ((0, 5), (10, 5), (10, 10), (0, 10))
    >>> area_share(PictureText((20, 10), (Span("one", a), Span("two", b)), "written"))
    0.5
    """
    if not text.spans:
        return 0.0
    width, height = text.size
    boxes = [_box(span) for span in text.spans]
    inside = all(left >= 0 and top >= 0 and right <= width and bottom <= height for left, top, right, bottom in boxes)
    apart = all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a, b in combinations(boxes, 2))
    if inside and apart:
        return float(sum(span.area() for span in text.spans) / (width * height))
    scale = _RASTER / max(width, height)
    mask = np.zeros((max(round(height * scale), 1), max(round(width * scale), 1)), dtype=np.uint8)
    for span in text.spans:
        corners = np.asarray(span.quad, dtype=np.float64) * scale - 0.5  # there, pixels' centres lie at whole numbers
        cv2.fillPoly(mask, [np.rint(corners * 2**_SHIFT).astype(np.int32)], 1, shift=_SHIFT)
    return float(mask.mean())


def _box(span: Span) -> tuple[float, float, float, float]:
    xs, ys = zip(*span.quad, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
