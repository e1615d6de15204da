"""Whether generated pictures lie apart from photos in one common direction.

Statistics and sign-flip test follow the code of arXiv 2604.06163 (text retrieval) as `source_bias` figures elsewhere
follow theirs; their use on classes instead of pairs is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bias_train.stats import Floats

# Signs drawn at once, times units: bounds the memory of a block to tens of megabytes.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Consistency:
    """How alike the displacements of n units are.

    Attributes:
        units: n, without dropped ones.
        dropped: displacements of norm zero (a twin embedded like its photo), which have no direction.
        norm: of the mean displacement.
        mean_norm: mean of the displacements' norms, for comparison.
        mean_cosine: mean cosine of the displacements to their mean; biased upwards for few units.
        pairwise_cosine: mean cosine between two displacements.
        null_cosine: mean of ``mean_cosine`` under random signs: what no common direction looks like.
        null_high: 95 % quantile of the same.
        p_norm: share of sign flips that reach ``norm``, (1 + #) / (B + 1).
        p_mean_cosine: the same of ``mean_cosine``.
        p_pairwise_cosine: the same of ``pairwise_cosine``.
        resamples: B.
    """

    units: int
    dropped: int
    norm: float
    mean_norm: float
    mean_cosine: float
    pairwise_cosine: float
    null_cosine: float
    null_high: float
    p_norm: float
    p_mean_cosine: float
    p_pairwise_cosine: float
    resamples: int


def pairwise_cosine(unit_vectors: Floats, signs: Floats | None = None) -> Floats:
    """Mean cosine over all pairs, by the closed form ``(|sum e|^2 - n) / (n (n - 1))``.

    Args:
        unit_vectors: [n, D] of norm 1, n at least 2.
        signs: [..., n] to multiply them with; None for all one.

    Returns:
        [...] one value for each row of signs.

    >>> float(pairwise_cosine(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])))
    0.3333333333333333
    """
    n = len(unit_vectors)
    total = unit_vectors.sum(axis=0) if signs is None else signs @ unit_vectors
    return np.asarray(((total**2).sum(axis=-1) - n) / (n * (n - 1)))


def consistency(displacement: Floats, *, resamples: int = 1000, seed: int = 0) -> Consistency | None:
    """Measure a common direction against random signs.

    Under the null hypothesis a displacement is as likely as its opposite, so each is multiplied by a random sign, the
    mean direction and the statistics are computed anew, and p = (1 + #{null >= observed}) / (B + 1).

    Args:
        displacement: [n, D] float64, one a unit; units must be independent (one a photo, not one a twin).
        resamples: B.
        seed: of the signs.

    Returns:
        None with fewer than two displacements that are not zero.
    """
    length = np.linalg.norm(displacement, axis=1)
    kept = displacement[length > 0]
    n, length = len(kept), length[length > 0]
    if n < 2:
        return None
    direction = kept / length[:, None]
    observed = _statistics(kept, direction, np.ones((1, n)))[0]
    rng = np.random.default_rng(seed)
    null = np.empty((resamples, 3))
    block = max(1, _BLOCK // n)
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        signs = np.where(rng.random((rows, n)) < 0.5, -1.0, 1.0)
        null[first : first + rows] = _statistics(kept, direction, signs)
    # Sums in another order differ in the last bits, and all signs alike are a draw that must count as reaching.
    p = (1 + (null >= observed - 1e-12).sum(axis=0)) / (resamples + 1)
    return Consistency(
        units=n,
        dropped=len(displacement) - n,
        norm=float(observed[0]),
        mean_norm=float(length.mean()),
        mean_cosine=float(observed[1]),
        pairwise_cosine=float(observed[2]),
        null_cosine=float(null[:, 1].mean()),
        null_high=float(np.quantile(null[:, 1], 0.95)),
        p_norm=float(p[0]),
        p_mean_cosine=float(p[1]),
        p_pairwise_cosine=float(p[2]),
        resamples=resamples,
    )


def _statistics(displacement: Floats, direction: Floats, signs: Floats) -> Floats:
    """[B, 3] norm of the mean, mean cosine to the mean, mean pairwise cosine, for each row of signs [B, n]."""
    n = len(displacement)
    mean = signs @ displacement / n
    norm = np.linalg.norm(mean, axis=1)
    total = signs @ direction
    # A mean of exactly zero has no direction; its cosine to anything is taken as 0.
    cosine = np.divide((total * mean).sum(axis=1), n * norm, out=np.zeros_like(norm), where=norm > 0)
    pairwise = ((total**2).sum(axis=1) - n) / (n * (n - 1))
    return np.stack([norm, cosine, pairwise], axis=1)
