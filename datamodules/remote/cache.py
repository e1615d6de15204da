"""A bounded folder of whole files that many processes fill, read and empty at once."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datamodules.remote import locks

_PARTIAL = ".partial"
_LOCK = ".lock"


class CacheFull(Exception):  # noqa: N818 - a state of the cache, which ends when readers close files
    """There is no room, and nothing that could be removed: all is being read or fetched.

    Attributes:
        in_use: bytes that are.
    """

    def __init__(self, in_use: int) -> None:
        super().__init__(in_use)
        self.in_use = in_use


@dataclass(frozen=True)
class Partial:
    """A file that is being fetched, locked for its writer.

    Attributes:
        path: its name until it is complete.
        descriptor: open for reading and writing.
    """

    path: Path
    descriptor: int


class LocalCache:
    """Files under ``root/SET/``, at most ``limit`` bytes of them, the least recently used removed first.

    Who reads a file holds a shared lock on it, and who removes one an exclusive lock: a file that anybody has open
    through :meth:`find` or :meth:`commit` stays. So no space is taken by files that have a reader but no name any
    more, and the sum of the sizes in the folder is what the disk holds. A file that is being fetched counts with its
    full size from the start. The kernel frees the locks of a process that dies; what it was fetching is removed by the
    next one that needs room.

    Args:
        root: the folder.
        limit: bytes.
        evicted: called for each file that this process removes.
    """

    def __init__(self, root: Path, limit: int, evicted: Callable[[], None] = lambda: None) -> None:
        self.root = root
        self.limit = limit
        self._evicted = evicted
        self._pressure = root / "pressure"

    def find(self, path: Path, size: int | None) -> int | None:
        """Open a file of the cache and mark it as used.

        Args:
            path: of the file.
            size: that it must have to be whole; None takes any.

        Returns:
            A descriptor, with which the file stays until it is closed; None if there is no such file.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        locks.share(descriptor)
        status = os.fstat(descriptor)
        # Removed, or replaced, between opening and locking; or cut off by a full disk or a meddling hand.
        if status.st_nlink == 0 or (size is not None and status.st_size != size):
            os.close(descriptor)
            return None
        # The time of change stays: a mapped index is recognised by it. Reading alone need not set the time of use.
        with contextlib.suppress(PermissionError):  # another user's file, in a cache that several share
            os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
        return descriptor

    def reserve(self, path: Path, size: int) -> Partial:
        """Make room for a file and begin it. The caller holds the lock of that file.

        Args:
            path: of the file.
            size: in bytes.

        Raises:
            CacheFull: if too much is being read.
        """
        begun = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}{_PARTIAL}")
        with locks.locked(self.root / "lock", keep=True):
            self._make_room(size)
            begun.unlink(missing_ok=True)  # of a process that had this number before
            descriptor = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                locks.take(descriptor)
                os.truncate(descriptor, size)
            except BaseException:
                begun.unlink(missing_ok=True)
                locks.release(descriptor)
                raise
        return Partial(begun, descriptor)

    def commit(self, partial: Partial, path: Path) -> int | None:
        """Give a complete file its name.

        Returns:
            A descriptor as of :meth:`find`; None if it was removed again already.
        """
        with locks.locked(self.root / "lock", keep=True):  # a count of the files must not miss it under both names
            os.replace(partial.path, path)
        locks.share(partial.descriptor)
        if os.fstat(partial.descriptor).st_nlink == 0:
            os.close(partial.descriptor)
            return None
        return partial.descriptor

    def abandon(self, partial: Partial) -> None:
        """Remove a file that will not be completed."""
        partial.path.unlink(missing_ok=True)
        locks.release(partial.descriptor)

    def lock_of(self, path: Path) -> Path:
        """The lock file of those who fetch a file."""
        return path.with_name(path.name + _LOCK)

    def ask_for_room(self) -> None:
        """Tell every process that uses this cache to close the files that it only keeps open for later."""
        self._pressure.touch()

    def asked_for_room(self) -> int:
        """When somebody last asked for room; only to be compared with itself."""
        try:
            return self._pressure.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _make_room(self, size: int) -> None:
        total, files = self._scan()
        for _, bytes_, path in sorted(files):
            if total + size <= self.limit:
                break
            if _remove_unused(path):
                total -= bytes_
                self._evicted()
        if total + size > self.limit:
            raise CacheFull(total)

    def _scan(self) -> tuple[int, list[tuple[int, int, str]]]:
        """Sum the sizes, and list the files that are whole by (last use, size, path)."""
        total = 0
        files = []
        with os.scandir(self.root) as sets:
            folders = [entry.path for entry in sets if entry.is_dir(follow_symlinks=False)]
        for folder in folders:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(_LOCK):
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # a fetch that was given up just now
                    if entry.name.endswith(_PARTIAL):
                        # Nobody begins one without the lock that we hold: one without a writer is a dead process's.
                        if _remove_unused(entry.path):
                            continue
                    else:
                        files.append((status.st_atime_ns, status.st_size, entry.path))
                    total += status.st_size
        return total, files


def _remove_unused(path: str) -> bool:
    """Remove a file unless somebody has it open."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    if not locks.take(descriptor, wait=False):
        os.close(descriptor)
        return False
    try:
        # By its open file: the name may be that of a finished download by now.
        if locks.is_named(descriptor, Path(path)):
            os.unlink(path)
    finally:
        locks.release(descriptor)
    return True
