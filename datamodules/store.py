"""Where the files of a shard set lie: a folder here, or somewhere else with a cache in between."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from datamodules.errors import DataError, SampleError

_MAX_OPEN = 128


class ShardInfo(NamedTuple):
    """One tar of a shard set.

    Attributes:
        name: path relative to the set's folder.
        samples: samples indexed in it.
        bytes: its size.
        sha256: hexadecimal checksum.
    """

    name: str
    samples: int
    bytes: int
    sha256: str


class Store(Protocol):
    """Gives out a shard set's files. Pickled into loader workers, so it carries no locks, threads or open files."""

    @property
    def location(self) -> str:
        """For people: a folder's path, or a URL without credentials."""

    @property
    def counts(self) -> Counter[str]:
        """What this process asked for so far: "hits", "misses", "evictions", "retries", "bytes"."""

    def read(self, shard: ShardInfo, offset: int, size: int) -> bytes:
        """Read a stretch of a shard, which is fetched first where it lies elsewhere.

        Returns:
            The bytes, fewer where the shard ends.

        Raises:
            SampleError: naming the shard, where it cannot be had or is not the one that was indexed.
        """

    def prefetch(self, shards: Sequence[ShardInfo]) -> None:
        """Begin to bring these close, without waiting."""

    def check(self, shards: Sequence[ShardInfo]) -> None:
        """Look, without reading them, whether the shards are those that were indexed.

        Raises:
            DataError: naming the shard that is missing or changed.
        """


class _OpenFile:
    """An open file that closes when its last user lets go of it, be it forgotten by the store meanwhile or not."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class FolderStore:
    """A folder of this machine or of a file system that it mounts.

    Args:
        folder: the shards' folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self._open = lru_cache(maxsize=_MAX_OPEN)(self._open_now)

    def __reduce__(self) -> tuple[type[FolderStore], tuple[Path]]:
        return FolderStore, (self.folder,)  # open files stay in the process that opened them

    @property
    def location(self) -> str:
        """The folder's path."""
        return str(self.folder)

    def read(self, shard: ShardInfo, offset: int, size: int) -> bytes:
        """Read a stretch of a shard that is as long as it was when it was indexed.

        ``pread`` carries its own position, so threads and forked workers may share what is open.
        """
        # Held by name until the read is done: another thread may make the store forget it meanwhile.
        file = self._open(shard)
        try:
            return os.pread(file.number, size, offset)
        except OSError as error:
            raise SampleError("unreadable", f"{self.folder / shard.name}: cannot be read ({error.strerror})") from error

    def _open_now(self, shard: ShardInfo) -> _OpenFile:
        path = self.folder / shard.name
        try:
            file = _OpenFile(os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))
        except OSError as error:
            raise SampleError("unreadable", f"{path}: cannot be read ({error.strerror})") from error
        size = os.fstat(file.number).st_size
        if size != shard.bytes:
            raise SampleError(
                "checksum",
                f"{path}: has {size} bytes but had {shard.bytes} when it was indexed; {reindex(self.folder)}",
            )
        return file

    def prefetch(self, shards: Sequence[ShardInfo]) -> None:
        """Ask the operating system to read whole shards into its cache, front to back."""
        if sum(shard.bytes for shard in shards) > _available_memory() // 4:
            return  # would push out of memory what is about to be read
        for shard in shards:
            try:
                file = self._open(shard)
                os.posix_fadvise(file.number, 0, 0, os.POSIX_FADV_WILLNEED)
            except (SampleError, OSError):
                continue  # said where the shard is really needed

    def check(self, shards: Sequence[ShardInfo]) -> None:
        """Compare the sizes of the shards on disk with what was indexed."""
        for shard in shards:
            path = self.folder / shard.name
            try:
                size = path.stat().st_size
            except OSError as error:
                raise DataError(
                    f"{path}: the index lists this shard but it is not there; bring it back, or {reindex(self.folder)}"
                ) from error
            if size != shard.bytes:
                raise DataError(
                    f"{path}: has {size} bytes but had {shard.bytes} when it was indexed; {reindex(self.folder)}"
                )


def reindex(location: object) -> str:
    """What to run where a set and its index disagree."""
    return f"run `bias-train shards index {location}`"


def _available_memory() -> int:
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
