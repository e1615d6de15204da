"""What is set against what: a photo and its twins, a class's pictures of either source, or all pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bias_train.embeddings import Embeddings
from bias_train.stats import Floats, Ints

Kind = Literal["pair", "class", "whole"]

TOLD: dict[Kind, str] = {
    "pair": "displacement of each photo's twin (the mean of its twins, where there are several) from the photo",
    "class": "difference of the mean generated and the mean real picture of each class: the set has no pairs, so what "
    "the sources show within a class is part of it",
    "whole": "difference of the mean generated and the mean real picture: the set has neither pairs nor classes, so "
    "what the sources show is part of it",
}


@dataclass(frozen=True)
class Units:
    """Pictures grouped into units that hold both sources.

    Attributes:
        kind: what a unit is.
        image: [M, D] float64 pictures, those of one unit in a row.
        unit: [M] int64 number of each picture's unit, ascending from 0.
        code: [M] int64 source, 0 real.
        target: [U] int64 target of each unit.
        row: [M] int64 row of each picture in the embeddings.
    """

    kind: Kind
    image: Floats
    unit: Ints
    code: Ints
    target: Ints
    row: Ints

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.target)


def kind_of(embeddings: Embeddings) -> Kind:
    """What the pictures of a set can be grouped by."""
    known = embeddings.image_target >= 0
    real = np.unique(embeddings.image_target[known & ~embeddings.generated])
    made = np.unique(embeddings.image_target[known & embeddings.generated])
    if len(np.intersect1d(real, made)) == 0:
        return "whole"
    return "class" if embeddings.relevance == "label" else "pair"


def units_of(embeddings: Embeddings, generators: tuple[int, ...] = ()) -> Units:
    """Group the pictures.

    Args:
        embeddings: the set.
        generators: source codes; units must hold a picture by each of them, and others are left out. Without any, a
            unit needs one generated picture, and all count.

    Returns:
        The units, in ascending order of their targets; none where nothing fits.
    """
    kind = kind_of(embeddings)
    source = embeddings.image_source
    chosen = (source == 0) | (np.isin(source, generators) if generators else source > 0)
    target = embeddings.image_target if kind != "whole" else np.zeros(len(embeddings), dtype=np.int64)
    chosen &= target >= 0
    wanted: list[NDArray[np.bool_]] = [source == 0]
    wanted += [source == code for code in generators] or [source > 0]
    held = np.unique(target[chosen])
    for needed in wanted:
        held = np.intersect1d(held, target[chosen & needed])
    rows = np.flatnonzero(chosen & np.isin(target, held))
    rows = rows[np.lexsort((rows, source[rows], target[rows]))]
    unit = np.searchsorted(held, target[rows]).astype(np.int64)
    image = embeddings.image.numpy()[rows].astype(np.float64)
    return Units(kind, image, unit, source[rows], held, rows.astype(np.int64))


def difference_weights(unit: Ints, generated: NDArray[np.bool_]) -> Floats:
    """Weights whose sum over a unit's pictures is its mean generated minus its mean real picture.

    Args:
        unit: [M] numbers from 0.
        generated: [..., M] whether a picture is; every unit holds both.

    Returns:
        [..., M] float64.

    >>> difference_weights(np.array([0, 0, 0]), np.array([False, True, True]))
    array([-1. ,  0.5,  0.5])
    """
    units = int(unit.max(initial=-1)) + 1
    size = np.bincount(unit, minlength=units)
    flat = generated.reshape(-1, len(unit))
    offset = np.arange(len(flat))[:, None] * units
    made = np.bincount((unit + offset)[flat], minlength=len(flat) * units).reshape(len(flat), units)
    share = np.where(flat, 1.0 / np.maximum(made, 1)[:, unit], -1.0 / np.maximum(size - made, 1)[:, unit])
    return share.reshape(generated.shape)


def differences(units: Units) -> Floats:
    """[U, D] each unit's mean generated minus its mean real picture."""
    weights = difference_weights(units.unit, units.code > 0)
    total = np.zeros((len(units), units.image.shape[1]))
    np.add.at(total, units.unit, weights[:, None] * units.image)
    return total
