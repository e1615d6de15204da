"""Embeddings whose bias is known because it was put there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bias_train.embeddings import Embeddings


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def without_queries(embeddings: Embeddings) -> Embeddings:
    return replace(embeddings.queries(np.empty(0, dtype=np.int64)), text=None)


def pair_world(
    scenes: int = 40,
    width: int = 24,
    *,
    offset: float | np.ndarray = 0.0,
    noise: float = 0.1,
    generators: int = 1,
    captions: int = 2,
    seed: int = 0,
    exact: bool = False,
) -> tuple[Embeddings, np.ndarray]:
    """Scenes with a photo, a twin by each generator and captions near the scene.

    Args:
        scenes: how many.
        width: D.
        offset: length of the common displacement along the first axis, of all generators or of each.
        noise: of every picture and caption around its scene.
        generators: how many.
        captions: of each scene.
        seed: of everything.
        exact: twins are their photos plus the displacement, without noise of their own.

    Returns:
        The embeddings, not normalised, and the [D] axis of the displacement. Scenes lie across that axis, and captions
        along it a little, so that a displacement moves their scores.
    """
    rng = np.random.default_rng(seed)
    axis = np.eye(width)[0]
    scene = rng.standard_normal((scenes, width))
    scene[:, 0] = 0.0
    scene = unit(scene)
    photo = scene + noise * rng.standard_normal((scenes, width))
    offsets = np.broadcast_to(offset, (generators,))
    twins = [
        (photo if exact else scene + noise * rng.standard_normal((scenes, width))) + length * axis for length in offsets
    ]
    text = np.repeat(scene, captions, axis=0) + 0.3 * axis
    text = text + noise * rng.standard_normal(text.shape)
    count = 1 + generators
    return (
        Embeddings(
            image=torch.from_numpy(np.concatenate([photo, *twins]).astype(np.float32)),
            image_key=tuple(f"{target}-{code}" for code in range(count) for target in range(scenes)),
            image_target=np.tile(np.arange(scenes), count),
            image_source=np.repeat(np.arange(count), scenes),
            sources=("real", *(f"gen-{number}" for number in range(1, count))),
            text=torch.from_numpy(text.astype(np.float32)),
            query=tuple(f"caption {number}" for number in range(len(text))),
            query_target=np.repeat(np.arange(scenes), captions),
            query_slot=np.tile(np.arange(captions), scenes),
            relevance="pair",
        ),
        axis,
    )


def class_world(classes: int = 5, each: int = 30, width: int = 16, offset: float = 0.5, seed: int = 0) -> Embeddings:
    """Classes of photos and unpaired generated pictures; unequal numbers of the two."""
    rng = np.random.default_rng(seed)
    centre = unit(rng.standard_normal((classes, width)))
    rows, target, source = [], [], []
    for label in range(classes):
        for code, count in ((0, each), (1, each + 3 + label)):
            rows.append(centre[label] + 0.3 * rng.standard_normal((count, width)) + code * offset * np.eye(width)[0])
            target += [label] * count
            source += [code] * count
    image = np.concatenate(rows)
    text = np.repeat(centre, 2, axis=0) + 0.2 * rng.standard_normal((2 * classes, width)) + 0.2 * np.eye(width)[0]
    return Embeddings(
        image=torch.from_numpy(image.astype(np.float32)),
        image_key=tuple(str(row) for row in range(len(image))),
        image_target=np.array(target),
        image_source=np.array(source),
        sources=("real", "gen-1"),
        text=torch.from_numpy(text.astype(np.float32)),
        query=tuple(f"prompt {number}" for number in range(len(text))),
        query_target=np.repeat(np.arange(classes), 2),
        query_slot=np.tile(np.arange(2), classes),
        relevance="label",
        target_names=tuple(f"class {label}" for label in range(classes)),
    )
