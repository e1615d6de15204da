"""Exact shares by cumulative rounding, in integers.

After n slots, ``round(n * r)`` of them belong to generated pictures, the rest to photos. Hence any run of consecutive
slots holds the floor or the ceiling of its due, and the running total never strays from ``n * r`` by more than half a
sample, however long the run. Several generators share out the generated slots in the same way, by halves: their
running totals stray by at most one sample for two generators, and for more where their shares are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError

# Shares are held as whole parts of this many, so that counts are exact at any slot (floats lose slots after 2**53).
_PARTS = 10**6

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Quota:
    """Shares of several sources, as whole parts of a million; the first is that of photos."""

    parts: tuple[int, ...]

    @classmethod
    def of(cls, shares: Sequence[float]) -> Quota:
        """Make a quota from shares.

        Args:
            shares: [J] floats in [0, 1] that sum to 1 (within 1e-6).

        Raises:
            DataError: if a share lies outside [0, 1] or they do not sum to 1.
        """
        if any(not 0.0 <= share <= 1.0 for share in shares):
            raise DataError(f"shares must lie in [0, 1], got {list(shares)}")
        if abs(sum(shares) - 1.0) > 1e-6:
            raise DataError(f"shares must sum to 1, got {list(shares)}, which sum to {sum(shares):g}")
        edges = [0, *(round(edge * _PARTS) for edge in np.cumsum(shares)[:-1].tolist()), _PARTS]
        return cls(tuple(high - low for low, high in pairwise(edges)))

    def cumulative(self, slots: int | Ints) -> Ints:
        """Count what each source has been given after a number of slots.

        Args:
            slots: [...] int64, slots so far.

        Returns:
            [..., J] int64 totals by source, each growing with ``slots``; they sum to ``slots``.
        """
        total = np.asarray(slots, dtype=np.int64)
        if len(self.parts) == 1:
            return total[..., None]
        made = _rounded(total, sum(self.parts[1:]), sum(self.parts))
        return np.concatenate([(total - made)[..., None], _halves(made, self.parts[1:])], axis=-1)

    def between(self, start: int, stop: int) -> Ints:
        """Count what each source is given in slots ``start`` to ``stop`` (exclusive): [J] int64."""
        return self.cumulative(stop) - self.cumulative(start)


def _rounded(total: Ints, part: int, whole: int) -> Ints:
    return (total * part + whole // 2) // whole if whole else np.zeros_like(total)


def _halves(total: Ints, parts: tuple[int, ...]) -> Ints:
    """Share out a running total by repeated halving, so that few roundings add up: [..., len(parts)]."""
    if len(parts) == 1:
        return total[..., None]
    middle = len(parts) // 2
    right = _rounded(total, sum(parts[middle:]), sum(parts))
    return np.concatenate([_halves(total - right, parts[:middle]), _halves(right, parts[middle:])], axis=-1)
