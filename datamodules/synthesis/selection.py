"""Which of a prompt's candidates become views."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from datamodules.errors import DataError
from datamodules.hashing import mix, string_id
from datamodules.synthesis.settings import Selection

Encoder = Callable[[Sequence[Image.Image]], Tensor]
"""Pictures to [n, D] float, on any device; need not be normalised."""

Similarities = list[float | None]


def similarities(encoder: Encoder, photo: Image.Image, images: Sequence[Image.Image | None]) -> Similarities:
    """Cosines of candidates with their photo.

    Args:
        encoder: embeds pictures.
        photo: the real one.
        images: the candidates, None for one that was not made.

    Returns:
        A cosine for each, None for None.

    Raises:
        DataError: if the encoder gives vectors without a direction.
    """
    present = [image for image in images if image is not None]
    if not present:
        return [None] * len(images)
    vectors = encoder([photo, *present]).detach().double().cpu()
    norms = vectors.norm(dim=1)
    if not bool(torch.isfinite(norms).all() and (norms > 0).all()):
        raise DataError("the encoder that selects gives zero or non-finite vectors; choose another one")
    unit = vectors / norms[:, None]
    cosines = iter((unit[1:] @ unit[0]).tolist())
    return [None if image is None else next(cosines) for image in images]


def choose(how: Selection, found: Similarities, made: Sequence[bool], key: str, prompt: int, seed: int) -> list[int]:
    """Choose candidates.

    Args:
        how: ``best`` by similarity (the first of equals), ``first``, ``random`` or ``all``.
        found: their similarities; None where none was measured.
        made: whether each was made.
        key: of the sample, for the random choice.
        prompt: number of the prompt, likewise.
        seed: likewise.

    Returns:
        Their numbers; none where none was made.

    >>> choose("best", [0.2, 0.9, None], [True, True, False], "cat-1", 0, 0)
    [1]
    >>> choose("all", [None, None, None], [True, False, True], "cat-1", 0, 0)
    [0, 2]
    """
    present = [number for number, there in enumerate(made) if there]
    if how == "all" or not present:
        return present
    if how == "random":
        return [present[int(mix(seed, string_id(key), string_id("selection"), prompt) % len(present))]]
    if how == "best":
        return [max(present, key=lambda number: -math.inf if (at := found[number]) is None else at)]
    return present[:1]
