"""Fetches files over http(s), s3 and gs, by fsspec."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Protocol

from datamodules.errors import DataError
from datamodules.remote.failures import Broken, explain
from datamodules.remote.locations import Location
from datamodules.remote.options import CacheOptions
from datamodules.remote.pipe import PipeTransport
from datamodules.remote.sink import Sink

_PACKAGES = {
    "http": ("fsspec", "aiohttp"),
    "https": ("fsspec", "aiohttp"),
    "s3": ("fsspec", "s3fs"),
    "gs": ("fsspec", "gcsfs"),
}
# Large enough for the time to the first byte not to matter, small enough for a handful of them in memory.
_PIECE = 16 * 1024 * 1024


class Transport(Protocol):
    """Reads files of one remote folder. Its exceptions are explained by :func:`datamodules.remote.failures.explain`."""

    def fetch(self, name: str, sink: Sink) -> None:
        """Read a file into a sink, from the sink's position if that can be."""

    def validator(self, name: str) -> dict[str, str] | None:
        """What changes when the file does; None where nothing tells."""

    def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        """Sizes in bytes of some or all of these files; None for one that is not there."""


def open_transport(location: Location, options: CacheOptions) -> Transport:
    """Choose the transport of a location; nothing is connected yet.

    Raises:
        DataError: if a package is missing.
    """
    if location.scheme == "pipe":
        return PipeTransport(location, options.timeout_s)
    require_packages(location)
    if location.scheme in ("http", "https"):
        return HttpTransport(location, options)
    return BucketTransport(location, options)


def require_packages(location: Location) -> None:
    """Fail where what reads a location is not installed.

    Raises:
        DataError: naming the package and how to get it.
    """
    for package in _PACKAGES.get(
        location.scheme.removesuffix("s") if location.scheme == "https" else location.scheme, ()
    ):
        if importlib.util.find_spec(package) is None:
            raise DataError(f"{location}: reading it needs the package {package}; pip install 'bias-train[remote]'")


class _FileSystem:
    """What http, s3 and gs have in common: an fsspec file system, made when it is first needed.

    Its copies in forked children would wait for an event loop that only the parent has; a store makes a new one there.
    """

    def __init__(self, location: Location, options: CacheOptions) -> None:
        self._location = location
        self._timeout_s = options.timeout_s
        self._made: Any = None
        self._making = threading.Lock()

    @property
    def _files(self) -> Any:
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        raise NotImplementedError

    def _address(self, name: str) -> str:
        return self._location.of(name)


