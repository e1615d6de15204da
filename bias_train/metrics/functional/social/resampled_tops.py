"""Who stands in the first k of a word's ranking, and its NDKL, in every resample of the pictures.

A resample holds the same pictures in the same order, each as often as it was drawn, so that nothing is ranked anew: one
walk down the ranking, from its best picture to a little beyond the longest cut-off, counts for all resamples at once.
Own construction, as `bias_train.metrics.functional.resampled_gallery`, for any number of groups.

NDKL needs the shares in the first i for every i. But i KL(p^(i) || q) = sum_g n_g ln n_g - i ln i - sum_g n_g ln q_g,
so that a position changes it by a function of its own group's count alone: one look into a table for each position, in
place of a sum over groups.

Legend of the shapes: M pictures, G groups, K cut-offs, B resamples, L the longest cut-off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bias_train.metrics.functional.ranking import discounts
from bias_train.metrics.functional.social.representation import plogp
from bias_train.stats import Bootstrap, Floats, Ints, resample_counts

Singles = NDArray[np.float32]

# After so many pictures it is looked which cut-offs all resamples have reached.
_LOOK = 32
# Resamples whose positions are written out at once: they fit into a processor's cache.
_TOGETHER = 64
# Up to here float32 holds every whole number.
_EXACT = 1 << 24


def count_table(group: Ints, bootstrap: Bootstrap) -> NDArray[np.uint8]:
    """How often each picture is drawn, every group being resampled to its own size.

    Args:
        group: [M] int64.
        bootstrap: number of resamples and seed.

    Returns:
        [M, B]; draws of one picture have mean 1, so that a byte holds them.
    """
    table = np.empty((len(group), bootstrap.resamples), dtype=np.uint8)
    first = 0
    for block in resample_counts(len(group), bootstrap, strata=group):
        table[:, first : first + len(block)] = block.T
        first += len(block)
    return table


class TopWalk:
    """Counts by group and NDKL of one word after the other, on the same resamples.

    Args:
        table: [M, B] how often each resample holds each picture.
        group: [M] int64 in 0..G-1.
        target: [G] wanted shares.
        ks: K cut-offs, each at most M.
    """

    def __init__(self, table: NDArray[np.uint8], group: Ints, target: Floats, ks: tuple[int, ...]) -> None:
        self._table, self._group, self._ks = table, group, ks
        self._longest = longest = max(ks)
        self._log_target = np.log(np.where(target > 0, target, 1.0))
        growth = np.diff(plogp(np.arange(longest + 2, dtype=np.float64)))
        # What a picture adds to sum_g (n_g ln n_g - n_g ln q_g) where n_g of its group stand above; the last row, of no
        # group, is for tied pictures, which are counted apart.
        gain = np.append(growth - self._log_target[:, None], np.zeros((1, longest + 1)), axis=0)
        self._gain = gain.astype(np.float32).ravel()
        self._growth = growth[:longest].astype(np.float32)
        weight = discounts(longest).numpy()
        each = weight / np.arange(1, longest + 1)
        # [L, K] what a position's change weighs in NDKL@k: it lasts from there to k.
        lasting = [np.append(each[:k][::-1].cumsum()[::-1], np.zeros(longest - k)) / weight[:k].sum() for k in ks]
        self._lasting = np.stack(lasting, axis=1).astype(np.float32)
        # Of each step and resample: where its gain stands in the table (less its position), and its copies. Draws have
        # mean one, so that few more pictures than positions are looked at; what is too small grows.
        steps = min(len(table), int(longest + 6 * np.sqrt(longest)) + 2 * _LOOK)
        # Whole numbers, held as floats, which mix with others without being converted.
        exact = np.float32 if gain.size <= _EXACT else np.float64
        self._place = np.empty((steps, table.shape[1]), dtype=exact)
        self._copies = np.empty((steps, table.shape[1]), dtype=np.float32)

    def __call__(self, scores: NDArray[Any]) -> tuple[Singles, Singles]:
        """Walk down one ranking.

        Tied pictures stand in random order: counts are their expectation, and NDKL is that of expected counts.

        Args:
            scores: [M] of the word with each picture.

        Returns:
            [K, G, B] expected pictures of each group in the first k, and [K, B] NDKL@k, both float32.
        """
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        kind = self._group[order].tolist()
        # Where the pictures with a position's score end.
        tie_end = np.searchsorted(-ranked, -ranked, side="right").tolist()
        groups, size, longest = len(self._log_target), self._table.shape[1], self._longest
        width = longest + 1
        offset = np.arange(groups, dtype=self._place.dtype)[:, None] * width
        number = np.broadcast_to(offset, (groups, size)).copy()  # pictures of each group above, plus its offset
        above = np.zeros(size, dtype=np.float32)
        room = np.repeat(np.array(self._ks, dtype=np.float32)[:, None], size, axis=1)
        last = self._ks.index(longest)
        counts = np.zeros((len(self._ks), groups, size), dtype=np.float32)
        tied = np.zeros((size, len(self._ks)), dtype=np.float32)
        own, taken = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
        steps, place = 0, 0
        active = list(range(len(self._ks)))
        while active:
            if steps == len(self._place):
                self._place, self._copies = (np.append(held, held, axis=0) for held in (self._place, self._copies))
            end = tie_end[place]
            mixed = end > place + 1 and len(set(kind[place:end])) > 1
            if mixed:
                member = np.eye(groups, dtype=np.float32)[kind[place:end]]
                block = member.T @ self._table[order[place:end]].astype(np.float32)
                np.sum(block, axis=0, out=own)
                share = block / np.maximum(own, 1.0)
                tied += self._tied(number - offset, share, above, np.minimum(own, room[last]))
                np.subtract(groups * width, above, out=self._place[steps])
            else:
                end = place + 1
                group = kind[place]
                np.copyto(own, self._table[order[place]])
                np.subtract(number[group], above, out=self._place[steps])
            for k in active:
                np.minimum(own, room[k], out=taken)
                room[k] -= taken
                if mixed:
                    counts[k] += taken * share
                else:
                    counts[k, group] += taken
                if k == last:
                    self._copies[steps] = taken
            if mixed:
                number += block
            else:
                number[group] += own
            above += own
            place, steps = end, steps + 1
            if steps % _LOOK == 0 or place == len(order):
                active = [k for k in active if room[k].any()]
        return counts, (self._discounted(steps) + tied).T

    def _discounted(self, steps: int) -> Singles:
        """[B, K] NDKL from the gains of the first steps."""
        found = np.empty((self._table.shape[1], len(self._ks)), dtype=np.float32)
        for first in range(0, len(found), _TOGETHER):
            some = slice(first, first + _TOGETHER)
            place = self._place[:steps, some].T.astype(np.int32, order="C")
            often = self._copies[:steps, some].T.astype(np.intp, order="C")
            # Every resample fills all positions up to the longest cut-off.
            position = np.repeat(place.ravel(), often.ravel()).reshape(-1, self._longest)
            position += np.arange(self._longest, dtype=np.int32)
            change = self._gain.take(position, mode="clip")
            change -= self._growth
            np.matmul(change, self._lasting, out=found[some])
        return found

    def _tied(self, number: NDArray[np.floating], share: Singles, above: Singles, copies: Singles) -> Singles:
        """[B, K] what a block of tied pictures adds to NDKL.

        Args:
            number: [G, B] pictures of each group above it.
            share: [G, B] of the groups in it.
            above: [B] pictures above it.
            copies: [B] pictures of it within the longest cut-off.
        """
        found = np.zeros((len(above), len(self._ks)), dtype=np.float32)

        def total(inside: int) -> Floats:
            expected = number.astype(np.float64) + inside * share
            return np.asarray((plogp(expected) - expected * self._log_target[:, None]).sum(axis=0))

        before = total(0)
        for inside in range(int(copies.max())):
            after = total(inside + 1)
            there = np.flatnonzero(copies > inside)
            weight = self._lasting[above[there].astype(np.int64) + inside]
            found[there] += weight * (after - before)[there, None]
            before = after
        return found
