"""Exact shares by cumulative rounding, in integers.

Source j owns the running slots between two boundaries; the boundary after n slots is ``round(n * (r_0 + … + r_j))``.
Hence the running total of a source never strays from ``n * r_j`` by more than one sample, however long the run, and
with two sources (photos and generated pictures) any run of consecutive slots holds the floor or the ceiling of its
due. With more sources, one between two boundaries can be a single sample further off in one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError

# Shares are held as whole parts of this many, so that boundaries are exact at any slot (floats lose slots after 2**53).
_PARTS = 10**6


@dataclass(frozen=True)
class Quota:
    """Cumulative boundaries of a vector of shares that sum to 1."""

    boundaries: tuple[int, ...]

    @classmethod
    def of(cls, shares: Sequence[float]) -> Quota:
        """Make boundaries from shares.

        Args:
            shares: [J] floats in [0, 1] that sum to 1 (within 1e-6).

        Raises:
            DataError: if a share lies outside [0, 1] or they do not sum to 1.
        """
        if any(not 0.0 <= share <= 1.0 for share in shares):
            raise DataError(f"shares must lie in [0, 1], got {list(shares)}")
        if abs(sum(shares) - 1.0) > 1e-6:
            raise DataError(f"shares must sum to 1, got {list(shares)}, which sum to {sum(shares):g}")
        edges = np.round(np.cumsum(shares) * _PARTS).astype(int)
        return cls((*(int(edge) for edge in edges[:-1]), _PARTS))

    def cumulative(self, slots: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Count what each source has been given after a number of slots.

        Args:
            slots: [...] int64, slots so far.

        Returns:
            [..., J] int64 totals by source; they sum to ``slots``.
        """
        slots = np.asarray(slots, dtype=np.int64)[..., None]
        edges = np.asarray(self.boundaries, dtype=np.int64)
        upto = (slots * edges + _PARTS // 2) // _PARTS
        return np.diff(upto, axis=-1, prepend=0)

    def between(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Count what each source is given in slots ``start`` to ``stop`` (exclusive): [J] int64."""
        counts: npt.NDArray[np.int64] = self.cumulative(stop) - self.cumulative(start)
        return counts
