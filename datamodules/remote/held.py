"""Files that a process keeps open between reads, and closes when somebody needs their place in the cache."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import OrderedDict

from datamodules.remote.cache import LocalCache

_POLL_S = 0.1


class HeldFile:
    """An open file that closes when its last user lets go of it, :class:`HeldFiles` or a read that is under way.

    Attributes:
        number: the descriptor.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.number)


class HeldFiles:
    """The files that were read last, open.

    An open file cannot leave the cache, so that idle ones might fill it; a thread, which runs while any is open, closes
    them when a process of this machine asks for room.

    Args:
        cache: where the files lie.
        most: open at once.
    """

    def __init__(self, cache: LocalCache, most: int) -> None:
        self._cache = cache
        self._most = most
        self._lock = threading.Lock()
        self._files: OrderedDict[str, HeldFile] = OrderedDict()
        self._watching = False

    def get(self, name: str) -> HeldFile | None:
        """Take an open file; hold on to what is returned until the read is done."""
        with self._lock:
            file = self._files.get(name)
            if file is not None:
                self._files.move_to_end(name)
            return file

    def put(self, name: str, number: int) -> HeldFile:
        """Keep a file open, from now on owned by what is returned."""
        file = HeldFile(number)
        with self._lock:
            self._files[name] = file
            while len(self._files) > self._most:
                self._files.popitem(last=False)
            if not self._watching:
                self._watching = True
                arguments = (weakref.ref(self), self._cache.asked_for_room())
                threading.Thread(target=_watch, args=arguments, name="held-shards", daemon=True).start()
        return file

    def close(self) -> None:
        """Close all that nobody is reading."""
        with self._lock:
            self._files.clear()

    def look(self, before: int) -> int | None:
        """Close all if somebody has asked for room.

        Returns:
            When somebody last did; None if nothing is left to look after.
        """
        asked = self._cache.asked_for_room()
        if asked != before:
            self.close()
        with self._lock:
            self._watching = bool(self._files)
            return asked if self._watching else None


def _watch(files: weakref.ref[HeldFiles], asked: int | None) -> None:
    pause = threading.Event()
    while asked is not None:
        pause.wait(_POLL_S)
        there = files()
        if there is None:
            return
        asked = there.look(asked)
        del there
