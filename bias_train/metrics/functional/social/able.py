"""ABLE: accuracy and balance in one number."""

from __future__ import annotations

import math


def able(accuracy: float, max_skew: float) -> float:
    """Harmonic mean of accuracy and exp(-MaxSkew).

    From "Joint vision-language social bias removal for CLIP" (CVPR 2025), where accuracy is ImageNet's top-1 and
    MaxSkew is taken at 1,000. One number hides which of the two moved: never report it alone.

    Args:
        accuracy: in [0, 1].
        max_skew: not negative.

    Raises:
        ValueError: outside of these.

    >>> round(able(0.6831, 0.218), 4)
    0.7387
    """
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"accuracy is {accuracy}; ABLE takes a share between 0 and 1, not percent")
    if not max_skew >= 0.0 or math.isinf(max_skew):
        raise ValueError(f"max_skew is {max_skew}; MaxSkew is finite and not negative")
    balance = math.exp(-max_skew)
    return 2.0 * accuracy * balance / (accuracy + balance)
