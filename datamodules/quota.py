"""Exact shares: how many slots of each block every source is given, in integers.

Every block of ``size`` slots holds the floor or the ceiling of each source's due (its largest-remainder quota, the
remainders rotating from block to block), and no running total ever strays from its due by a whole sample, however long
the run. For two sources that is rounding: after n slots the second has had round(n * share). For more it is the
proportionate-fair scheduling problem: in every block some sources, as many as are left over, get one slot more, and a
source's k-th extra slot must fall within a window of blocks. The PD2 rule (Anderson and Srinivasan, "Mixed Pfair/ERfair
scheduling of asynchronous periodic tasks", 2004) always finds such a schedule; it repeats, so one period is a table.

Several blocks of two sources hold the floor or the ceiling of their due together, too. Of more sources they need not,
since two running totals may stray to opposite sides: there a quota is made for whole batches, and `divide` deals each
out to its blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.hashing import mix

# Shares that are no short fractions are held to whole parts of this many, so that counts are exact at any slot (floats
# lose slots after 2**53): a millionth for two sources, and for more a ten-thousandth, which bounds the table.
_FINE, _COARSE = 10**6, 10**4

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Quota:
    """Shares of several sources over blocks of slots.

    Attributes:
        parts: share of each source, as whole parts of their sum; the first is that of photos.
        size: slots in a block.
    """

    parts: tuple[int, ...]
    size: int = 1

    @classmethod
    def of(cls, shares: Sequence[float], size: int = 1) -> Quota:
        """Make a quota from shares.

        Args:
            shares: [J] floats in [0, 1] that sum to 1 (within 1e-6).
            size: slots in a block.

        Raises:
            DataError: if a share lies outside [0, 1] or they do not sum to 1.
        """
        if any(not 0.0 <= share <= 1.0 for share in shares):
            raise DataError(f"shares must lie in [0, 1], got {list(shares)}")
        if abs(sum(shares) - 1.0) > 1e-6:
            raise DataError(f"shares must sum to 1, got {list(shares)}, which sum to {sum(shares):g}")
        fractions = [Fraction(share).limit_denominator(_COARSE) for share in shares]
        whole = math.lcm(*(fraction.denominator for fraction in fractions))
        close = all(abs(float(fraction) - share) < 1e-9 for fraction, share in zip(fractions, shares, strict=True))
        if close and whole <= _COARSE and sum(fractions) == 1:
            return cls(tuple(int(fraction * whole) for fraction in fractions), size)
        whole = _FINE if sum(share > 0 for share in shares) <= 2 else _COARSE
        edges = [0, *(round(edge * whole) for edge in np.cumsum(shares)[:-1].tolist()), whole]
        return cls(tuple(high - low for low, high in pairwise(edges)), size)

    @property
    def sources(self) -> int:
        """How many sources have a share."""
        return sum(part > 0 for part in self.parts)

    def cumulative(self, blocks: int | Ints) -> Ints:
        """Count what each source has been given after a number of blocks.

        Args:
            blocks: [...] int64, blocks so far.

        Returns:
            [..., J] int64 totals by source; they sum to ``blocks * size``.
        """
        done = np.asarray(blocks, dtype=np.int64)[..., None]
        base, rest, whole = self._base, self._rest, sum(self.parts)
        used = np.flatnonzero(rest)
        extra = np.zeros((*done.shape[:-1], len(self.parts)), dtype=np.int64)
        if len(used) == 2:
            extra[..., used[1]] = (done[..., 0] * rest[used[1]] + whole // 2) // whole
            extra[..., used[0]] = done[..., 0] - extra[..., used[1]]
        elif len(used):
            period = len(self._table) - 1
            extra = done // period * self._table[-1] + self._table[done[..., 0] % period]
        return done * base + extra

    def between(self, start: int, stop: int) -> Ints:
        """Count what each source is given in blocks ``start`` to ``stop`` (exclusive): [J] int64."""
        return self.cumulative(stop) - self.cumulative(start)

    @property
    def _base(self) -> Ints:
        """What every block gives each source for certain."""
        return np.array(self.parts, dtype=np.int64) * self.size // sum(self.parts)

    @property
    def _rest(self) -> Ints:
        """What is left of each source's due in a block, in parts of a slot."""
        return np.array(self.parts, dtype=np.int64) * self.size % sum(self.parts)

    @cached_property
    def _table(self) -> Ints:
        """Extra slots of each source before each block of one period: [period + 1, J]."""
        whole, rest = sum(self.parts), self._rest.tolist()
        period = whole // math.gcd(whole, *rest)
        extras = sum(rest) // whole
        taken = [0] * len(rest)
        table = np.zeros((period + 1, len(rest)), dtype=np.int64)
        for block in range(period):
            ready = []
            for source, part in enumerate(rest):
                if part and taken[source] * whole // part <= block:
                    ready.append((*_urgency(taken[source] + 1, part, whole), source))
            for *_, source in sorted(ready)[:extras]:
                taken[source] += 1
            table[block + 1] = taken
        return table


def divide(counts: Ints, blocks: int, *key: int) -> Ints:
    """Deal a batch's counts out to its blocks.

    Halves hold the floor or the ceiling of half of every count, quarters of a quarter, and so on down to the blocks, so
    that the batches of 1, 2, 4, ... devices all hold their quotas. (Where ``blocks`` is no power of two it is split by
    its smallest prime factors first.) What is left over in a split goes to sources drawn from ``key``: no device is
    bound to one source.

    Args:
        counts: [J] int64 of each source; their sum is a multiple of ``blocks``.
        blocks: equal parts.
        key: of the draws.

    Returns:
        [blocks, J] int64; rows have equal sums, columns sum to ``counts``.

    Example:
        >>> divide(np.array([5, 1, 2]), 2).sum(axis=0)
        array([5, 1, 2])
    """
    if blocks == 1:
        return counts[None]
    parts = next(factor for factor in range(2, blocks + 1) if blocks % factor == 0)
    size = int(counts.sum()) // parts
    dealt = []
    for part in range(parts - 1):
        own, rest = counts // (parts - part), counts % (parts - part)
        # The largest remainders first, and among equals (all of them, in halves) a fresh order each time.
        order = np.lexsort((mix(*key, blocks, part, np.arange(len(counts))), -rest))
        own[order[: size - int(own.sum())]] += 1
        dealt.append(own)
        counts = counts - own
    dealt.append(counts)
    return np.concatenate([divide(own, blocks // parts, *key, number) for number, own in enumerate(dealt)])


def _urgency(number: int, part: int, whole: int) -> tuple[int, int, int]:
    """PD2's priority of a source's next extra slot; the smallest goes first.

    Its deadline; then whether its window overlaps the next one's; then how long a chain of windows hangs on it, which
    matters only for sources that are due in at least every other block.
    """
    deadline = _ceiling(number * whole, part)
    overlaps = number * whole % part != 0
    chain = 0
    if 2 * part >= whole:
        idle = whole - part
        chain = _ceiling(_ceiling(deadline * idle, whole) * whole, idle)
    return deadline, -int(overlaps), -chain


def _ceiling(number: int, divisor: int) -> int:
    return -(-number // divisor)
