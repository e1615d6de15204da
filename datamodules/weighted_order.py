"""The order in which a weighted pool of pictures is met: shuffled like any pool, each item as often as its weight says.

In pass e an item of weight w (the largest being 1) stands in the order where floor((e + 1) w + u) exceeds
floor(e w + u), with a u in [0, 1) of its own: systematic sampling along the passes. So after any number E of passes it
was met floor(E w + u) times, within one of its due E w, never twice in one pass, and an item of weight 1 once in each.
Passes are of nearly equal length; where one begins is a sum in closed form, so any place is found at once, and memory
holds a few passes, however fine the weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.hashing import mix
from datamodules.order import Ints, ShuffledOrder

_BITS = np.uint64(32)
_WHOLE = 2**32  # weights in whole parts of this, so that counts are exact at any pass below 2**31
_PASSES_KEPT = 3
_CHUNK = 2**20


class WeightedOrder:
    """Endless passes over a weighted pool; the same interface as :class:`datamodules.order.ShuffledOrder`.

    Args:
        shard: [n] shard of each item.
        weight: [n] floats in [0, 1], at least one above 0; only their ratios matter. Items of weight 0 are never met.
        item_id: [n] int64 ids that each item's u is drawn from.
        shuffle_shards: blocks in a window.
        seed: integers that order and u are drawn from.
    """

    def __init__(
        self,
        shard: npt.NDArray[np.integer[Any]],
        weight: npt.NDArray[np.floating[Any]],
        item_id: npt.NDArray[np.integer[Any]],
        shuffle_shards: int,
        *seed: int,
    ) -> None:
        self.length = len(shard)
        self._shard, self._width, self._seed = shard, shuffle_shards, seed
        self._part = weight_parts(weight)
        self._offset = np.concatenate([_offsets(item_id[here], seed) for here in self._chunks()])
        self._mean = float(self._part.sum(dtype=np.float64)) / _WHOLE
        self._begins: OrderedDict[int, int] = OrderedDict()
        self._passes: OrderedDict[int, tuple[Ints, ShuffledOrder]] = OrderedDict()

    def _chunks(self) -> Iterator[slice]:
        """Stretches of the pool that arrays are made for at once: millions of items need little memory of their own."""
        return (slice(start, start + _CHUNK) for start in range(0, self.length, _CHUNK))

    def _met(self, epoch: int, here: slice) -> npt.NDArray[np.uint64]:
        """How often each item was met before a pass: [n]."""
        return (np.uint64(epoch) * self._part[here] + self._offset[here]) >> _BITS

    def _begin(self, epoch: int) -> int:
        """Place at which a pass begins."""
        if epoch not in self._begins:
            self._begins[epoch] = sum(int(self._met(epoch, here).sum()) for here in self._chunks())
            if len(self._begins) > 2 * _PASSES_KEPT:
                self._begins.popitem(last=False)
        return self._begins[epoch]

    def _epoch_of(self, draw: int) -> int:
        # The guess is off by less than a pass, but for pools of a few items: sums stray from their due by about half
        # the square root of their number of terms.
        epoch = int(draw / self._mean)
        while epoch and self._begin(epoch) > draw:
            epoch -= 1
        while self._begin(epoch + 1) <= draw:
            epoch += 1
        return epoch

    def _pass(self, epoch: int) -> tuple[Ints, ShuffledOrder]:
        """The items of a pass, and an order of them, of which the pass of that number is taken.

        So, where all are of one weight, the order is that of an unweighted pool.
        """
        if epoch not in self._passes:
            here = (
                np.flatnonzero(self._met(epoch + 1, part) > self._met(epoch, part)) + part.start
                for part in self._chunks()
            )
            items = np.concatenate(list(here))
            self._passes[epoch] = items, ShuffledOrder(self._shard[items], self._width, *self._seed)
            if len(self._passes) > _PASSES_KEPT:
                self._passes.popitem(last=False)
        return self._passes[epoch]

    def take(self, draws: Ints) -> tuple[Ints, Ints]:
        """Find what stands at some places of the endless order.

        Args:
            draws: [n] int64 places, from 0, ascending.

        Returns:
            Item numbers [n] and passes [n], int64.
        """
        items, epochs = np.empty_like(draws), np.empty_like(draws)
        done = 0
        while done < len(draws):
            epoch = self._epoch_of(int(draws[done]))
            begin, end = self._begin(epoch), self._begin(epoch + 1)
            here = slice(done, done + int(np.searchsorted(draws[done:], end)))
            members, order = self._pass(epoch)
            places, epochs[here] = order.take(epoch * order.length + draws[here] - begin)
            items[here] = members[places]
            done = here.stop
        return items, epochs

    def shards_ahead(self, draw: int) -> Ints:
        """Shards that are read at a place and soon after it, see `ShuffledOrder.shards_ahead`."""
        epoch = self._epoch_of(draw)
        _, order = self._pass(epoch)
        return order.shards_ahead(epoch * order.length + draw - self._begin(epoch))


def _offsets(item_id: npt.NDArray[np.integer[Any]], seed: tuple[int, ...]) -> npt.NDArray[np.uint32]:
    """Each item's u, in parts of 2**32."""
    return np.asarray((mix(*seed, _WHOLE, item_id) >> _BITS).astype(np.uint32))


def weight_parts(weight: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint64]:
    """Weights as whole parts of 2**32, the largest being all of it; above 0 stays above 0.

    >>> weight_parts(np.array([0.0, 0.25, 0.5])).tolist()
    [0, 2147483648, 4294967296]
    """
    share = np.asarray(weight, dtype=np.float64)
    share = share / share.max()
    return np.where(share > 0, np.maximum(np.rint(share * _WHOLE), 1.0), 0.0).astype(np.uint64)
