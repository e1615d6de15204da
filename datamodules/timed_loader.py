"""A loader that knows how long training has waited for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from datamodules.picture_ring import copied


class TimedLoader(DataLoader[dict[str, Any]]):
    """A ``DataLoader`` that adds up the time inside ``next()``, all of which the trainer stands still.

    Pictures that workers have left in a :class:`datamodules.picture_ring.PictureRing` are copied out of it.

    Without workers that is reading and decoding itself, with workers the wait for the one whose turn it is.

    Attributes:
        waited_s: seconds so far.
        batches: handed out so far.
    """

    waited_s: float = 0.0
    batches: int = 0

    def __iter__(self) -> Any:
        """Iterate as the loader does."""
        return _TimedIterator(self, super().__iter__())


class _TimedIterator:
    def __init__(self, loader: TimedLoader, batches: Iterator[dict[str, Any]]) -> None:
        self._loader, self._batches = loader, batches

    def __iter__(self) -> _TimedIterator:
        return self

    def __next__(self) -> dict[str, Any]:
        start = time.perf_counter()
        try:
            batch = copied(next(self._batches))
        finally:
            self._loader.waited_s += time.perf_counter() - start
        self._loader.batches += 1
        return batch
