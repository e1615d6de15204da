"""The options of the cache between a remote shard set and the stream."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import DataError


@dataclass(frozen=True)
class CacheOptions:
    """Where remote shards are kept, and how patiently they are fetched.

    Attributes:
        folder: cache shared by all processes of a machine, on a local disk (file locks of network file systems cannot
            be relied on); None takes $BIAS_TRAIN_CACHE, else a folder of yours in $SLURM_TMPDIR or the system's folder
            for temporary files.
        limit_gb: the cache never holds more than this, in 10^9 bytes.
        retries: attempts after the first to fetch a file.
        timeout_s: seconds without a single byte after which an attempt has failed, and to wait for room in a cache
            whose shards are all being read.
        backoff_s: pause before the first retry, in seconds; doubled from one to the next, up to 30, give or take half.
        downloads: files that one process fetches ahead at once.

    Raises:
        DataError: naming the option that makes no sense.
    """

    folder: str | None = None
    limit_gb: float = 200.0
    retries: int = 8
    timeout_s: float = 60.0
    backoff_s: float = 0.5
    downloads: int = 4

    def __post_init__(self) -> None:
        for name, low, excluded in (
            ("limit_gb", 0, True),
            ("retries", 0, False),
            ("timeout_s", 0, True),
            ("backoff_s", 0, False),
            ("downloads", 1, False),
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or value < low or (excluded and value == low):
                raise DataError(
                    f"data.cache.{name} must be {'more than' if excluded else 'at least'} {low}, got {value}"
                )

    @property
    def limit(self) -> int:
        """The bound in bytes."""
        return int(self.limit_gb * 1e9)

    def root(self) -> Path:
        """Make the cache's folder and return it.

        Raises:
            DataError: if it cannot be made or written, or is another user's.
        """
        named = self.folder or os.environ.get("BIAS_TRAIN_CACHE")
        if named:
            root = Path(named).expanduser().absolute()
        else:
            scratch = os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()
            root = Path(scratch).absolute() / f"bias-train-{os.getuid()}"
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = root.stat().st_uid
        except OSError as error:
            raise DataError(f"{root}: cannot be the cache ({error.strerror}); set data.cache.folder") from error
        if not named and owner != os.getuid():
            # Anybody may make a folder of this name among the temporary files, and put into it what they like.
            raise DataError(f"{root}: belongs to another user; set data.cache.folder")
        if not os.access(root, os.W_OK | os.X_OK):
            raise DataError(f"{root}: cannot be written; set data.cache.folder")
        return root
