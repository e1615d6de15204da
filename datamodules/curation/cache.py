"""What was read in pictures and how they scored, kept on disk by what it depends on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from datamodules.errors import DataError

_AT_ONCE = 500  # SQLite takes so many parameters in every build


class ResultCache:
    """A table from hashes to bytes in one SQLite file; one process writes, and what it committed survives a kill.

    Args:
        path: of the file; made with its folder where it does not exist.

    Raises:
        DataError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=60)
            # Without write-ahead: its shared memory does not work on network file systems.
            self._base.execute("CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{path}: cannot be used as a cache ({error}); remove it or name another folder") from error

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up; what is not there is left out."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            found.update(self._run(f"SELECT key, value FROM results WHERE key IN ({marks})", part))
        return found

    def put(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep some results; they are on disk when this returns."""
        if not entries:
            return
        try:
            with self._base:
                self._base.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", entries.items())
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: cannot be written ({error})") from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _run(self, query: str, values: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
        try:
            return self._base.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: cannot be read ({error}); remove it to begin anew") from error


def cache_key(*parts: Any) -> bytes:
    """Hash of what a result depends on: anything that JSON knows."""
    return blake2b(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode(), digest_size=16).digest()
