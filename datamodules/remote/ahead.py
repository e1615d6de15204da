"""Fetches files in the background, before they are asked for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from datamodules.errors import DataError
from datamodules.remote.cache import CacheFull
from datamodules.store import ShardInfo

log = logging.getLogger(__name__)


class Ahead:
    """A queue of shards and a few threads that live while it is not empty.

    Daemons, so that a run ends without waiting for what it no longer needs.

    Args:
        fetch: fetches one shard.
        threads: at most so many.
    """

    def __init__(self, fetch: Callable[[ShardInfo], None], threads: int) -> None:
        self._fetch = fetch
        self._most = threads
        self._lock = threading.Lock()
        self._waiting: dict[str, ShardInfo] = {}  # in order, each once
        self._threads = 0

    def add(self, shards: Iterable[ShardInfo]) -> None:
        """Put shards at the end of the queue, those apart that wait in it already."""
        with self._lock:
            for shard in shards:
                self._waiting.setdefault(shard.name, shard)
            for _ in range(min(self._most - self._threads, len(self._waiting))):
                self._threads += 1
                threading.Thread(target=self._work, name="shards-ahead", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                shard = self._waiting.pop(next(iter(self._waiting)))
            try:
                self._fetch(shard)
            except (DataError, CacheFull) as error:
                log.debug("not fetched ahead: %s", error)  # said aloud where the shard is really needed
            except Exception:
                log.exception("%s: could not be fetched ahead", shard.name)
