"""The index of a shard set: where every picture lies and what it is, without opening a tar."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.errors import DataError
from datamodules.problems import Problems
from datamodules.sample import ANCHOR, REAL, Sample, check_name
from datamodules.shard_scan import CaptionFormat, Scan, foreign_captions, parse_json, text_captions

INDEX_NAME = "index.parquet"
INDEX_VERSION = 1
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


class Strings(Sequence[str]):
    """A column of strings in one buffer: a fifth of the memory of a list, and cheap to hand to a worker."""

    def __init__(self, values: pa.Array | Sequence[str]) -> None:
        self.arrow: pa.Array = values if isinstance(values, pa.Array) else pa.array(values, pa.string())

    def __len__(self) -> int:
        return len(self.arrow)

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return self.arrow[at].to_pylist()
        return self.arrow[int(at)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.arrow), 4096):
            yield from self.arrow[start : start + 4096].to_pylist()

    def take(self, rows: npt.NDArray[Any]) -> Strings:
        """Select rows by number."""
        return Strings(self.arrow.take(pa.array(rows, pa.int64())))


class _Descriptor:
    """An open file that closes when its last user lets go of it, be it evicted from the cache meanwhile or not."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@dataclass(eq=False)
class ShardIndex:
    """Where every picture of a shard set lies. S samples, V pictures (each sample's anchor first, then its views).

    Attributes:
        folder: the shards' folder.
        shards: the tars, in the order of the numbers in ``shard``.
        keys: [S] sample keys.
        shard: [S] int32 number of the tar.
        label: [S] int32 class, -1 for none.
        labels: class names, sorted.
        group: [S] int64 ``string_id`` of the group's name (the key where the sample names none).
        caption_count: [S] int16.
        caption_format: [S] uint8, see :class:`CaptionFormat`.
        json_offset: [S] int64 first byte of the json (or txt) that holds the captions, within the tar.
        json_size: [S] int32 its length.
        view_start: [S + 1] int64; the pictures of sample i are ``view_start[i] : view_start[i + 1]``.
        view_name: [V] int16 code into ``view_names``.
        view_names: names of views; the first is "", the anchor's.
        view_source: [V] int16 code into ``sources``.
        sources: source names; the first is "real", then the generators in sorted order.
        offset: [V] int64 first byte of the picture within the tar.
        size: [V] int32 its length in bytes.
        problems: what was left out when the tars were indexed.
    """

    folder: Path
    shards: tuple[ShardInfo, ...]
    keys: Strings
    shard: npt.NDArray[np.int32]
    label: npt.NDArray[np.int32]
    labels: tuple[str, ...]
    group: npt.NDArray[np.int64]
    caption_count: npt.NDArray[np.int16]
    caption_format: npt.NDArray[np.uint8]
    json_offset: npt.NDArray[np.int64]
    json_size: npt.NDArray[np.int32]
    view_start: npt.NDArray[np.int64]
    view_name: npt.NDArray[np.int16]
    view_names: tuple[str, ...]
    view_source: npt.NDArray[np.int16]
    sources: tuple[str, ...]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int32]
    problems: Problems = field(default_factory=Problems)

    def __post_init__(self) -> None:
        self._descriptor = lru_cache(maxsize=_MAX_OPEN)(_Descriptor)

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay in the process that opened them.
        return {name: value for name, value in self.__dict__.items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.keys)

    def __repr__(self) -> str:
        return f"ShardIndex({str(self.folder)!r}, {len(self.shards)} shards, {len(self)} samples)"

    # Reading pictures and descriptions -------------------------------------------------------------------------------

    def read_bytes(self, shard: int, offset: int, size: int) -> bytes:
        """Read a stretch of one tar.

        ``pread`` carries its own position, so threads and forked workers may share what is open.

        Raises:
            DataError: if the tar is gone or shorter than when it was indexed.
        """
        path = self.folder / self.shards[shard].name
        try:
            # Held by name until the read is done: another thread may evict it from the cache meanwhile.
            descriptor = self._descriptor(str(path))
            data = os.pread(descriptor.number, int(size), int(offset))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise DataError(f"{path}: is shorter than its index says; {_reindex(self.folder)}")
        return data

    def sample(self, row: int) -> Sample:
        """Read what is known of a sample.

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

    # Parts and unions ------------------------------------------------------------------------------------------------

    def select(self, rows: npt.NDArray[Any]) -> ShardIndex:
        """Keep some samples.

        Args:
            rows: [n] sample numbers, or [S] bool.
        """
        rows = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows, dtype=np.int64)
        counts = np.diff(self.view_start)[rows]
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        pictures = np.arange(start[-1]) - np.repeat(start[:-1] - self.view_start[rows], counts)
        samples = np.bincount(self.shard[rows], minlength=len(self.shards))
        return ShardIndex(
            folder=self.folder,
            shards=tuple(info._replace(samples=int(n)) for info, n in zip(self.shards, samples, strict=True)),
            keys=self.keys.take(rows),
            view_start=start,
            labels=self.labels,
            view_names=self.view_names,
            sources=self.sources,
            problems=self.problems,
            **{name: getattr(self, name)[rows] for name in _SAMPLE_COLUMNS},
            **{name: getattr(self, name)[pictures] for name in _VIEW_COLUMNS},
        )

    def without_empty_shards(self) -> ShardIndex:
        """Drop tars that no sample lies in, so that they need not be on disk."""
        used = np.array([info.samples > 0 for info in self.shards], dtype=bool)
        renumbered = (np.cumsum(used) - 1).astype(np.int32)
        shards = tuple(info for info in self.shards if info.samples)
        return replace(self, shards=shards, shard=renumbered[self.shard])

    # Storage ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path | None = None) -> Path:
        """Write the index beside the shards (or elsewhere), whole or not at all.

        Raises:
            DataError: if the folder cannot be written.
        """
        target = Path(path) if path is not None else self.folder / INDEX_NAME
        offsets = pa.array(self.view_start.astype(np.int32), pa.int32())
        columns = {"key": self.keys.arrow}
        columns |= {name: pa.array(getattr(self, name)) for name in _SAMPLE_COLUMNS}
        columns |= {name: pa.ListArray.from_arrays(offsets, pa.array(getattr(self, name))) for name in _VIEW_COLUMNS}
        about = {
            "version": INDEX_VERSION,
            "shards": [info._asdict() for info in self.shards],
            "labels": self.labels,
            "view_names": self.view_names,
            "sources": self.sources,
            "problems": self.problems.to_json(),
        }
        table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(about, ensure_ascii=False).encode()})
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        try:
            pq.write_table(table, partial, compression="zstd")
            os.replace(partial, target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(f"{target}: cannot be written ({error.strerror or error})") from error
        return target

    @classmethod
    def load(cls, path: str | Path | Sequence[str | Path], *, verify: bool = False) -> ShardIndex:
        """Read the index of a shard set and check that the set is still the one that was indexed.

        Args:
            path: the set's folder; its index.parquet; one of its tars, for that tar's samples alone; or several of
                these, joined.
            verify: compare checksums too, which reads every byte of every shard.

        Raises:
            DataError: if the index is missing, unreadable or of another version, or a shard is missing or changed.
        """
        if not isinstance(path, str | Path):
            return join_indexes([cls.load(one, verify=verify) for one in path])
        given = Path(path).expanduser()
        folder = given if given.is_dir() else given.parent
        if not given.exists():
            raise DataError(f"{given}: there is no such shard set")
        file = given if given.is_file() and given.suffix == ".parquet" else folder / INDEX_NAME
        if not file.is_file():
            raise DataError(f"{folder}: has no index; {_reindex(folder)}")
        index = cls._read(file, folder)
        if given.suffix == ".tar":
            names = [info.name for info in index.shards]
            if given.name not in names:
                raise DataError(f"{given}: is not in the index of its folder; {_reindex(folder)}")
            index = index.select(index.shard == names.index(given.name)).without_empty_shards()
        else:
            index._warn_of_strangers()
        index.check(verify=verify)
        return index

    @classmethod
    def _read(cls, file: Path, folder: Path) -> ShardIndex:
        try:
            # Without threads and page buffering ahead, which would triple the memory of a large index.
            table = pq.read_table(file, use_threads=False, pre_buffer=False)
            about = json.loads((table.schema.metadata or {})[_METADATA])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise DataError(f"{file}: is no index of shards ({type(error).__name__}); {_reindex(folder)}") from error
        if about.get("version") != INDEX_VERSION:
            raise DataError(
                f"{file}: is an index of version {about.get('version')}, this release reads {INDEX_VERSION}; "
                f"{_reindex(folder)}"
            )
        lists = {name: _one_array(table[name]) for name in _VIEW_COLUMNS}
        start = lists["offset"].offsets.to_numpy().astype(np.int64)
        index = cls(
            folder=folder,
            shards=tuple(ShardInfo(**info) for info in about["shards"]),
            keys=Strings(_one_array(table["key"])),
            view_start=start - start[0],
            labels=tuple(about["labels"]),
            view_names=tuple(about["view_names"]),
            sources=tuple(about["sources"]),
            problems=Problems.from_json(about["problems"]),
            **{name: _one_array(table[name]).to_numpy() for name in _SAMPLE_COLUMNS},
            **{name: lists[name].flatten().to_numpy() for name in _VIEW_COLUMNS},
        )
        del table, lists
        pa.default_memory_pool().release_unused()
        return index

    def check(self, *, verify: bool = False) -> None:
        """Compare the shards on disk with what was indexed.

        Args:
            verify: compare checksums, not only sizes.

        Raises:
            DataError: naming the shard that is missing or changed.
        """
        for info in self.shards:
            path = self.folder / info.name
            try:
                size = path.stat().st_size
            except OSError as error:
                raise DataError(
                    f"{path}: the index lists this shard but it is not there; bring it back, or {_reindex(self.folder)}"
                ) from error
            if size != info.bytes:
                raise DataError(
                    f"{path}: has {size} bytes but had {info.bytes} when it was indexed; {_reindex(self.folder)}"
                )
            if verify and file_sha256(path) != info.sha256:
                raise DataError(
                    f"{path}: its checksum is not the one that was indexed; copy it again, or {_reindex(self.folder)}"
                )

    def _warn_of_strangers(self) -> None:
        known = {info.name for info in self.shards}
        strangers = sorted(path.name for path in self.folder.glob("*.tar") if path.name not in known)
        if strangers:
            more = f" and {len(strangers) - 1} more shards are" if len(strangers) > 1 else " is"
            warnings.warn(
                f"{self.folder}: {strangers[0]}{more} not in the index and will not be used; {_reindex(self.folder)}",
                stacklevel=3,
            )


_METADATA = b"bias_train"
_SAMPLE_COLUMNS = ("shard", "label", "group", "caption_count", "caption_format", "json_offset", "json_size")
_VIEW_COLUMNS = ("view_name", "view_source", "offset", "size")


def _reindex(folder: Path) -> str:
    return f"run `bias-train shards index {folder}`"


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def file_sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _recoded(names: Sequence[str], codes: Any, order: Sequence[str], dtype: type[np.signedinteger[Any]]) -> Any:
    """Codes of one table of names as codes of another; -1 stays."""
    place = {name: number for number, name in enumerate(order)}
    table = np.array([place[name] for name in names] + [-1], dtype=dtype)
    return table[np.asarray(codes, dtype=np.int64)]


def _index_of(scan: Scan, folder: Path, shards: tuple[ShardInfo, ...]) -> ShardIndex:
    labels = tuple(sorted(scan.labels))
    sources = (REAL, *sorted(scan.sources.keys() - {REAL}))
    view_names = (ANCHOR, *sorted(scan.view_names.keys() - {ANCHOR}))
    return ShardIndex(
        folder=folder,
        shards=shards,
        keys=Strings(scan.keys),
        shard=np.array(scan.shard, dtype=np.int32),
        label=_recoded(list(scan.labels), scan.label, labels, np.int32),
        labels=labels,
        group=np.array(scan.group, dtype=np.int64),
        caption_count=np.array(scan.caption_count, dtype=np.int16),
        caption_format=np.array(scan.caption_format, dtype=np.uint8),
        json_offset=np.array(scan.json_offset, dtype=np.int64),
        json_size=np.array(scan.json_size, dtype=np.int32),
        view_start=np.concatenate([[0], np.array(scan.view_end, dtype=np.int64)]),
        view_name=_recoded(list(scan.view_names), scan.view_name, view_names, np.int16),
        view_names=view_names,
        view_source=_recoded(list(scan.sources), scan.view_source, sources, np.int16),
        sources=sources,
        offset=np.array(scan.offset, dtype=np.int64),
        size=np.array(scan.size, dtype=np.int32),
        problems=scan.problems,
    )


def join_indexes(indexes: Sequence[ShardIndex]) -> ShardIndex:
    """Join shard sets into one, their tables of names united.

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
        key = counts.field("values")[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()].as_py()
        holders = [str(index.folder) for index in indexes if pc.is_in(pa.array([key]), index.keys.arrow)[0].as_py()]
        raise DataError(
            f"key {key!r} occurs twice in {' and '.join(holders)}: give a set once only, or index one of them with "
            "--key-prefix if they hold different pictures"
        )
    labels = tuple(sorted({name for index in indexes for name in index.labels}))
    sources = (REAL, *sorted({name for index in indexes for name in index.sources} - {REAL}))
    view_names = (ANCHOR, *sorted({name for index in indexes for name in index.view_names} - {ANCHOR}))
    problems = Problems()
    for index in indexes:
        problems.update(index.problems)
    first_shard = np.cumsum([0] + [len(index.shards) for index in indexes])
    first_picture = np.cumsum([0] + [len(index.offset) for index in indexes])
    plain = [name for name in (*_SAMPLE_COLUMNS, *_VIEW_COLUMNS) if name not in ("shard", "label", *_CODED)]
    return ShardIndex(
        folder=folder,
        shards=tuple(
            info._replace(name=os.path.relpath(index.folder.resolve() / info.name, folder))
            for index in indexes
            for info in index.shards
        ),
        keys=Strings(keys),
        shard=np.concatenate([index.shard + n for index, n in zip(indexes, first_shard, strict=False)]).astype(
            np.int32
        ),
        label=np.concatenate([_recoded(index.labels, index.label, labels, np.int32) for index in indexes]),
        labels=labels,
        view_start=np.concatenate(
            [[0], *(index.view_start[1:] + n for index, n in zip(indexes, first_picture, strict=False))]
        ).astype(np.int64),
        view_name=np.concatenate(
            [_recoded(index.view_names, index.view_name, view_names, np.int16) for index in indexes]
        ),
        view_names=view_names,
        view_source=np.concatenate(
            [_recoded(index.sources, index.view_source, sources, np.int16) for index in indexes]
        ),
        sources=sources,
        problems=problems,
        **{name: np.concatenate([getattr(index, name) for index in indexes]) for name in plain},
    )


_CODED = ("view_name", "view_source")
