"""A linear probe for a source: how it is fitted, scored and cross-validated.

The probe is linear discriminant analysis with a shrunk covariance: ``w = S^-1 (m1 - m0)``, where ``m0`` and ``m1`` are
the means of the two sources and ``S = (1 - g) C + g t I`` with the covariance ``C`` of all training pictures, its mean
variance ``t``, and the shrinkage ``g`` of Ledoit and Wolf (2004, "A well-conditioned estimator for large-dimensional
covariance matrices"), which needs no tuning. ``C`` differs from the covariance within the sources by a multiple of
``(m1 - m0)(m1 - m0)^T``, which changes the length of ``w`` but not its direction (Sherman and Morrison). So ``S`` knows
no labels, and a permutation test may fit thousands of probes with one inverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bias_train.stats import Floats, Ints

Bools = NDArray[np.bool_]


def ledoit_wolf(centred: Floats) -> float:
    """Shrinkage towards a multiple of the identity.

    Args:
        centred: [n, D] rows less their means.

    Returns:
        g in [0, 1]; agrees with scikit-learn's ``ledoit_wolf_shrinkage``.
    """
    n, width = centred.shape
    covariance = centred.T @ centred / n
    mean_variance = float(np.trace(covariance)) / width
    square = float((covariance**2).sum())
    spread = square - width * mean_variance**2
    error = (float(((centred**2).sum(axis=1) ** 2).sum()) / n - square) / n
    return 0.0 if spread <= 0 else min(1.0, max(0.0, error / spread))


def whitening(image: Floats) -> Floats:
    """[D, D] inverse of the shrunk covariance of all pictures [n, D]."""
    width = image.shape[1]
    centred = image - image.mean(axis=0)
    covariance = centred.T @ centred / len(centred)
    variance = float(np.trace(covariance)) / width or 1.0
    # Never exactly singular: pictures that only lie in a plane have a covariance of that rank.
    shrinkage = max(ledoit_wolf(centred), 1e-6)
    return np.linalg.inv((1.0 - shrinkage) * covariance + shrinkage * variance * np.eye(width))


def mean_difference(image: Floats, generated: Bools) -> Floats:
    """[..., D] mean generated minus mean real picture, for labels [..., n] of which no row lacks a source."""
    made = generated.sum(axis=-1, keepdims=True)
    weight = np.where(generated, 1.0 / np.maximum(made, 1), -1.0 / np.maximum(generated.shape[-1] - made, 1))
    return weight @ image


def fit_probe(image: Floats, generated: Bools) -> Floats:
    """Fit the probe.

    Args:
        image: [n, D].
        generated: [n], both kinds among them.

    Returns:
        [D] direction; larger scores ``image @ w`` mean generated.
    """
    return whitening(image) @ mean_difference(image, generated)


def weighted_auc(score: Floats, generated: Bools, weight: Floats) -> Floats:
    """Area under the ROC curve with weighted pictures, ties as half.

    Args:
        score: [n].
        generated: [n].
        weight: [..., n] not negative.

    Returns:
        [..., 2] the weight of the pairs in the right order, and that of all pairs.

    >>> weighted_auc(np.array([0.1, 0.4, 0.3]), np.array([False, True, True]), np.array([1.0, 1.0, 2.0]))
    array([3., 3.])
    """
    order = np.argsort(score, kind="stable")
    made, ordered = generated[order], score[order]
    photos = np.where(made, 0.0, weight[..., order])
    others = np.where(made, weight[..., order], 0.0)
    below = np.concatenate([np.zeros((*photos.shape[:-1], 1)), photos.cumsum(axis=-1)], axis=-1)
    first = np.searchsorted(ordered, ordered, side="left")
    last = np.searchsorted(ordered, ordered, side="right")
    won = (others * 0.5 * (below[..., first] + below[..., last])).sum(axis=-1)
    return np.stack([won, photos.sum(axis=-1) * others.sum(axis=-1)], axis=-1)


def folds_of(group: Ints, generated: Bools, folds: int, seed: int) -> Ints:
    """Deal groups to folds so that both sources are spread evenly: [n] fold of each picture.

    Args:
        group: [n] pictures of one group stay together.
        generated: [n].
        folds: how many, at most.
        seed: of the order in which groups are dealt.
    """
    ids, dense = np.unique(group, return_inverse=True)
    counts = np.zeros((len(ids), 2))
    np.add.at(counts, (dense, generated.astype(np.int64)), 1)
    order = np.random.default_rng(seed).permutation(len(ids))
    # The largest groups first, each to the fold that then has the least of what the group holds.
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    filled, fold = np.zeros((folds, 2)), np.empty(len(ids), dtype=np.int64)
    for place in order:
        fold[place] = np.argmin(filled @ counts[place])
        filled[fold[place]] += counts[place]
    return fold[dense]
