"""Keeps what was read, so that no picture is read twice by the same engine in the same way."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.decode import Picture
from datamodules.errors import DataError, SampleError
from datamodules.ocr.engine import TextReader
from datamodules.reencode import decode_rgb
from datamodules.text_spans import META, PictureText, Span

FILE = "texts.sqlite"
_WAIT_S = 120.0  # for other processes' writing


class TextCache:
    """Texts of pictures in one file (SQLite), by the picture's bytes and by all that decides how they were read.

    Any number of processes may use it at once, also of several machines where the file system has locks; a kill leaves
    what was kept before it. Can be sent to another process.

    Args:
        folder: where the file lies; made if need be.

    Raises:
        DataError: if it cannot be written, or holds something else.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder).expanduser() / FILE
        self._connection: sqlite3.Connection | None = None
        self._process = -1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.path.parent}: cannot be written ({error.strerror})") from error
        with self._use() as texts:
            texts.execute(
                "CREATE TABLE IF NOT EXISTS texts (picture BLOB, reader BLOB, text TEXT, PRIMARY KEY (picture, reader))"
                " WITHOUT ROWID"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connection": None, "_process": -1}

    def get(self, picture: bytes, reader: bytes) -> PictureText | None:
        """What a reader found in a picture, None where it has not read it.

        Args:
            picture: digest of the picture.
            reader: digest of the reader.
        """
        with self._use() as texts:
            row = texts.execute("SELECT text FROM texts WHERE picture = ? AND reader = ?", (picture, reader)).fetchone()
        return None if row is None else PictureText.from_meta({META: json.loads(row[0])}, str(self.path))

    def put(self, picture: bytes, reader: bytes, text: PictureText) -> None:
        """Keep what a reader found in a picture."""
        entry = json.dumps(text.to_json(), ensure_ascii=False)
        with self._use() as texts:
            texts.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", (picture, reader, entry))

    def __len__(self) -> int:
        with self._use() as texts:
            return int(texts.execute("SELECT count(*) FROM texts").fetchone()[0])

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None or self._process != os.getpid():  # SQLite's files must not cross a fork
                self._connection = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)
                # A power cut may cost the last entries; waiting for the disk at each one would cost more.
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._process = os.getpid()
            yield self._connection
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path}: cannot be used as a cache of texts ({error}); give another folder, or remove the file"
            ) from error


class CachedReader:
    """A reader that looks into a cache first; reads as the reader does, cached or not.

    Args:
        reader: reads what is not there yet.
        cache: where it is kept; None keeps nothing.
    """

    def __init__(self, reader: TextReader, cache: TextCache | None = None) -> None:
        self.reader, self.cache = reader, cache
        self._digest = blake2b(json.dumps(reader.describe(), sort_keys=True).encode(), digest_size=16).digest()

    @property
    def name(self) -> str:
        """The reader's."""
        return self.reader.name

    def describe(self) -> dict[str, Any]:
        """The reader's."""
        return self.reader.describe()

    def read(self, image: Picture) -> tuple[Span, ...]:
        """Read a picture, see :class:`datamodules.ocr.engine.TextReader`; its key is its pixels."""
        head = f"pixels {image.shape} ".encode()
        return self._text(_digest(head, np.ascontiguousarray(image).tobytes()), lambda: image).spans

    def read_encoded(self, data: bytes, where: str) -> PictureText:
        """Read a picture as it stands in a file; its key is the file's bytes, so that a known one is not decoded.

        Args:
            data: JPEG, PNG, or what else Pillow decodes.
            where: names the picture, for the error.

        Raises:
            SampleError: if it cannot be decoded.
        """
        return self._text(_digest(b"file ", data), lambda: np.asarray(decoded(data, where)))

    def _text(self, key: bytes, picture: Any) -> PictureText:
        found = None if self.cache is None else self.cache.get(key, self._digest)
        if found is None:
            image: Picture = picture()
            text = PictureText((image.shape[1], image.shape[0]), self.reader.read(image), self.name)
            if self.cache is not None:
                self.cache.put(key, self._digest, text)
            # Rounded as it is kept, so that the first run and the second do the same.
            found = PictureText.from_meta({META: text.to_json()}, "what was read")
            assert found is not None
        return found


def decoded(data: bytes, where: str) -> Image.Image:
    """Decode a picture to RGB.

    Raises:
        SampleError: if it cannot be; so that a broken picture is told from an engine that fails.
    """
    try:
        return decode_rgb(data, where)
    except DataError as error:
        raise SampleError("undecodable", str(error)) from error


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
