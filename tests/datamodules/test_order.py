from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from datamodules.order import ShuffledOrder


def epoch_of(order: ShuffledOrder, epoch: int) -> np.ndarray:
    items, epochs = order.take(epoch * order.length + np.arange(order.length))
    assert np.all(epochs == epoch)
    return items


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(0, 5), st.integers(0, 3), st.integers(0, 10**7)
)
def test_every_epoch_meets_every_item_once_and_any_place_is_found_at_once(
    sizes: list[int], width: int, seed: int, far: int
) -> None:
    shard = np.repeat(np.arange(len(sizes)), sizes)
    order = ShuffledOrder(shard, width, seed)
    for epoch in (0, 1, far):
        np.testing.assert_array_equal(np.sort(epoch_of(order, epoch)), np.arange(len(shard)))
    # One by one, by an order that has seen nothing else: the same.
    draws = far + np.arange(25)
    fresh = [int(ShuffledOrder(shard, width, seed).take(draws[i : i + 1])[0][0]) for i in range(25)]
    assert fresh == order.take(draws)[0].tolist()


def test_a_window_is_read_from_its_shards_alone() -> None:
    shard = np.repeat(np.arange(40), 25)
    order = ShuffledOrder(shard, 8, 1)
    first = shard[epoch_of(order, 0)].reshape(5, 200)
    assert all(len(np.unique(window)) == 8 for window in first)
    assert len(np.unique(first)) == 40


def test_items_that_lie_scattered_are_grouped_by_shard() -> None:
    shard = np.random.default_rng(0).integers(0, 10, 300)
    order = ShuffledOrder(shard, 1, 1)
    assert np.count_nonzero(np.diff(shard[epoch_of(order, 0)])) == 9
    np.testing.assert_array_equal(np.sort(epoch_of(order, 3)), np.arange(300))


def test_large_shards_are_shuffled_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.order._LONGEST_BLOCK", 50)
    order = ShuffledOrder(np.zeros(1000, dtype=np.int32), 2, 1)
    for window in epoch_of(order, 0).reshape(10, 100):
        assert len(np.unique(window // 50)) == 2


def test_orders_of_two_epochs_have_nothing_in_common() -> None:
    """The documented quality of the shuffle: 3,200 shards of 25 in windows of 16."""
    shard = np.repeat(np.arange(3200), 25)
    order = ShuffledOrder(shard, 16, 7)
    places = []
    for epoch in range(5):
        place = np.empty(len(shard))
        place[epoch_of(order, epoch)] = np.arange(len(shard))
        places.append(place)
        # Neighbours come from the same shard no more often than sixteen shards in one urn would give.
        seen = shard[epoch_of(order, epoch)]
        assert np.mean(seen[1:] == seen[:-1]) == pytest.approx(1 / 16, abs=0.005)
    pairs = [(a, b) for a in range(5) for b in range(a)]
    correlations = [spearmanr(places[a], places[b]).statistic for a, b in pairs]
    # Windows move as wholes, and there are 200 of them: ranks of 200 random places correlate by 0.07 at one deviation.
    assert abs(np.mean(correlations)) < 0.07
    assert max(map(abs, correlations)) < 0.3
    within = [spearmanr(places[a] % 400, places[b] % 400).statistic for a, b in pairs]
    assert max(map(abs, within)) < 0.03


def test_another_seed_is_another_order() -> None:
    shard = np.repeat(np.arange(4), 25)
    orders = [epoch_of(ShuffledOrder(shard, 4, *seed), 0).tolist() for seed in ((1, 0), (2, 0), (1, 1))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_what_is_read_ahead_is_this_window_and_then_the_next() -> None:
    shard = np.repeat(np.arange(12), 10)
    order = ShuffledOrder(shard, 3, 5)
    windows = [set(shard[part].tolist()) for part in epoch_of(order, 0).reshape(4, 30)]
    following = set(shard[epoch_of(order, 1)[:30]].tolist())
    for place in range(120):
        ahead = order.shards_ahead(place)
        assert set(ahead[:3].tolist()) == windows[place // 30]
        next_window = [*windows, following][place // 30 + 1]
        assert set(ahead[3:].tolist()) <= next_window
        assert len(ahead) == 3 + int(np.ceil(place % 30 / 30 * 3))
