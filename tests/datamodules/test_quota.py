from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.quota import Quota

SHARE = st.integers(0, 1000).map(lambda n: n / 1000)


@given(SHARE, st.integers(0, 10**12), st.integers(1, 512))
def test_any_run_of_slots_holds_the_floor_or_the_ceiling_of_its_due(share: float, start: int, length: int) -> None:
    counts = Quota.of([1 - share, share]).between(start, start + length)
    due = Fraction(round(share * 1000), 1000) * length
    assert counts.sum() == length
    assert due.__floor__() <= counts[1] <= due.__ceil__()


@given(st.integers(1, 6), SHARE, st.integers(0, 10**9))
def test_running_totals_stray_by_at_most_one(generators: int, share: float, slots: int) -> None:
    shares = [1 - share, *([share / generators] * generators)]
    counts = Quota.of(shares).cumulative(slots)
    assert counts.sum() == slots
    for due, count in zip(shares, counts, strict=True):
        # Shares are held to a millionth.
        assert abs(count - Fraction(due) * slots) <= 1 + slots * 2e-6


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any), st.integers(0, 10**6))
def test_totals_never_fall(weights: list[int], slots: int) -> None:
    quota = Quota.of([w / sum(weights) for w in weights])
    steps = np.diff(quota.cumulative(slots + np.arange(200)), axis=0)
    assert np.all(steps >= 0)
    assert np.all(steps.sum(axis=1) == 1)


@pytest.mark.parametrize("shares", [[0.5, 0.6], [1.2, -0.2], [0.2]])
def test_impossible_shares_are_refused(shares: list[float]) -> None:
    with pytest.raises(DataError, match="shares must"):
        Quota.of(shares)
