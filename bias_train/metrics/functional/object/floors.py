"""What a retriever that returns random items would score, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bias_train.stats import Floats


def random_average_precision(relevant: NDArray[Any], items: int, k: int) -> Floats:
    """Expected AP@k of a gallery in random order.

    At position r stands a relevant item with chance R/N, and then 1 + (r - 1)(R - 1)/(N - 1) relevant ones are expected
    up to it. With h_k = 1 + 1/2 + ... + 1/k this gives

        E[AP@k] = R/N * (h_k (1 - rho) + k rho) / min(k, R),   rho = (R - 1)/(N - 1),

    which holds for any R, also below k. For a large gallery of which the share pi is relevant it becomes
    pi^2 + pi (1 - pi) h_k / k. Own derivation.

    Args:
        relevant: [...] R, relevant items of each query.
        items: N, items in the gallery.
        k: cut-off; beyond N it is capped.

    Returns:
        [...] float64, NaN where nothing is relevant.

    Example: of three items one is relevant; it stands first, second or third alike, and counts 1, 1/2 or nothing.

    >>> float(random_average_precision(np.array(1), items=3, k=2))
    0.5
    """
    depth = min(k, items)
    count = np.asarray(relevant, dtype=np.float64)
    harmonic = float((1.0 / np.arange(1, depth + 1)).sum())
    rho = (count - 1.0) / max(items - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = count / items * (harmonic * (1.0 - rho) + depth * rho) / np.minimum(depth, count)
    return np.where(count > 0, expected, np.nan)
