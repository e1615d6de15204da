from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import IterableDataset

from datamodules import timed_loader
from datamodules.timed_loader import TimedLoader


class Slow(IterableDataset[dict[str, Any]]):
    """Takes 1, 2, 3 ... seconds on a clock that only it moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for seconds in range(1, 5):
            self.now += seconds
            yield {"number": seconds}


def test_only_the_time_inside_next_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Slow()
    monkeypatch.setattr(timed_loader, "time", SimpleNamespace(perf_counter=lambda: stream.now))
    loader = TimedLoader(stream, batch_size=None)
    assert (loader.waited_s, loader.batches) == (0.0, 0)
    for batch in loader:
        stream.now += 100  # training
        assert loader.waited_s == sum(range(1, batch["number"] + 1))
        assert loader.batches == batch["number"]
    assert (loader.waited_s, loader.batches) == (10.0, 4)
    next(iter(loader))
    assert (loader.waited_s, loader.batches) == (11.0, 5)


def test_workers_change_nothing() -> None:
    loader = TimedLoader(Slow(), batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert [batch["number"] for batch in loader] == [1, 2, 3, 4]
    assert loader.batches == 4
    assert loader.waited_s >= 0