class HttpTransport(_FileSystem):
    """Reads whole files in one request each; where one breaks off, the next asks for the rest."""

    def _make(self) -> Any:
        import fsspec

        # trust_env: ~/.netrc and the proxies of the environment.
        client = {"timeout": _patience(self._timeout_s), "trust_env": True, "auto_decompress": False}
        return fsspec.filesystem("http", client_kwargs=client, skip_instance_cache=True)

    def fetch(self, name: str, sink: Sink) -> None:
        """Read a file into a sink."""
        if sink.size is None:
            sink.restart()
        files = self._files
        from fsspec.callbacks import Callback

        start = sink.position
        announced: list[int | None] = [None]

        class Announced(Callback):
            def set_size(self, size: int | None) -> None:
                announced[0] = size

        class Body:
            """Decides at the first byte whether it is the file's first, for the server need not heed the range."""

            def __init__(self) -> None:
                self.fresh = bool(start)

            def write(self, data: bytes) -> int:
                if self.fresh and data:
                    self.fresh = False
                    if sink.size is None or announced[0] != sink.size - start:
                        sink.restart()
                return sink.write(data)

            def read(self) -> bytes:  # fsspec takes for a file only what has these three
                raise NotImplementedError

            def tell(self) -> int:
                return sink.position

            def close(self) -> None:
                pass

        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        files.get_file(self._address(name), Body(), callback=Announced(), headers=headers)

    def validator(self, name: str) -> dict[str, str] | None:
        """Take the ETag, or a time of change that lies far enough back to tell two versions apart."""
        info = self._files.info(self._address(name))
        if info.get("ETag"):
            return {"ETag": str(info["ETag"])} | ({"size": str(info["size"])} if info.get("size") is not None else {})
        changed = info.get("Last-Modified")
        if not changed or info.get("size") is None:
            return None
        try:
            age = time() - parsedate_to_datetime(changed).timestamp()
        except (TypeError, ValueError):
            return None
        # Told to the second: a file that changed just now may change again within it (RFC 9110, 8.8.2.2).
        return {"Last-Modified": changed, "size": str(info["size"])} if age > 60 else None

    def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        """Ask for some files spread over the set, for each takes a request; every shard is checked when it comes."""
        every = list(names)
        some = every[:: -(-len(every) // 32) or 1]
        found: dict[str, int | None] = {}
        for name in some:
            try:
                size = self._files.info(self._address(name)).get("size")
            except FileNotFoundError as error:
                if explain(error, self._timeout_s).status != 404:
                    raise
                found[name] = None
            else:
                found |= {name: int(size)} if size is not None else {}
        return found


class BucketTransport(_FileSystem):
    """Reads objects of s3 and gs piece by piece."""

    def _make(self) -> Any:
        import fsspec

        common = {"skip_instance_cache": True, "use_listings_cache": False}
        if self._location.scheme == "gs":
            from gcsfs.core import GCSFileSystem

            # The plain one: what fsspec would choose asks every bucket for its layout by gRPC first, which many
            # accounts may not do, and whose threads do not survive a fork.
            return GCSFileSystem(requests_timeout=_patience(self._timeout_s), **common)
        for name in ("botocore", "aiobotocore"):  # which write whole requests, session tokens included
            if logging.getLogger(name).getEffectiveLevel() < logging.INFO:
                logging.getLogger(name).setLevel(logging.INFO)
        patience = {"connect_timeout": self._timeout_s, "read_timeout": self._timeout_s}
        files = fsspec.filesystem("s3", config_kwargs={**patience, "retries": {"total_max_attempts": 1}}, **common)
        files.retries = 1  # tried again, counted and logged in one place only: ours
        return files

    def fetch(self, name: str, sink: Sink) -> None:
        """Read an object into a sink, from the sink's position on."""
        files, address = self._files, self._address(name)
        end = sink.size
        if end is None:
            sink.restart()
            end = int(files.info(address)["size"])
        while sink.position < end:
            stop = min(sink.position + _PIECE, end)
            data = files.cat_file(address, start=sink.position, end=stop)
            if len(data) > stop - sink.position:
                raise Broken("came whole where a piece was asked for", what="whole")
            if not data:
                raise Broken(f"broke off after {sink.position} of {end} bytes")
            sink.write(data)

    def validator(self, name: str) -> dict[str, str] | None:
        """Take the entity tag, or gs's number of the generation."""
        info = self._files.info(self._address(name))
        tags = {key: str(info[key]) for key in ("ETag", "etag", "generation", "size") if info.get(key) is not None}
        return tags if tags.keys() - {"size"} else None

    def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        """List the folders of these objects."""
        every = list(names)
        folders = {name.rpartition("/")[0] for name in every}
        sizes: dict[str, int] = {}
        for folder in folders:
            listed = self._files.ls(self._address(folder) if folder else str(self._location), detail=True)
            sizes |= {f"{folder}/{one['name'].rpartition('/')[2]}".lstrip("/"): int(one["size"]) for one in listed}
        return {name: sizes.get(name) for name in every}


def _patience(timeout_s: float) -> Any:
    """Wait that long for a connection and for the next byte, however long the whole may take."""
    import aiohttp

    return aiohttp.ClientTimeout(total=None, connect=None, sock_connect=timeout_s, sock_read=timeout_s)
