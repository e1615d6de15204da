"""Pastes an object of one picture into another, at a size and a height that it could have there."""

from __future__ import annotations

import cv2
import numpy as np

from datamodules.decode import Picture
from datamodules.hashing import generator
from datamodules.objects.masks import Mask

_TRIES = 64  # places that are looked at
_MOST_COVERED = 0.3  # share of an annotated object that may be hidden
_AREA = (0.01, 0.15)  # shares of the picture that the object may fill


def paste(
    picture: Picture, others: list[Mask], donor: Picture, outline: Mask, *parts: int
) -> tuple[Picture, Mask] | None:
    """Paste an object.

    It keeps the share of the picture's height that it had at home, within limits, and stands about as high in it. Of
    many places that the draw offers, the one that hides least of what is annotated is taken.

    Args:
        picture: [H, W, 3] where it goes.
        others: [H, W] masks of the objects there.
        donor: [h, w, 3] where it comes from.
        outline: [h, w] its mask there.
        parts: integers that the draw depends on.

    Returns:
        The new picture and the pasted object's mask in it; None where it fits nowhere.
    """
    height, width = picture.shape[:2]
    rows, columns = np.flatnonzero(outline.any(axis=1)), np.flatnonzero(outline.any(axis=0))
    if not len(rows):
        return None
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    rng = generator(*parts)
    scale = height / donor.shape[0] * float(rng.uniform(0.8, 1.2))
    share = outline.sum() * scale**2 / (height * width)
    scale *= float(np.sqrt(np.clip(share, *_AREA) / share))
    scale = min(scale, 0.9 * height / (rows[-1] + 1 - rows[0]), 0.9 * width / (columns[-1] + 1 - columns[0]))
    size = (max(round((columns[-1] + 1 - columns[0]) * scale), 1), max(round((rows[-1] + 1 - rows[0]) * scale), 1))
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    thing = cv2.resize(np.ascontiguousarray(donor[part]), size, interpolation=shrinks)
    alpha = cv2.resize(
        outline[part].astype(np.float32), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    solid = alpha > 0.5
    if not solid.any():
        return None
    place = _place(others, solid, (rows[0] + rows[-1]) / 2 / donor.shape[0], rng, (height, width))
    if place is None:
        return None
    y, x = place
    made, mask = picture.copy(), np.zeros((height, width), dtype=bool)
    spot = (slice(y, y + size[1]), slice(x, x + size[0]))
    # A pixel of softness at the edge: a hard one is no object's.
    soft = cv2.GaussianBlur(alpha, (3, 3), 0)[:, :, None]
    made[spot] = np.round(thing * soft + made[spot] * (1 - soft)).astype(np.uint8)
    mask[spot] = solid
    return made, mask


def _place(
    others: list[Mask], solid: Mask, level: float, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[int, int] | None:
    (height, width), (its_height, its_width) = size, solid.shape
    best: tuple[float, tuple[int, int]] | None = None
    for _ in range(_TRIES):
        y = round((level + float(rng.uniform(-0.1, 0.1))) * height - its_height / 2)
        y = min(max(y, 0), height - its_height)
        x = int(rng.integers(width - its_width + 1))
        spot = (slice(y, y + its_height), slice(x, x + its_width))
        hidden = max(((mask[spot] & solid).sum() / max(mask.sum(), 1) for mask in others), default=0.0)
        if best is None or hidden < best[0]:
            best = (float(hidden), (y, x))
        if hidden == 0:
            break
    return best[1] if best is not None and best[0] <= _MOST_COVERED else None
