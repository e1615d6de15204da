"""Writes a shard set: tar files that webdataset reads, and their index."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from webdataset.writer import TarWriter

from datamodules.errors import DataError
from datamodules.index import ShardIndex, build_index
from datamodules.index_file import INDEX_NAME, OLD_NAME
from datamodules.reencode import Encoded, ImageFormat, RawImage
from datamodules.sample import Sample

_PARTIAL = ".partial"


class _HashedFile:
    """A file that takes its SHA-256 while it is written, so that nobody need read it again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 - closed by the writer

    def write(self, data: bytes) -> int:
        if self._file.closed:
            return len(data)  # given up: tarfile still wants to write its end mark
        self.digest.update(data)
        return self._file.write(data)

    def give_up(self) -> None:
        """Close without caring what becomes of the bytes."""
        with contextlib.suppress(OSError):
            self._file.close()

    def close(self) -> None:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


class ShardWriter:
    """Write samples to shards of a folder; on leaving, the index.

    A set appears whole or not at all: shards carry another name until all of them and the index are written, and an
    exception removes them. Equal input gives equal bytes.

    Args:
        folder: where the shards go; made if it is missing.
        samples_per_shard: samples in each shard but the last.
        image_format: how pictures are encoded; by default all alike.
        overwrite: replace the shard set that the folder holds.

    Raises:
        DataError: if the folder holds shards and ``overwrite`` is not set, or cannot be written.

    Example::

        with ShardWriter("photos") as writer:
            writer.write(Sample("cat-1", ("a cat",), views={"sd-1.4": View("sd-1.4")}), photo, {"sd-1.4": twin})
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        samples_per_shard: int = 1000,
        image_format: ImageFormat | None = None,
        overwrite: bool = False,
    ) -> None:
        if samples_per_shard < 1:
            raise DataError(f"samples per shard {samples_per_shard}: must be 1 or more")
        self.folder = Path(folder).expanduser()
        self.image_format = image_format or ImageFormat()
        self.samples_per_shard = samples_per_shard
        self._overwrite = overwrite
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be made into a folder of shards ({error.strerror})") from error
        if self._old() and not overwrite:
            raise DataError(
                f"{self.folder}: holds shards already; choose another folder, or replace them (--overwrite)"
            )
        for leftover in self.folder.glob(f"*{_PARTIAL}"):  # of a process that was killed
            leftover.unlink()
        self._keys: set[str] = set()
        self._checksums: dict[str, str] = {}
        self._file: _HashedFile | None = None
        self._tar: TarWriter | None = None
        self._in_shard = 0
        self.index: ShardIndex | None = None

    def _old(self) -> list[Path]:
        return sorted([*self.folder.glob("*.tar"), *self.folder.glob(INDEX_NAME), *self.folder.glob(OLD_NAME)])

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __len__(self) -> int:
        """Return the samples written so far."""
        return len(self._keys)

    def write(
        self, sample: Sample, image: RawImage | Encoded, views: Mapping[str, RawImage | Encoded] | None = None
    ) -> None:
        """Add one sample.

        Args:
            sample: its description; its key must be new.
            image: the anchor: encoded bytes, a Pillow image, or uint8 [H, W, 3]. What ``image_format.encode`` returned
                (in another thread, say) is written as it is.
            views: the pictures of the sample's views, by the same names.

        Raises:
            DataError: naming the sample: a key met twice, a picture that cannot be decoded, views that do not match.
                Nothing of the sample is written then, and the next one may follow.
        """
        views = views or {}
        if sample.key in self._keys:
            raise DataError(f"sample {sample.key!r}: this key was written already; keys must be unique in a shard set")
        if sample.views.keys() != views.keys():
            raise DataError(
                f"sample {sample.key!r}: describes the views {sorted(sample.views)} but {sorted(views)} were given"
            )
        members: dict[str, Any] = {"__key__": sample.key}
        try:
            text = json.dumps(sample.to_json(), ensure_ascii=False, allow_nan=False, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise DataError(f"sample {sample.key!r}, field 'meta': cannot be written as JSON ({error})") from error
        members["json"] = text.encode()
        for name, picture in {"": image, **views}.items():
            where = f"sample {sample.key!r}" + (f", view {name!r}" if name else "")
            encoded = picture if isinstance(picture, Encoded) else self.image_format.encode(picture, where)
            members[f"{name}.{encoded.extension}" if name else encoded.extension] = encoded.data
        try:
            self._shard().write(members)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error.strerror})") from error
        self._keys.add(sample.key)
        self._in_shard += 1

    def _shard(self) -> TarWriter:
        if self._tar is not None and self._in_shard < self.samples_per_shard:
            return self._tar
        self._finish_shard()
        self._file = _HashedFile(self.folder / f"shard-{len(self._checksums):06d}.tar{_PARTIAL}")
        # PAX: keys may be longer than the 100 bytes of older headers, and in any alphabet.
        self._tar = TarWriter(self._file, encoder=False, mtime=0, compress=False, user="", group="")
        self._tar.tarstream.format = tarfile.PAX_FORMAT
        self._in_shard = 0
        return self._tar

    def _finish_shard(self) -> None:
        if self._tar is None or self._file is None:
            return
        self._tar.close()
        self._file.close()
        self._checksums[self._file.path.name.removesuffix(_PARTIAL)] = self._file.digest.hexdigest()
        self._tar = self._file = None

    def close(self) -> None:
        """Finish the last shard, put the set in place and write its index.

        Raises:
            DataError: if no sample was written, or the disk is full.
        """
        if self.index is not None:
            return
        if not self._keys:
            self.abort()
            raise DataError(f"{self.folder}: no sample was written, so there is no shard set")
        try:
            self._finish_shard()
            for path in self._old() if self._overwrite else []:
                path.unlink()
            for name in self._checksums:
                os.replace(self.folder / (name + _PARTIAL), self.folder / name)
            self.index = build_index(self.folder, checksums=self._checksums)
            self.index.save()
        except OSError as error:
            self.abort()
            raise DataError(f"{self.folder}: cannot be written ({error.strerror})") from error

    def abort(self) -> None:
        """Remove what was not put in place yet."""
        if self._file is not None:
            self._file.give_up()
        if self._tar is not None:
            self._tar.close()
        self._tar = self._file = None
        for leftover in self.folder.glob(f"*{_PARTIAL}"):
            leftover.unlink()
