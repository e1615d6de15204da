"""Whether the generators' pictures are displaced in the same direction.

The cosine between two generators' mean displacements is compared with what exchangeable sources would give. That is
not zero: both displacements start from the same photos, whose chance offset they share, so that the cosine tends to
1/2 without any bias. The null therefore permutes the sources within each unit, which keeps the shared photo. (Ours; the
cosine itself is reported by arXiv 2604.06163.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bias_train.embeddings import Embeddings
from bias_train.explain.units import Units, difference_weights, units_of
from bias_train.stats import Floats, Ints

_BLOCK = 1 << 21


@dataclass(frozen=True)
class CrossCosine:
    """Two generators' directions.

    Attributes:
        first: a generator.
        second: another one.
        units: photos (or classes) that both have pictures of.
        cosine: between their mean displacements.
        null_mean: mean of the cosine under permuted sources.
        null_low: 2.5 % quantile of the same.
        null_high: 97.5 % quantile of the same.
        p: share of permutations that reach the cosine, (1 + #) / (B + 1).
    """

    first: str
    second: str
    units: int
    cosine: float
    null_mean: float
    null_low: float
    null_high: float
    p: float


def cross_cosines(embeddings: Embeddings, *, resamples: int = 1000, seed: int = 0) -> list[CrossCosine]:
    """Compare every two generators' directions; empty with fewer than two."""
    codes = [int(code) for code in np.unique(embeddings.image_source) if code > 0]
    found = []
    for place, first in enumerate(codes):
        for second in codes[place + 1 :]:
            units = units_of(embeddings, (first, second))
            if len(units):
                names = embeddings.sources[first], embeddings.sources[second]
                found.append(_compare(units, first, second, names, resamples, seed))
    return found


def _compare(units: Units, first: int, second: int, names: tuple[str, str], resamples: int, seed: int) -> CrossCosine:
    observed = float(_cosines(units, units.code[None, :], first, second)[0])
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(units.unit))
    null = np.concatenate(
        [
            _cosines(units, permuted_within(units.code, units.unit, min(block, resamples - done), rng), first, second)
            for done in range(0, resamples, block)
        ]
    )
    low, high = np.quantile(null, (0.025, 0.975))
    p = float((1 + (null >= observed - 1e-12).sum()) / (resamples + 1))
    return CrossCosine(*names, len(units), observed, float(null.mean()), float(low), float(high), p)


def permuted_within(code: Ints, unit: Ints, draws: int, rng: np.random.Generator) -> Ints:
    """Permute labels within units.

    Args:
        code: [M] labels.
        unit: [M] ascending unit numbers.
        draws: how many permutations.
        rng: draws them.

    Returns:
        [draws, M] int64.
    """
    # A random number below 1 added to the unit's orders each unit's pictures at random and leaves units in place.
    return code[np.argsort(unit + rng.random((draws, len(unit))), axis=1, kind="stable")]


def _cosines(units: Units, code: Ints, first: int, second: int) -> Floats:
    """[B] cosine between two generators' mean differences, for each row of labels [B, M]."""
    means = []
    for generator in (first, second):
        # Pictures of the other generator take no part; their weight is zero.
        part = (code == 0) | (code == generator)
        weights = np.zeros(code.shape)
        for row in range(len(code)):
            weights[row, part[row]] = difference_weights(units.unit[part[row]], code[row, part[row]] == generator)
        means.append(weights @ units.image)
    a, b = means
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(axis=1), size, out=np.zeros(len(size)), where=size > 0)
