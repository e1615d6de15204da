"""Shared memory that loader workers write their pictures to, over and over.

A batch that a worker puts into a queue goes into shared memory made for it: every one of its pages is faulted in twice,
once by the worker and once by the trainer, and given back. At 256 px that costs as much as a third of decoding. Here
each worker has a few slots for as long as the loader lives, decodes straight into them, and sends the number of the
slot; the trainer copies the pictures out.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_numbers = itertools.count()
_rings: weakref.WeakValueDictionary[tuple[int, int], PictureRing] = weakref.WeakValueDictionary()


class PictureRing:
    """Slots of shared memory, several for each worker.

    A worker has at most ``prefetch`` batches under way, and is given the next one to make when the trainer takes one.
    So with one slot more than that, the slot which a worker goes on to is never the one that is being copied, if the
    trainer copies each batch before it asks for another. That holds where every worker makes batches without end; one
    that ended early would have its share done by the others.

    Args:
        workers: of the loader.
        prefetch: the loader's ``prefetch_factor``.
        pictures: a slot holds.
        image_size: height and width.

    Raises:
        RuntimeError: where there is not as much shared memory.
    """

    def __init__(self, workers: int, prefetch: int, pictures: int, image_size: tuple[int, int]) -> None:
        self.key = (os.getpid(), next(_numbers))
        self.slots = prefetch + 1
        self._memory = torch.empty((workers, self.slots, pictures, *image_size, 3), dtype=torch.uint8).share_memory_()
        _rings[self.key] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _rings[self.key] = self

    def slot(self, worker: int, number: int) -> Slot:
        """The slot of a worker's batch, counted from 0 since its iteration began."""
        return Slot(self, worker, number % self.slots)

    def read(self, part: InRing) -> Tensor:
        """The pictures as they lie there: uint8 [n, H, W, 3], to be copied at once."""
        return self._memory[part.worker, part.slot, part.start : part.start + part.count]


@dataclass
class Slot:
    """One slot, which is filled from its beginning.

    Attributes:
        ring: that it is part of.
        worker: whose it is.
        number: its number among the worker's.
        used: pictures in it.
    """

    ring: PictureRing
    worker: int
    number: int
    used: int = 0

    def take(self, count: int) -> tuple[Any, InRing]:
        """Give out room for pictures: a NumPy array uint8 [count, H, W, 3] to fill, and what is sent in its place."""
        part = InRing(self.ring.key, self.worker, self.number, self.used, count)
        self.used += count
        return self.ring.read(part).numpy(), part


@dataclass(frozen=True)
class InRing:
    """Pictures that a worker has left in a ring.

    Attributes:
        ring: its key.
        worker: whose slot.
        slot: which of the worker's.
        start: place of the first picture in the slot.
        count: pictures.
    """

    ring: tuple[int, int]
    worker: int
    slot: int
    start: int
    count: int

    def first(self, count: int) -> InRing:
        """The first few of them."""
        return replace(self, count=count)

    def copy(self) -> Tensor:
        """Copy them out: uint8 [count, 3, H, W], channels last in memory."""
        return _rings[self.ring].read(self).clone().permute(0, 3, 1, 2)

    def pin_memory(self) -> Tensor:
        """Copy them to pinned memory instead, as the loader's own thread asks of a batch's parts."""
        there = _rings[self.ring].read(self)
        return torch.empty(there.shape, dtype=torch.uint8, pin_memory=True).copy_(there).permute(0, 3, 1, 2)


def make_ring(workers: int, prefetch: int, pictures: int, image_size: tuple[int, int]) -> PictureRing | None:
    """Make a ring; None, with a word in the log, where shared memory is too small for it."""
    try:
        return PictureRing(workers, prefetch, pictures, image_size)
    except RuntimeError as error:
        size = workers * (prefetch + 1) * pictures * math.prod(image_size) * 3
        log.warning(
            "no %d MB of shared memory for the loader's workers (%s): batches go the slower way. Enlarge /dev/shm, or "
            "use fewer workers",
            size >> 20, str(error).splitlines()[0],
        )  # fmt: skip
        return None


def copied(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its pictures copied out of the ring, where they lie in one."""
    return {name: value.copy() if isinstance(value, InRing) else value for name, value in batch.items()}
