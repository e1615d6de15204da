"""A random part of the pairs of a step, the same on every rank and for every number of ranks.

The draw is a hash of (seed, step, global row), not a generator's stream: no state to save or restore, nothing to
broadcast, and the same on any device.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Draw = Literal["bernoulli", "fixed"]
DRAWS: tuple[Draw, ...] = ("bernoulli", "fixed")


def draw_pairs(paired: Tensor, p: float, draw: Draw, *, seed: int, step: int) -> Tensor:
    """Choose a random part of the pairs.

    Args:
        paired: [N] bool over the global batch, which rows hold a pair.
        p: the share to choose, in [0, 1].
        draw: ``"bernoulli"`` chooses each pair with probability ``p``, independently; ``"fixed"`` chooses exactly
            ``floor(p * pairs)`` pairs, all subsets of that size alike (so none while ``p * pairs < 1``).
        seed: the run's seed.
        step: the optimiser step.

    Returns:
        [N] bool, a subset of ``paired``.
    """
    uniform = uniform_rows(paired.shape[0], seed=seed, step=step, device=paired.device)
    if draw == "bernoulli":
        return paired & (uniform < p)
    # 0.29 * 100 is 28.999999999999996 in binary; the small addition keeps the floor that the decimal number has.
    count = torch.floor(paired.sum().double() * p + 1e-9)
    place = torch.argsort(torch.argsort(torch.where(paired, uniform, 2.0), stable=True), stable=True)
    return paired & (place < count)


def uniform_rows(rows: int, *, seed: int, step: int, device: torch.device | None = None) -> Tensor:
    """One number of [0, 1) per global row, a pure function of (seed, step, row).

    Returns:
        [rows] float64 with 53 random bits.
    """
    key = _mix(torch.tensor(_wrap(seed), dtype=torch.int64))
    key = _mix(key ^ torch.tensor(_wrap(step), dtype=torch.int64))
    # The key is hashed on the CPU and moved as a number: two roundtrips less on an accelerator.
    row = torch.arange(rows, dtype=torch.int64, device=device)
    bits = _mix(_mix(row) ^ int(key))
    return _shift_right(bits, 11).double() * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    """The SplitMix64 step (Steele, Lea and Flood 2014) on int64, whose products wrap as unsigned ones do."""
    x = x + _wrap(0x9E3779B97F4A7C15)
    x = (x ^ _shift_right(x, 30)) * _wrap(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _wrap(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift in zeros; int64's own shift repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _wrap(value: int) -> int:
    """The int64 with the same 64 low bits."""
    return (value + 2**63) % 2**64 - 2**63
