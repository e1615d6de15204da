"""The most memory that a process and its children held at one time."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil


def proportional_bytes(pid: int) -> int:
    """Sum the proportional set size (PSS) over a process tree: pages that several share are counted once."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in tree:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


class PeakMemory:
    """Sample a process tree's memory in a thread while the block runs.

    Sampling walks the tree's page tables, which costs the tree time: never time what is being sampled.

    Args:
        pid: root of the tree.
        every: seconds between samples.
    """

    def __init__(self, pid: int, every: float = 0.05) -> None:
        self.bytes = 0
        self._pid, self._every = pid, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(self._every):
            self.bytes = max(self.bytes, proportional_bytes(self._pid))

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
