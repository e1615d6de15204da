"""What an eraser is fitted on, what it is checked on, and that the two have nothing in common."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.stats import Ints
from datamodules.hashing import mix, uniform

_SPLIT, _BALANCE = 301, 302

_MOST_COPIES = 0.05


def split_by_target(embeddings: Embeddings, share: float, seed: int = 0) -> tuple[Embeddings, Embeddings]:
    """Split into calibration and test, targets and all.

    A target goes to one side with its photos, its twins and its queries: half of the scenes, or half of the classes.
    Pictures of unknown target are split one by one.

    Args:
        embeddings: everything.
        share: of the targets (and of the pictures without one) that are held out for the test, in (0, 1).
        seed: of the choice.

    Returns:
        Calibration and test.

    Raises:
        RunError: if a side would be without pictures of one of the sources.
    """
    if not 0.0 < share < 1.0:
        raise RunError(f"--holdout is {share:g}; give a share between 0 and 1")
    targets = np.unique(embeddings.image_target[embeddings.image_target >= 0])
    order = np.argsort(mix(seed, _SPLIT, targets), kind="stable")
    held = set(targets[order[: round(share * len(targets))]].tolist())
    # Spread over the sources, so that the rarer one is on both sides.
    alone = np.flatnonzero(embeddings.image_target < 0)
    held_rows = np.isin(embeddings.image_target, list(held))
    for code in np.unique(embeddings.image_source[alone]):
        rows = alone[embeddings.image_source[alone] == code]
        rows = rows[np.argsort(mix(seed, _SPLIT, 1, rows), kind="stable")]
        held_rows[rows[: round(share * len(rows))]] = True
    asked = np.isin(embeddings.query_target, list(held))
    parts = (
        embeddings.pictures(~held_rows).queries(~asked),
        embeddings.pictures(held_rows).queries(asked),
    )
    for name, part in zip(("calibration", "test"), parts, strict=True):
        generated = part.generated
        if not generated.any() or generated.all():
            raise RunError(
                f"the {name} part would hold {int((~generated).sum())} real and {int(generated.sum())} generated "
                "pictures: give more targets, another --holdout, or a --seed that splits them better"
            )
    return parts[0], parts[1]


def unit(embeddings: Embeddings) -> Embeddings:
    """Bring every vector to unit length, on which erasers are fitted and cosines rank.

    Raises:
        RunError: naming the row that has no length.
    """

    def normalised(name: str, rows: Tensor) -> Tensor:
        length = rows.double().norm(dim=1, keepdim=True)
        if not bool((length > 0).all()):
            raise RunError(
                f"{name} row {int(torch.nonzero(length[:, 0] == 0)[0, 0])} is all zeros: it has no direction"
            )
        return (rows.double() / length).float()

    text = None if embeddings.text is None else normalised("text", embeddings.text)
    return replace(embeddings, image=normalised("image", embeddings.image), text=text)


def check_disjoint(calibration: Embeddings, test: Embeddings, *, same_targets: bool) -> None:
    """Refuse a test on what was calibrated on: figures would flatter the eraser.

    Args:
        calibration: what the eraser is fitted and tuned on.
        test: what it is judged on.
        same_targets: both number their targets alike (two parts of one set). Otherwise each numbers its own, and
            pictures alone are compared, by key and source.

    Raises:
        RunError: naming the first that both hold.
    """
    if same_targets:
        both = np.intersect1d(calibration.image_target, test.image_target)
        both = both[both >= 0]
        if len(both):
            raise RunError(
                f"calibration and test share {len(both)} targets, the first being {int(both[0])}: split them"
            )
    keys = _keys(calibration)
    for key in _keys(test):
        if key in keys:
            raise RunError(
                f"calibration and test share the picture {key[1]!r} ({key[0]}): test on pictures that were not "
                "calibrated on, or give one set and --holdout"
            )


def without_copies(test: Embeddings, calibration: Embeddings) -> Embeddings:
    """Drop the test's pictures whose vector the calibration holds to the last bit: copies under another name.

    Large sets have a few (a generator draws the same picture twice, a photo is collected twice).

    Raises:
        RunError: where they are so many that it is the same set under other names.
    """
    held = {_digest(row) for row in calibration.image.numpy()}
    copies = np.array([_digest(row) in held for row in test.image.numpy()], dtype=bool)
    if copies.mean() > _MOST_COPIES:
        first = test.image_key[int(np.flatnonzero(copies)[0])]
        raise RunError(
            f"{int(copies.sum())} of {len(test)} test pictures, such as {first!r}, have a vector that the calibration "
            "holds too: it is the same set under other names; test on other pictures"
        )
    return test.pictures(~copies) if copies.any() else test


def _keys(embeddings: Embeddings) -> dict[tuple[str, str], None]:
    # A key that is only a row's number names nothing.
    return {
        (embeddings.sources[code], key): None
        for row, (code, key) in enumerate(zip(embeddings.image_source.tolist(), embeddings.image_key, strict=True))
        if key and key != str(row)
    }


def _digest(row: NDArray[np.float32]) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def balanced_rows(embeddings: Embeddings, seed: int = 0) -> Ints:
    """Pictures to fit on: as many of both sources within every class, or the scenes that both have drawn.

    Otherwise a direction between the sources would hold what one of them shows more often.

    Args:
        embeddings: the calibration split.
        seed: of the choice within a class.

    Returns:
        [n] rows in ascending order; all of them where the sources share no target at all.
    """
    target, generated = embeddings.image_target, embeddings.generated
    shared = np.intersect1d(target[~generated], target[generated])
    shared = shared[shared >= 0]
    if len(shared) == 0:
        return np.arange(len(target), dtype=np.int64)
    if embeddings.relevance == "pair":
        return np.flatnonzero(np.isin(target, shared)).astype(np.int64)
    chosen = []
    draw = uniform(seed, _BALANCE, np.arange(len(target)))
    for class_id in shared:
        sides = [np.flatnonzero((target == class_id) & (generated == side)) for side in (False, True)]
        count = min(map(len, sides))
        chosen += [rows[np.argsort(draw[rows], kind="stable")[:count]] for rows in sides]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
