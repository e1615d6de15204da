"""Multi-group proportional representation (MPR): how far a result list lies from a reference set, over many functions.

MPR = sup over a class of functions c of |mean of c over the k retrieved - mean of c over the m of the reference|
(Oesterling et al. 2024, "Multi-group proportional representation in retrieval"). Two classes are here:

- *linear*: c(x) = w.x of attribute vectors x, with sum of c(x)^2 over all k + m equal to mk / (m + k), as in the
  authors' code, which regresses a/k - b/m on x. The supremum then has a closed form: with v the difference of the two
  mean vectors and S the sum of x x^T over all k + m, it is sqrt(mk/(m + k) v^T S^+ v), between 0 and 1. Columns of
  attributes weigh each attribute by itself; columns of crossed groups (one for each combination) see their
  intersections, too.
- *indicators* of the groups: the largest difference of a group's share.
"""

from __future__ import annotations

import numpy as np

from bias_train.stats import Floats


def mpr_linear(retrieved: Floats, reference: Floats) -> float:
    """MPR over linear functions of attribute vectors.

    Args:
        retrieved: [k, A] attributes of the retrieved items, such as 0 and 1.
        reference: [m, A] attributes of the reference set.

    Returns:
        In [0, 1].

    Raises:
        ValueError: without items on either side, or for other attributes.

    >>> balanced = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> mpr_linear(np.array([[1.0, 0.0], [1.0, 0.0]]), balanced), mpr_linear(balanced, balanced)
    (0.5773502691896257, 0.0)
    """
    if retrieved.ndim != 2 or reference.ndim != 2 or retrieved.shape[1] != reference.shape[1]:
        raise ValueError(f"attributes must be [k, A] and [m, A], not {retrieved.shape} and {reference.shape}")
    k, m = len(retrieved), len(reference)
    if not k or not m:
        raise ValueError(f"MPR compares {k} retrieved items with {m} of the reference: it needs some of both")
    gap = retrieved.mean(axis=0) - reference.mean(axis=0)
    spread = retrieved.T @ retrieved + reference.T @ reference
    square = float(gap @ np.linalg.pinv(spread, hermitian=True) @ gap)
    return float(np.sqrt(max(m * k / (m + k) * square, 0.0)))


def mpr_of_counts(counts: Floats, reference: Floats) -> Floats:
    """`mpr_linear` where an item's attributes are one column for each group, from counts.

    Args:
        counts: [..., G] retrieved items of each group, at least one in all.
        reference: [G] items of each group in the reference set; need not be whole numbers.

    Returns:
        [...] float64.
    """
    k, m = counts.sum(axis=-1), float(reference.sum())
    gap = counts / k[..., None] - reference / m
    square = (gap**2 / np.maximum(counts + reference, np.finfo(np.float64).tiny)).sum(axis=-1)
    return np.asarray(np.sqrt(m * k / (m + k) * square))


def mpr_indicators(counts: Floats, reference: Floats) -> Floats:
    """MPR over the groups' indicators: the largest difference of a group's share, [...]; arguments as above.

    >>> float(mpr_indicators(np.array([8.0, 2.0]), np.array([50.0, 50.0])))
    0.30000000000000004
    """
    shares = counts / counts.sum(axis=-1, keepdims=True)
    return np.asarray(np.abs(shares - reference / reference.sum()).max(axis=-1))
