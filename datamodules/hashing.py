"""Draws and ids that are pure functions of their arguments: equal in every process, on every machine, in every year."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _scramble(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's step: a bijection of 64 bits in which every bit of the input moves half of the output."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def mix(*parts: Any) -> npt.NDArray[np.uint64]:
    """Hash integers, element by element.

    Chained SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).

    Args:
        parts: integers or integer arrays that broadcast against each other; their order matters.

    Returns:
        uint64 of the broadcast shape.

    >>> int(mix(1, 2)) == int(mix(1, 2)) != int(mix(2, 1))
    True
    >>> mix(7, np.arange(3)).shape
    (3,)
    """
    hashed = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            # Through int64, so that -1 and other negative ids wrap instead of being refused.
            array = np.asarray(part)
            bits = array if array.dtype == np.uint64 else array.astype(np.int64).astype(np.uint64)
            hashed = _scramble(np.asarray(hashed ^ bits, dtype=np.uint64))
    return hashed


def uniform(*parts: Any) -> npt.NDArray[np.float64]:
    """Draw uniform float64 in [0, 1) with 53 random bits for each element of :func:`mix`."""
    return np.asarray((mix(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def generator(*parts: Any) -> np.random.Generator:
    """Make a random generator that belongs to these integers."""
    return np.random.Generator(np.random.PCG64(int(mix(*parts))))


def string_id(text: str) -> int:
    """Give a string a signed 64-bit id: the first eight bytes of its BLAKE2b digest.

    >>> string_id("cat-1") == string_id("cat-1") != string_id("cat-2")
    True
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
