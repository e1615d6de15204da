from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.quota import Quota, divide

SHARE = st.integers(0, 1000).map(lambda n: n / 1000)


@given(SHARE, st.integers(0, 10**12), st.integers(1, 512))
def test_any_run_of_slots_of_two_sources_holds_its_due(share: float, start: int, length: int) -> None:
    counts = Quota.of([1 - share, share]).between(start, start + length)
    due = Fraction(round(share * 1000), 1000) * length
    assert counts.sum() == length
    assert due.__floor__() <= counts[1] <= due.__ceil__()


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=12).filter(any), st.integers(1, 64), st.integers(0, 10**9))
def test_every_block_holds_its_quota_and_no_total_strays_by_a_sample(weights: list[int], size: int, start: int) -> None:
    quota = Quota.of([w / sum(weights) for w in weights], size)
    shares = [Fraction(w, sum(weights)) for w in weights]
    blocks = np.concatenate([np.arange(150), start + np.arange(150)])
    totals = quota.cumulative(blocks)
    np.testing.assert_array_equal(totals.sum(axis=1), blocks * size)
    for j, share in enumerate(shares):
        for block, total in zip(blocks.tolist(), totals[:, j].tolist(), strict=True):
            assert abs(total - share * size * block) < 1
        counts = np.concatenate([np.diff(totals[:150, j]), np.diff(totals[150:, j])])
        assert set(counts.tolist()) <= {(share * size).__floor__(), (share * size).__ceil__()}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9), st.sampled_from([1, 2, 4, 8, 6, 9, 15]), st.integers(0, 9))
def test_a_batch_is_dealt_out_evenly_at_every_level(counts: list[int], blocks: int, key: int) -> None:
    counts[0] += -sum(counts) % blocks
    dealt = divide(np.array(counts), blocks, key)
    np.testing.assert_array_equal(dealt.sum(axis=0), counts)
    assert set(dealt.sum(axis=1).tolist()) == {sum(counts) // blocks}
    parts, rest = 1, blocks
    while rest > 1:  # the levels: split by the smallest prime factors first
        factor = next(f for f in range(2, rest + 1) if rest % f == 0)
        parts, rest = parts * factor, rest // factor
        held = dealt.reshape(parts, rest, -1).sum(axis=1)
        due = np.array(counts) / parts
        assert np.all((held == np.floor(due)) | (held == np.ceil(due)))


def test_what_is_left_over_goes_to_every_block_in_turn() -> None:
    dealt = sum(divide(np.array([6, 1, 1]), 8, step) for step in range(4000))
    np.testing.assert_allclose(dealt[:, 1:], 500, rtol=0.15)


@given(st.lists(st.floats(0.001, 1), min_size=3, max_size=8), st.integers(1, 300))
@settings(deadline=None, max_examples=30)
def test_odd_shares_are_rounded_and_then_exact(weights: list[float], size: int) -> None:
    shares = [w / sum(weights) for w in weights]
    quota = Quota.of(shares, size)
    whole = sum(quota.parts)
    assert whole <= 10_000
    for part, share in zip(quota.parts, shares, strict=True):
        assert abs(part / whole - share) <= 1 / 10_000
    totals = quota.cumulative(np.arange(400))
    due = np.arange(400)[:, None] * size * np.array(quota.parts) / whole
    assert np.all(np.abs(totals - due) < 1 + 1e-6)
    assert np.all(np.diff(totals, axis=0) >= 0)


@pytest.mark.parametrize("shares", [[0.5, 0.6], [1.2, -0.2], [0.2]])
def test_impossible_shares_are_refused(shares: list[float]) -> None:
    with pytest.raises(DataError, match="shares must"):
        Quota.of(shares)
