"""A shard set that lies elsewhere, seen through the cache of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from datamodules.errors import DataError, SampleError
from datamodules.index_file import INDEX_NAME
from datamodules.remote import locks
from datamodules.remote.ahead import Ahead
from datamodules.remote.cache import CacheFull, LocalCache, Partial
from datamodules.remote.held import HeldFile, HeldFiles
from datamodules.remote.locations import CREDENTIALS, Location
from datamodules.remote.options import CacheOptions
from datamodules.remote.retry import GivenUp, persist
from datamodules.remote.sink import Sink
from datamodules.remote.transport import Transport, open_transport, require_packages
from datamodules.store import ShardInfo

_MOST_HELD = 64
# Asked for by every sample that lies in it, a shard that cannot be had would hold up a run for hours.
_REMEMBERED_S = 60.0


class _Process:
    """What a store has in one process, made anew after pickling and forking: locks, threads, connections, files."""

    def __init__(self, store: RemoteStore) -> None:
        options = store.options
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.cache = LocalCache(options.root(), options.limit, lambda: self.count("evictions"))
        self.folder = self.cache.root / store.address.digest
        self.folder.mkdir(exist_ok=True)
        self.transport: Transport = open_transport(store.address, options)
        self.held = HeldFiles(self.cache, _MOST_HELD)
        self.ahead = Ahead(store.fetch_ahead, options.downloads)
        self.failed: dict[str, tuple[float, str]] = {}
        self.indexes: dict[Path, HeldFile] = {}

    def count(self, what: str, number: int = 1) -> None:
        with self.lock:
            self.counts[what] += number


_making = threading.Lock()


def _new_lock() -> None:
    global _making
    _making = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_new_lock)


class RemoteStore:
    """A shard set behind http(s), s3, gs or a pipe; see :class:`datamodules.store.Store`.

    Each shard is fetched once for all processes of the machine, whole, with its size and checksum compared. Every
    method may be called from several threads and processes at once.

    Args:
        location: of the set.
        options: of the cache and the downloads.
    """

    def __init__(self, location: Location, options: CacheOptions) -> None:
        self.address = location
        self.options = options
        self._process: _Process | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "options": self.options, "_process": None}

    def __repr__(self) -> str:
        return f"RemoteStore({self.location!r})"

    def _here(self) -> _Process:
        process = self._process
        if process is None or process.pid != os.getpid():
            with _making:
                process = self._process
                if process is None or process.pid != os.getpid():
                    process = self._process = _Process(self)
        return process

    # What a store does ------------------------------------------------------------------------------------------------

    @property
    def location(self) -> str:
        """The set's URL or pipe; no secret is ever in it."""
        return str(self.address)

    @property
    def counts(self) -> Counter[str]:
        """What this process did so far: ``hits`` and ``misses`` of shards looked for in the cache, ahead or when they
        were needed; files it removed as ``evictions``; ``retries``; ``bytes`` fetched.
        """  # noqa: D205
        return self._here().counts

    def open(self, shard: ShardInfo) -> int:
        """Open a complete shard for reading, fetched first if the cache does not hold it.

        While the descriptor is open, the shard stays in the cache and counts towards its bound: close it soon. To read
        again and again, use :meth:`read`, which lets go when room is needed.

        Returns:
            A file descriptor, the caller's to close.

        Raises:
            SampleError: naming the shard, if it cannot be had or is not the one that was indexed.
            DataError: if the cache is too small or cannot be written.
        """
        here = self._here()
        number = here.cache.find(self._path(shard), shard.bytes)
        if number is not None:
            here.count("hits")
            return number
        until, message = here.failed.get(shard.name, (0.0, ""))
        if time.monotonic() < until:
            raise SampleError("unreadable", message)
        try:
            return self._fetch(shard)
        except SampleError as error:
            here.failed[shard.name] = (time.monotonic() + _REMEMBERED_S, str(error))
            raise

    def read(self, shard: ShardInfo, offset: int, size: int) -> bytes:
        """Read a stretch of a shard, which stays open for the next one until its place is needed.

        Returns:
            The bytes, fewer where the shard ends.

        Raises:
            SampleError: as :meth:`open`.
            DataError: as :meth:`open`.
        """
        held = self._here().held
        file = held.get(shard.name) or held.put(shard.name, self.open(shard))
        return os.pread(file.number, size, offset)

    def path(self, shard: ShardInfo) -> Path:
        """The local file of a shard, fetched first if the cache does not hold it.

        It may leave the cache at any time; :meth:`open` keeps it there.

        Raises:
            SampleError: as :meth:`open`.
            DataError: as :meth:`open`.
        """
        os.close(self.open(shard))
        return self._path(shard)

    def prefetch(self, shards: Sequence[ShardInfo]) -> None:
        """Begin to fetch shards in the background, in this order, but for those that another process is fetching."""
        self._here().ahead.add(shards)

    def check(self, shards: Sequence[ShardInfo]) -> None:
        """Compare sizes with what was indexed, of all shards in a bucket, of some over HTTP, of none behind a pipe.

        Raises:
            DataError: naming the shard that is missing or changed, or does not fit into the cache.
        """
        for shard in shards:
            self._fits(shard)
        here = self._here()
        sizes = self._try(lambda: here.transport.sizes([shard.name for shard in shards]), "", DataError)
        for shard in shards:
            size = sizes.get(shard.name, shard.bytes)
            if size is None:
                raise DataError(f"{self.location}/{shard.name}: the index lists this shard but it is not there")
            if size != shard.bytes:
                raise DataError(
                    f"{self.location}/{shard.name}: has {size} bytes but had {shard.bytes} when it was indexed; "
                    f"index the set again and bring it there with its {INDEX_NAME}"
                )

    def index_file(self) -> Path:
        """A local copy of the set's index as it is now, asked for anew with every call.

        The copy is never changed, another version of the index has another name, and it stays in the cache for as long
        as this store lives.

        Raises:
            DataError: if the set has no index or it cannot be fetched.
        """
        here = self._here()
        memo = here.folder / "index.json"
        with locks.locked(here.folder / "index.lock"):
            validator = self._try(lambda: here.transport.validator(INDEX_NAME), INDEX_NAME, DataError)
            known = _read_memo(memo)
            if validator is not None and known.get("validator") == validator:
                path = here.folder / known["file"]
                number = here.cache.find(path, known["size"])
                if number is not None:
                    here.count("hits")
                    here.indexes[path] = HeldFile(number)
                    return path
            here.count("misses")
            path, size = self._fetch_index(here, validator)
            _write_memo(memo, {"validator": validator, "file": path.name, "size": size})
            return path

    # Fetching ---------------------------------------------------------------------------------------------------------

    def fetch_ahead(self, shard: ShardInfo) -> None:
        """Fetch a shard unless it is there or some process is at it; do not wait for room.

        Raises:
            DataError: if it cannot be had.
            CacheFull: if there is no room.
        """
        here = self._here()
        path = self._path(shard)
        number = here.cache.find(path, shard.bytes)
        if number is not None:
            here.count("hits")
        else:
            with locks.locked(here.cache.lock_of(path), wait=False) as mine:
                number = self._download(shard, path, wait=False) if mine else None
        if number is not None:
            os.close(number)

    def _fetch(self, shard: ShardInfo) -> int:
        here = self._here()
        path = self._path(shard)
        while True:
            with locks.locked(here.cache.lock_of(path)):
                number = here.cache.find(path, shard.bytes)  # by the one that we have waited for
                if number is not None:
                    here.count("hits")
                    return number
                number = self._download(shard, path, wait=True)
                if number is not None:
                    return number

    def _download(self, shard: ShardInfo, path: Path, *, wait: bool) -> int | None:
        """Fetch a shard under its lock; None in the rare case that it was evicted again at once."""
        self._fits(shard)
        here = self._here()
        here.count("misses")
        partial = self._reserve(here, path, shard.bytes, wait=wait)
        try:
            sink = Sink(partial.descriptor, shard.bytes, shard.sha256, here.cache.limit)

            def fetch() -> None:
                try:
                    here.transport.fetch(shard.name, sink)
                    sink.finish()
                except Exception:
                    if sink.position >= shard.bytes:
                        sink.restart()
                    raise

            self._try(fetch, shard.name, SampleError)
        except BaseException:
            here.cache.abandon(partial)
            raise
        here.count("bytes", shard.bytes)
        return here.cache.commit(partial, path)

    def _fetch_index(self, here: _Process, validator: dict[str, str] | None) -> tuple[Path, int]:
        size = int((validator or {}).get("size", 0))
        while True:
            partial = self._reserve(here, here.folder / INDEX_NAME, size, wait=True)
            try:
                sink = Sink(partial.descriptor, None, None, here.cache.limit)

                def fetch(sink: Sink = sink) -> str:
                    here.transport.fetch(INDEX_NAME, sink)
                    return sink.finish()

                digest = self._try(fetch, INDEX_NAME, DataError)
            except BaseException:
                here.cache.abandon(partial)
                raise
            here.count("bytes", sink.position)
            path = here.folder / f"index-{digest[:20]}.arrow"
            number = here.cache.find(path, sink.position)
            if number is not None:  # what it was before; who has it mapped need not notice
                here.cache.abandon(partial)
            else:
                number = here.cache.commit(partial, path)
            if number is not None:
                here.indexes[path] = HeldFile(number)
                return path, sink.position

    def _reserve(self, here: _Process, path: Path, size: int, *, wait: bool) -> Partial:
        until = time.monotonic() + self.options.timeout_s
        while True:
            try:
                return here.cache.reserve(path, size)
            except CacheFull as error:
                if not wait:
                    raise
                if time.monotonic() > until:
                    raise DataError(
                        f"data.cache.limit_gb = {self.options.limit_gb:g}: the cache {here.cache.root} has no room for "
                        f"{size} bytes, since {error.in_use} bytes in it are being read; raise the limit"
                    ) from None
                here.held.close()
                here.cache.ask_for_room()
                time.sleep(0.05)
            except OSError as error:
                where = here.cache.root
                raise DataError(f"{where}: cannot be written ({error.strerror}); set data.cache.folder") from None

    def _fits(self, shard: ShardInfo) -> None:
        if shard.bytes > self.options.limit:
            raise DataError(
                f"data.cache.limit_gb = {self.options.limit_gb:g}: {self.location}/{shard.name} alone has "
                f"{shard.bytes} bytes; raise the limit to several shards at least"
            )

    def _try(self, action: Callable[[], Any], name: str, kind: type[DataError]) -> Any:
        """Persist, and say what remained in an error that names the file."""
        here = self._here()
        between = (": " if self.address.scheme == "pipe" else "/") if name else ""
        about = f"{self.location}{between}{name}"
        try:
            return persist(action, about, self.options, lambda: here.count("retries"))
        except GivenUp as given_up:
            gone = given_up
        # Outside the except clause: what the library said, with whatever is in it, must not travel with our error.
        raise self._error(gone, about, name, kind)

    def _error(self, gone: GivenUp, about: str, name: str, kind: type[DataError]) -> DataError:
        message = f"{about}: {gone.failure.message}"
        if gone.tries > 1:
            message += f", after {gone.tries} tries"
        damaged = gone.changed or gone.failure.status == 416
        if damaged:
            message += "; the set was changed after it was indexed or is damaged: bring it there again with its index"
        elif gone.failure.status in (401, 403):
            message += f"; credentials come from {CREDENTIALS[self.address.scheme]}"
        elif gone.failure.status == 404 and name == INDEX_NAME:
            message += "; index the set where it was made (`bias-train shards index`) and bring the index there"
        if kind is SampleError:
            return SampleError("checksum" if damaged else "unreadable", message)
        return DataError(message)

    def _path(self, shard: ShardInfo) -> Path:
        """Where the cache keeps a shard: by its set, its name and its checksum, so that no two versions ever meet."""
        version = sha256(f"{shard.name}\n{shard.sha256}".encode()).hexdigest()[:20]
        readable = re.sub(r"[^\w.-]+", "_", shard.name.removesuffix(".tar"), flags=re.ASCII)[-60:].lstrip(".")
        return self._here().folder / f"{readable}-{version}.tar"


def _read_memo(path: Path) -> dict[str, Any]:
    try:
        memo = json.loads(path.read_bytes())
        return memo if isinstance(memo["file"], str) and isinstance(memo["size"], int) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_memo(path: Path, memo: dict[str, Any]) -> None:
    begun = path.with_name(f"{path.name}.{os.getpid()}.new")
    with contextlib.suppress(OSError):  # without it the index is fetched again, no more
        begun.write_text(json.dumps(memo))
        os.replace(begun, path)


def open_store(location: str, *, cache: CacheOptions | None = None) -> RemoteStore:
    """Open a shard set that lies elsewhere; nothing is fetched yet.

    Args:
        location: ``https://host/set``, ``s3://bucket/set``, ``gs://bucket/set``, or ``pipe:COMMAND`` with ``{name}`` in
            the place of the file's name.
        cache: of this machine.

    Raises:
        DataError: for a location that is none or holds a secret, a missing package, or a cache that cannot be used.

    Example::

        store = open_store("pipe:ssh data@host cat /sets/photos/{name}")
        index = store.index_file()
    """
    address = Location.parse(location)
    require_packages(address)
    store = RemoteStore(address, cache or CacheOptions())
    store.options.root()
    return store
