"""The index of a shard set: where every picture lies and what it is, without opening a tar."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import DataError, SampleError
from datamodules.index_file import INDEX_NAME, OLD_NAME, Columns, read_index, recoded, write_index
from datamodules.problems import Problems
from datamodules.remote import CacheOptions, is_remote, open_store
from datamodules.sample import ANCHOR, REAL, Sample, check_name
from datamodules.shard_scan import CaptionFormat, Scan, file_sha256, foreign_captions, parse_json, text_captions
from datamodules.store import FolderStore, ShardInfo, Store, reindex
from datamodules.strings import Strings

# A larger index, of millions of samples, is compared with its checksum on request only: a run must resume at once.
_READ_WHOLE = 2**28


@dataclass(eq=False)
class ShardIndex:
    """Where every picture of a shard set lies. S samples, V pictures (each sample's anchor first, then its views).

    Attributes:
        store: where the shards lie.
        shards: the tars, in the order of the numbers in ``shard``.
        columns: the table itself; its columns are attributes of the index too.
        labels: class names, sorted.
        view_names: names of views; the first is "", the anchor's.
        sources: source names; the first is "real", then the generators in sorted order.
        problems: what was left out when the tars were indexed.
        file: the index's file, where this is all of it and nothing else: loader workers map it anew.
    """

    store: Store
    shards: tuple[ShardInfo, ...]
    columns: Columns
    labels: tuple[str, ...]
    view_names: tuple[str, ...]
    sources: tuple[str, ...]
    problems: Problems = field(default_factory=Problems)
    file: Path | None = None

    def __post_init__(self) -> None:
        self._stamp = _stamp(self.file) if self.file is not None else None
        columns = self.columns
        self.keys = columns.keys
        self.shard, self.label, self.group = columns.shard, columns.label, columns.group
        self.caption_format = columns.caption_format
        self.json_offset, self.json_size = columns.json_offset, columns.json_size
        self.view_start = columns.view_start
        self.view_name, self.view_source = columns.view_name, columns.view_source
        self.offset, self.size, self.crc = columns.offset, columns.size, columns.crc

    def __reduce__(self) -> tuple[Callable[..., ShardIndex], tuple[Any, ...]]:
        # A mapped file is mapped again, so that all workers of a machine share its memory.
        if self.file is not None:
            return _reopen, (self.store, self.file, self._stamp)
        return ShardIndex, (
            self.store, self.shards, self.columns, self.labels, self.view_names, self.sources, self.problems
        )  # fmt: skip

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.keys)

    def __repr__(self) -> str:
        return f"ShardIndex({self.store.location!r}, {len(self.shards)} shards, {len(self)} samples)"

    @property
    def folder(self) -> Path:
        """The shards' folder.

        Raises:
            DataError: where they lie in no folder of this machine.
        """
        if isinstance(self.store, FolderStore):
            return self.store.folder
        raise DataError(f"{self.store.location}: these shards lie elsewhere; copy them here first")

    @cached_property
    def caption_count(self) -> npt.NDArray[np.int32]:
        """How many captions each sample has: int32 [S]."""
        start, anchor = self.columns.caption_start, self.view_start[:-1]
        return (start[anchor + 1] - start[anchor]).astype(np.int32)

    # Reading pictures and descriptions -------------------------------------------------------------------------------

    def read_bytes(self, shard: int, offset: int, size: int) -> bytes:
        """Read a stretch of one tar.

        Raises:
            SampleError: if the tar is gone, cannot be fetched or is not as long as when it was indexed.
        """
        info = self.shards[shard]
        if not 0 <= offset <= offset + size <= info.bytes:
            raise SampleError("unreadable", f"{self._path(shard)}: the index points outside of it; {self._reindex}")
        data = self.store.read(info, offset, size)
        if len(data) != size:
            raise SampleError("unreadable", f"{self._path(shard)}: is shorter than its index says; {self._reindex}")
        return data

    def read_picture(self, shard: int, offset: int, size: int, crc: int) -> bytes:
        """Read a picture's bytes and compare them with what was indexed.

        Raises:
            SampleError: as :meth:`read_bytes`, and where the checksum differs.
        """
        data = self.read_bytes(shard, offset, size)
        if zlib.crc32(data) != crc:
            raise SampleError(
                "checksum",
                f"{self._path(shard)}: was changed or damaged since it was indexed (at byte {offset}); copy it again, "
                f"or {self._reindex}",
            )
        return data

    def _path(self, shard: int) -> str:
        return f"{self.store.location}/{self.shards[shard].name}"

    @property
    def _reindex(self) -> str:
        return reindex(self.store.location)

    def captions(self, row: int, view: int = 0) -> tuple[str, ...]:
        """What is true of a sample's anchor or of a view.

        Args:
            row: the sample.
            view: 0 for the anchor, n for the n-th view. A view without captions of its own has its anchor's.
        """
        return tuple(self.columns.captions[slice(*self._captions_of(row, view))])

    def caption(self, row: int, view: int, number: int) -> str | None:
        """One of :meth:`captions`, counted round; None where there are none."""
        begin, end = self._captions_of(row, view)
        return self.columns.captions[begin + number % (end - begin)] if end > begin else None

    def has_own_captions(self, row: int, view: int) -> bool:
        """Whether a view has captions of its own; always true of an anchor that has any."""
        at = int(self.view_start[row]) + view
        return bool(self.columns.caption_start[at + 1] > self.columns.caption_start[at])

    def _captions_of(self, row: int, view: int) -> tuple[int, int]:
        start, first = self.columns.caption_start, int(self.view_start[row])
        begin, end = int(start[first + view]), int(start[first + view + 1])
        return (begin, end) if end > begin else (int(start[first]), int(start[first + 1]))

    def sample(self, row: int) -> Sample:
        """Read all that is known of a sample.

        Raises:
            DataError: naming the sample, if its description cannot be read.
        """
        key = self.keys[row]
        data = self.read_bytes(int(self.shard[row]), int(self.json_offset[row]), int(self.json_size[row]))
        kind = int(self.caption_format[row])
        if kind == CaptionFormat.TEXT:
            return Sample(key, text_captions(data), self._source_of(row))
        obj = parse_json(data, key)
        if kind == CaptionFormat.JSON:
            return Sample(key, foreign_captions(obj), self._source_of(row), meta=obj)
        return Sample.from_json(key, obj)

    def _source_of(self, row: int) -> str:
        return self.sources[int(self.view_source[self.view_start[row]])]

    # Parts -----------------------------------------------------------------------------------------------------------

    def select(self, rows: npt.NDArray[Any]) -> ShardIndex:
        """Keep some samples.

        Args:
            rows: [n] sample numbers, or [S] bool.
        """
        rows = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows, dtype=np.int64)
        samples = np.bincount(self.shard[rows], minlength=len(self.shards))
        shards = tuple(info._replace(samples=int(n)) for info, n in zip(self.shards, samples, strict=True))
        return replace(self, shards=shards, columns=self.columns.take(rows), file=None)

    def without_empty_shards(self) -> ShardIndex:
        """Drop tars that no sample lies in, so that they need not be on disk."""
        used = np.array([info.samples > 0 for info in self.shards], dtype=bool)
        renumbered = (np.cumsum(used) - 1).astype(np.int32)
        shards = tuple(info for info in self.shards if info.samples)
        return replace(self, shards=shards, columns=replace(self.columns, shard=renumbered[self.shard]), file=None)

    # Storage ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path | None = None) -> Path:
        """Write the index beside the shards (or elsewhere), whole or not at all.

        Raises:
            DataError: if the folder cannot be written.
        """
        target = Path(path) if path is not None else self.folder / INDEX_NAME
        about = {
            "shards": [info._asdict() for info in self.shards],
            "labels": self.labels,
            "view_names": self.view_names,
            "sources": self.sources,
            "problems": self.problems.to_json(),
        }
        write_index(target, self.columns, about)
        return target

    @classmethod
    def load(
        cls, path: str | Path | Sequence[str | Path], *, verify: bool = False, cache: CacheOptions | None = None
    ) -> ShardIndex:
        """Read the index of a shard set and check that the set is still the one that was indexed.

        Args:
            path: the set's folder; its index file; one of its tars, for that tar's samples alone; or several of these,
                joined. Also the URL or pipe of a set that lies elsewhere, see :func:`datamodules.remote.open_store`.
            verify: compare checksums too, which reads every byte of every shard. What lies elsewhere is always
                compared when it is fetched.
            cache: of shards that lie elsewhere.

        Raises:
            DataError: if the index is missing, unreadable or of another version, or a shard is missing or changed.
        """
        if not isinstance(path, str | Path):
            return join_indexes([cls.load(one, verify=verify, cache=cache) for one in path])
        if isinstance(path, str) and is_remote(path):
            remote = open_store(path, cache=cache)
            fetched = remote.index_file()
            index = cls.open(fetched, remote, whole=verify or fetched.stat().st_size < _READ_WHOLE)
            index.check()
            return index
        given = Path(path).expanduser()
        folder = given if given.is_dir() else given.parent
        if not given.exists():
            raise DataError(f"{given}: there is no such shard set")
        file = given if given.is_file() and given.suffix == ".arrow" else folder / INDEX_NAME
        if not file.is_file():
            old = "only one of an older release" if (folder / OLD_NAME).is_file() else "no index"
            raise DataError(f"{folder}: has {old}; {reindex(folder)}")
        index = cls.open(file, FolderStore(folder), whole=verify or file.stat().st_size < _READ_WHOLE)
        if given.suffix == ".tar":
            names = [info.name for info in index.shards]
            if given.name not in names:
                raise DataError(f"{given}: is not in the index of its folder; {reindex(folder)}")
            index = index.select(index.shard == names.index(given.name)).without_empty_shards()
        else:
            _warn_of_strangers(folder, index)
        index.check(verify=verify)
        return index

    @classmethod
    def open(cls, file: Path, store: Store, *, whole: bool = False) -> ShardIndex:
        """Map an index file.

        Args:
            file: the index.
            store: where its shards lie.
            whole: compare its checksum, which reads all of it.

        Raises:
            DataError: if it is no index, damaged or of another version.
        """
        columns, about = read_index(file, store.location, whole=whole)
        return cls(
            store=store,
            shards=tuple(ShardInfo(**info) for info in about["shards"]),
            columns=columns,
            labels=tuple(about["labels"]),
            view_names=tuple(about["view_names"]),
            sources=tuple(about["sources"]),
            problems=Problems.from_json(about["problems"]),
            file=file,
        )

    def check(self, *, verify: bool = False) -> None:
        """Compare the shards with what was indexed.

        Args:
            verify: compare checksums, not only sizes.

        Raises:
            DataError: naming the shard that is missing or changed.
        """
        self.store.check(self.shards)
        for info in self.shards if verify else ():
            if file_sha256(self.folder / info.name) != info.sha256:
                raise DataError(
                    f"{self.folder / info.name}: its checksum is not the one that was indexed; copy it again, or "
                    f"{self._reindex}"
                )


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _reopen(store: Store, file: Path, stamp: tuple[int, int, int]) -> ShardIndex:
    try:
        same = _stamp(file) == stamp
    except OSError:
        same = False
    if not same:
        raise DataError(f"{file}: was replaced while it was in use; start again, with --resume auto")
    return ShardIndex.open(file, store)


def _warn_of_strangers(folder: Path, index: ShardIndex) -> None:
    known = {info.name for info in index.shards}
    strangers = sorted(path.name for path in folder.glob("*.tar") if path.name not in known)
    if strangers:
        more = f" and {len(strangers) - 1} more shards are" if len(strangers) > 1 else " is"
        warnings.warn(
            f"{folder}: {strangers[0]}{more} not in the index and will not be used; {reindex(folder)}", stacklevel=3
        )


def build_index(
    path: str | Path | Sequence[str | Path],
    *,
    source: str | None = None,
    key_prefix: str = "",
    checksums: Mapping[str, str] | None = None,
    on_shard: Callable[[Path], None] | None = None,
) -> ShardIndex:
    """Index shards, whoever made them. ``save`` of the result writes it to disk.

    What cannot be used is left out, counted and reported in ``problems``: what follows a cut in a truncated tar, a
    sample without picture or caption, a json that cannot be read, a key met before. Whether a picture can be decoded
    is not looked at here.

    Args:
        path: a folder of tars, or one or several tars.
        source: source ("real" or a generator) of samples whose json does not say it, as in img2dataset's shards.
        key_prefix: put before every key, to keep apart sets whose keys are equal but whose pictures are not.
        checksums: SHA-256 by file name, where they are known already.
        on_shard: called with each tar when it has been read, for a progress bar.

    Raises:
        DataError: if there are no tars or no usable sample in them, if no sample's source is known, or if the set was
            written by another release.
    """
    folder, tars = find_tars(path)
    if source is not None:
        check_name(source, "source")
    scan, shards = Scan(), []
    for number, tar in enumerate(tars):
        name = os.path.relpath(tar, folder)
        samples = scan.read_shard(tar, number, source=source, key_prefix=key_prefix)
        checksum = (checksums or {}).get(name) or file_sha256(tar)
        shards.append(ShardInfo(name, samples, tar.stat().st_size, checksum))
        if on_shard is not None:
            on_shard(tar)
    if not scan.keys:
        if scan.problems.counts["source unknown"]:
            raise DataError(
                f"{folder}: the shards do not say if their pictures are real or by which generator: say it, as in "
                f"`bias-train shards index {folder} --source real`"
            )
        why = "; ".join(scan.problems.lines()) or "no picture with a caption was found"
        raise DataError(f"{folder}: no usable sample in {len(tars)} shards: {why}")
    return _index_of(scan, folder, tuple(shards))


def find_tars(path: str | Path | Sequence[str | Path]) -> tuple[Path, list[Path]]:
    """The tars that a folder, a tar or several tars stand for, in order, and the folder that they lie in.

    Raises:
        DataError: if one is missing, or the folder holds none.
    """
    if isinstance(path, str | Path):
        folder = Path(path).expanduser()
        if folder.is_dir():
            tars = sorted(folder.glob("*.tar"))
            if not tars:
                packed = sorted(folder.glob("*.tar.*"))
                hint = f"; {packed[0].name} is compressed, unpack it to a plain .tar" if packed else ""
                raise DataError(f"{folder}: holds no shards (*.tar){hint}")
            return folder, tars
        path = [path]
    tars = [Path(one).expanduser() for one in path]
    if not tars:
        raise DataError("no shards were given")
    for tar in tars:
        if not tar.is_file():
            raise DataError(f"{tar}: there is no such file or folder")
    return Path(os.path.commonpath([tar.resolve().parent for tar in tars])), [tar.resolve() for tar in tars]


def _index_of(scan: Scan, folder: Path, shards: tuple[ShardInfo, ...]) -> ShardIndex:
    labels = tuple(sorted(scan.labels))
    sources = (REAL, *sorted(scan.sources.keys() - {REAL}))
    view_names = (ANCHOR, *sorted(scan.view_names.keys() - {ANCHOR}))
    columns = Columns(
        keys=Strings(scan.keys),
        shard=np.array(scan.shard, dtype=np.int32),
        label=recoded(scan.label, list(scan.labels), labels),
        group=np.array(scan.group, dtype=np.int64),
        caption_format=np.array(scan.caption_format, dtype=np.uint8),
        json_offset=np.array(scan.json_offset, dtype=np.int64),
        json_size=np.array(scan.json_size, dtype=np.int32),
        view_start=np.concatenate([[0], np.array(scan.view_end, dtype=np.int64)]),
        view_name=recoded(scan.view_name, list(scan.view_names), view_names),
        view_source=recoded(scan.view_source, list(scan.sources), sources),
        offset=np.array(scan.offset, dtype=np.int64),
        size=np.array(scan.size, dtype=np.int32),
        crc=np.array(scan.crc, dtype=np.uint32),
        caption_start=np.concatenate([[0], np.array(scan.caption_end, dtype=np.int64)]),
        captions=Strings(scan.captions),
    )
    return ShardIndex(FolderStore(folder), shards, columns, labels, view_names, sources, scan.problems)


def join_indexes(indexes: Sequence[ShardIndex]) -> ShardIndex:
    """Join shard sets of this machine into one, their tables of names united.

    Raises:
        DataError: if two sets hold a sample of the same key.
    """
    if not indexes:
        raise DataError("no shard sets were given")
    if len(indexes) == 1:
        return indexes[0]
    folder = Path(os.path.commonpath([index.folder.resolve() for index in indexes]))
    keys = pa.concat_arrays([index.keys.arrow for index in indexes])
    if pc.count_distinct(keys).as_py() != len(keys):
        counts = pc.value_counts(keys)
        key = Strings(counts.field("values"))[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()]
        wanted = pa.array([key], pa.large_string())
        holders = [str(index.folder) for index in indexes if pc.is_in(wanted, index.keys.arrow)[0].as_py()]
        raise DataError(
            f"key {key!r} occurs twice in {' and '.join(holders)}: give a set once only, or index one of them with "
            "--key-prefix if they hold different pictures"
        )
    labels = tuple(sorted({name for index in indexes for name in index.labels}))
    sources = (REAL, *sorted({name for index in indexes for name in index.sources} - {REAL}))
    view_names = (ANCHOR, *sorted({name for index in indexes for name in index.view_names} - {ANCHOR}))
    problems, parts, first_shard = Problems(), [], 0
    for index in indexes:
        problems.update(index.problems)
        parts.append(
            replace(
                index.columns,
                shard=(index.shard + first_shard).astype(np.int32),
                label=recoded(index.label, index.labels, labels),
                view_name=recoded(index.view_name, index.view_names, view_names),
                view_source=recoded(index.view_source, index.sources, sources),
            )
        )
        first_shard += len(index.shards)
    shards = tuple(
        info._replace(name=os.path.relpath(index.folder.resolve() / info.name, folder))
        for index in indexes
        for info in index.shards
    )
    return ShardIndex(FolderStore(folder), shards, Columns.concatenate(parts), labels, view_names, sources, problems)
