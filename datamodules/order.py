"""The order in which a pool of pictures is met: shuffled at two levels, and found at any place at once.

Each epoch puts the pool's blocks (its shards, or stretches of very large ones) in random order, takes them in windows
of a few, and shuffles within a window. So a window is read from a few files, near-sequentially, while the orders of two
epochs have nothing in common; and place k of epoch e needs the epoch's order of blocks and one window, not the k - 1
places before it.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from datamodules.hashing import generator

# A larger shard is shuffled in stretches, so that a window stays quick to plan and cheap to hold.
_LONGEST_BLOCK = 10_000
_WINDOWS_KEPT = 6

Ints = npt.NDArray[np.int64]


class ShuffledOrder:
    """Endless passes over a pool.

    Args:
        shard: [n] shard of each item.
        shuffle_shards: blocks in a window.
        seed: integers that the order is drawn from; other integers give an independent order.
    """

    def __init__(self, shard: npt.NDArray[np.integer], shuffle_shards: int, *seed: int) -> None:
        self.length = len(shard)
        self._width = max(shuffle_shards, 1)
        self._seed = seed
        # Items of a shard usually lie together already; where they do not, this is the order in which they do.
        self._by_shard = None if bool(np.all(shard[1:] >= shard[:-1])) else np.argsort(shard, kind="stable")
        lying = shard if self._by_shard is None else shard[self._by_shard]
        edges = np.concatenate([[0], np.flatnonzero(np.diff(lying)) + 1, [self.length]]) if self.length else [0]
        starts = [np.arange(a, b, _LONGEST_BLOCK) for a, b in pairwise(edges)]
        self._start = np.concatenate([*starts, [self.length]]).astype(np.int64)
        self.block_shard: Ints = np.asarray(lying[self._start[:-1]], dtype=np.int64)
        self._epochs: OrderedDict[int, tuple[Ints, Ints]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], Ints] = OrderedDict()

    def _epoch(self, epoch: int) -> tuple[Ints, Ints]:
        """Order of the blocks, and where each window ends: [blocks], [windows]."""
        if epoch not in self._epochs:
            blocks = generator(*self._seed, epoch).permutation(len(self.block_shard))
            ends = np.cumsum(np.diff(self._start)[blocks])
            last = np.minimum(np.arange(self._width, len(blocks) + self._width, self._width), len(blocks)) - 1
            self._epochs[epoch] = blocks, ends[last]
            if len(self._epochs) > 3:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _window(self, epoch: int, window: int) -> Ints:
        """Item numbers of one window in their order."""
        if (epoch, window) not in self._windows:
            blocks = self._epoch(epoch)[0][window * self._width : (window + 1) * self._width]
            items = np.concatenate([np.arange(self._start[b], self._start[b + 1]) for b in blocks])
            items = items[generator(*self._seed, epoch, window).permutation(len(items))]
            self._windows[epoch, window] = items if self._by_shard is None else self._by_shard[items]
            if len(self._windows) > _WINDOWS_KEPT:
                self._windows.popitem(last=False)
        return self._windows[epoch, window]

    def take(self, draws: Ints) -> tuple[Ints, Ints]:
        """Find what stands at some places of the endless order.

        Args:
            draws: [n] int64 places, from 0.

        Returns:
            Item numbers [n] and epochs [n], int64.
        """
        epoch, place = np.divmod(draws, self.length)
        items = np.empty_like(draws)
        for value in np.unique(epoch).tolist():
            ends = self._epoch(value)[1]
            window = np.where(epoch == value, np.searchsorted(ends, place, side="right"), -1)
            for number in np.unique(window[window >= 0]).tolist():
                here = window == number
                begin = ends[number - 1] if number else 0
                items[here] = self._window(value, number)[place[here] - begin]
        return items, epoch

    def shards_ahead(self, draw: int) -> Ints:
        """Shards that are read at a place and soon after it.

        Args:
            draw: place in the endless order.

        Returns:
            The window's shards, then those of the next window, as many of them as the share of this window that is
            used up: they are brought close while this window is read, and not all at once.
        """
        epoch, place = divmod(draw, self.length)
        blocks, ends = self._epoch(epoch)
        window = int(np.searchsorted(ends, place, side="right"))
        begin = int(ends[window - 1]) if window else 0
        used = (place - begin) / (int(ends[window]) - begin)
        if window + 1 < len(ends):
            following = blocks[(window + 1) * self._width : (window + 2) * self._width]
        else:
            following = self._epoch(epoch + 1)[0][: self._width]
        now = blocks[window * self._width : (window + 1) * self._width]
        return self.block_shard[np.concatenate([now, following[: int(np.ceil(used * len(following)))]])]
