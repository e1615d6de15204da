"""The index's table and its file: an uncompressed Arrow file that every process maps instead of reading.

Eight ranks with eight workers each hold one copy of it between them, and a run that resumes finds its place at once.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datamodules.errors import DataError
from datamodules.sample import REAL
from datamodules.store import reindex
from datamodules.strings import Strings

INDEX_NAME = "index.arrow"
OLD_NAME = "index.parquet"  # of releases before 0.2
INDEX_VERSION = 2
_METADATA = b"bias_train"

_CAPTIONS = pa.large_list(pa.large_string())
_PICTURE = pa.struct(
    [
        ("view", pa.int16()),
        ("source", pa.int16()),
        ("offset", pa.int64()),
        ("size", pa.int32()),
        ("crc", pa.uint32()),
        ("captions", _CAPTIONS),
    ]
)
_SCHEMA = pa.schema(
    [
        ("key", pa.large_string()),
        ("shard", pa.int32()),
        ("label", pa.int32()),
        ("group", pa.int64()),
        ("caption_format", pa.uint8()),
        ("json_offset", pa.int64()),
        ("json_size", pa.int32()),
        ("pictures", pa.large_list(_PICTURE)),
    ]
)


@dataclass(frozen=True, eq=False)
class Columns:
    """The table: S samples, V pictures, C captions.

    Attributes:
        keys: [S] sample keys.
        shard: [S] int32 number of the tar.
        label: [S] int32 class, -1 for none.
        group: [S] int64 ``string_id`` of the group's name (the key where the sample names none).
        caption_format: [S] uint8, see :class:`datamodules.shard_scan.CaptionFormat`.
        json_offset: [S] int64 first byte of the json (or txt) that describes it, within the tar.
        json_size: [S] int32 its length.
        view_start: [S + 1] int64; the pictures of sample i are ``view_start[i] : view_start[i + 1]``.
        view_name: [V] int16 code of the view's name.
        view_source: [V] int16 code of the source.
        offset: [V] int64 first byte of the picture within the tar.
        size: [V] int32 its length in bytes.
        crc: [V] uint32 CRC-32 of its bytes.
        caption_start: [V + 1] int64; the captions of picture i are ``caption_start[i] : caption_start[i + 1]``, none
            for a view of which its anchor's captions are true.
        captions: [C] captions.
    """

    keys: Strings
    shard: npt.NDArray[np.int32]
    label: npt.NDArray[np.int32]
    group: npt.NDArray[np.int64]
    caption_format: npt.NDArray[np.uint8]
    json_offset: npt.NDArray[np.int64]
    json_size: npt.NDArray[np.int32]
    view_start: npt.NDArray[np.int64]
    view_name: npt.NDArray[np.int16]
    view_source: npt.NDArray[np.int16]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int32]
    crc: npt.NDArray[np.uint32]
    caption_start: npt.NDArray[np.int64]
    captions: Strings

    def take(self, rows: npt.NDArray[np.int64]) -> Columns:
        """Select samples by number."""
        view_start, pictures = _taken(self.view_start, rows)
        caption_start, captions = _taken(self.caption_start, pictures)
        return Columns(
            keys=self.keys.take(rows),
            **{name: getattr(self, name)[rows] for name in _OF_SAMPLES},
            view_start=view_start,
            **{name: getattr(self, name)[pictures] for name in _OF_PICTURES},
            caption_start=caption_start,
            captions=self.captions.take(captions),
        )

    def checksum(self) -> int:
        """CRC-32 of the whole table."""
        found = self.captions.crc(self.keys.crc())
        for name in (*_OF_SAMPLES, *_OF_PICTURES, "view_start", "caption_start"):
            found = zlib.crc32(np.ascontiguousarray(getattr(self, name)).data, found)
        return found

    @classmethod
    def concatenate(cls, parts: Sequence[Columns]) -> Columns:
        """Put tables one after the other; shards, labels, views and sources must share their codes already."""
        plain = (*_OF_SAMPLES, *_OF_PICTURES)
        return cls(
            keys=Strings(pa.concat_arrays([part.keys.arrow for part in parts])),
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in plain},
            view_start=_chained([part.view_start for part in parts]),
            caption_start=_chained([part.caption_start for part in parts]),
            captions=Strings(pa.concat_arrays([part.captions.arrow for part in parts])),
        )


def recoded(codes: Any, names: Sequence[str], order: Sequence[str]) -> npt.NDArray[Any]:
    """Turn codes of one table of names into codes of another; -1 stays. Equal tables copy nothing.

    Args:
        codes: integers, each a place in ``names``.
        names: the table that they are of.
        order: the table to go to, which holds all of ``names``.

    >>> recoded(np.array([0, 1, -1]), ["b", "a"], ["a", "b"])
    array([ 1,  0, -1])
    """
    codes = np.asarray(codes)
    if tuple(names) == tuple(order):
        return codes
    place = {name: number for number, name in enumerate(order)}
    return np.array([place[name] for name in names] + [-1], dtype=codes.dtype)[codes]


_OF_SAMPLES = ("shard", "label", "group", "caption_format", "json_offset", "json_size")
_OF_PICTURES = ("view_name", "view_source", "offset", "size", "crc")


def _taken(
    start: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Offsets of the chosen rows' children, and the children's numbers."""
    counts = np.diff(start)[rows]
    taken = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return taken, np.arange(taken[-1]) - np.repeat(taken[:-1] - start[rows], counts)


def _chained(starts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    ends = np.cumsum([0] + [int(start[-1]) for start in starts])
    return np.concatenate([[0], *(start[1:] + end for start, end in zip(starts, ends, strict=False))]).astype(np.int64)


def write_index(target: Path, columns: Columns, about: dict[str, Any]) -> None:
    """Write the file, whole or not at all.

    Args:
        target: the file.
        columns: the table.
        about: what else belongs to it, as JSON.

    Raises:
        DataError: if it cannot be written.
    """
    captions = pa.LargeListArray.from_arrays(pa.array(columns.caption_start), columns.captions.arrow)
    pictures = pa.StructArray.from_arrays(
        [
            pa.array(columns.view_name, pa.int16()),
            pa.array(columns.view_source, pa.int16()),
            pa.array(columns.offset, pa.int64()),
            pa.array(columns.size, pa.int32()),
            pa.array(columns.crc, pa.uint32()),
            captions,
        ],
        fields=list(_PICTURE),
    )
    batch = pa.record_batch(
        [
            columns.keys.arrow,
            *(pa.array(getattr(columns, name)) for name in _OF_SAMPLES),
            pa.LargeListArray.from_arrays(pa.array(columns.view_start), pictures),
        ],
        schema=_SCHEMA.with_metadata(
            {
                _METADATA: json.dumps(
                    {"version": INDEX_VERSION, "crc": _checksum(columns, about), **about}, ensure_ascii=False
                ).encode()
            }
        ),
    )
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{target}: cannot be written ({error.strerror or error})") from error


def read_index(file: Path, location: str, *, whole: bool) -> tuple[Columns, dict[str, Any]]:
    """Map the file.

    Args:
        file: the index's file.
        location: where its shards lie, for errors.
        whole: read all of it and compare its checksum; otherwise see only that no number leads out of it.

    Returns:
        The table, its arrays being parts of the mapped file; and what else was written with it.

    Raises:
        DataError: if it is no index, of another version, or does not hang together.
    """
    try:
        columns, about = _mapped(file, location)
        _check_about(about)
        rest = {name: about[name] for name in about if name not in ("version", "crc")}
        # Looked at through a mapping of its own, which is given up again: of the one that stays, only those pages take
        # memory that a run really needs.
        looked_at, _ = _mapped(file, location)
        _check(looked_at, about)
        if whole and _checksum(looked_at, rest) != about["crc"]:
            raise ValueError("its checksum differs")
    except DataError:
        raise
    except (pa.ArrowException, OSError, KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{file}: is no index of shards, or a damaged one ({why}); {reindex(location)}") from error
    return columns, rest


def _mapped(file: Path, location: str) -> tuple[Columns, dict[str, Any]]:
    with pa.memory_map(str(file)) as mapped:
        reader = pa.ipc.open_file(mapped)
        about = json.loads((reader.schema.metadata or {})[_METADATA])
        if about["version"] != INDEX_VERSION:
            raise DataError(
                f"{file}: is an index of version {about['version']}, this release reads {INDEX_VERSION}; "
                f"{reindex(location)}"
            )
        if not reader.schema.equals(_SCHEMA) or reader.num_record_batches != 1:
            raise ValueError("its columns are not those of an index")
        batch = reader.get_batch(0)
        batch.validate()
    return _columns(batch), about


def _columns(batch: pa.RecordBatch) -> Columns:
    lists = batch.column("pictures")
    pictures = lists.values
    captions = pictures.field("captions")
    for column in (*batch.columns, pictures, *(pictures.field(i) for i in range(6)), captions.values):
        if column.null_count:
            raise ValueError("has empty fields")
    return Columns(
        keys=Strings(batch.column("key")),
        **{name: batch.column(name).to_numpy(zero_copy_only=True) for name in _OF_SAMPLES},
        view_start=_offsets(lists),
        view_name=pictures.field("view").to_numpy(zero_copy_only=True),
        view_source=pictures.field("source").to_numpy(zero_copy_only=True),
        offset=pictures.field("offset").to_numpy(zero_copy_only=True),
        size=pictures.field("size").to_numpy(zero_copy_only=True),
        crc=pictures.field("crc").to_numpy(zero_copy_only=True),
        caption_start=_offsets(captions),
        captions=Strings(captions.values),
    )


def _offsets(lists: pa.LargeListArray) -> npt.NDArray[np.int64]:
    return np.asarray(lists.offsets.to_numpy(zero_copy_only=True), dtype=np.int64)


def _checksum(columns: Columns, about: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode(), columns.checksum())


def _check_about(about: dict[str, Any]) -> None:
    """See that what was written with the table is what it should be."""
    for shard in about["shards"]:
        name, sizes = shard["name"], (shard["samples"], shard["bytes"])
        if set(shard) != {"name", "samples", "bytes", "sha256"} or any(type(n) is not int or n < 0 for n in sizes):
            raise ValueError("its list of shards is damaged")
        if not isinstance(shard["sha256"], str) or PurePosixPath(name).is_absolute() or ".." in name.split("/"):
            raise ValueError("its list of shards is damaged")
    for field, first in (("labels", None), ("view_names", ""), ("sources", REAL)):
        names = about[field]
        if not isinstance(names, list) or len(set(names)) != len(names) or {type(name) for name in names} - {str}:
            raise ValueError(f"its {field} are damaged")
        if first is not None and names[:1] != [first]:
            raise ValueError(f"its {field} are damaged")
    for entry in about["problems"].values():
        if type(entry["count"]) is not int or not isinstance(entry["examples"], list):
            raise ValueError("its list of problems is damaged")


def _check(columns: Columns, about: dict[str, Any]) -> None:
    """See that no number points out of its table: a damaged file must not lead a reader astray."""
    shards, labels, views, sources = (len(about[name]) for name in ("shards", "labels", "view_names", "sources"))
    samples, pictures, captions = len(columns.keys), len(columns.offset), len(columns.captions)
    sound = (
        columns.keys.is_sound
        and columns.captions.is_sound
        and _grows(columns.view_start, pictures, strictly=True)
        and _grows(columns.caption_start, captions)
        and _within(columns.shard, 0, shards)
        and _within(columns.label, -1, labels)
        and _within(columns.view_name, 0, views)
        and _within(columns.view_source, 0, sources)
        and all(len(getattr(columns, name)) == samples for name in _OF_SAMPLES)
    )
    if not sound:
        raise ValueError("its numbers contradict each other")


def _grows(start: npt.NDArray[np.int64], end: int, *, strictly: bool = False) -> bool:
    if len(start) == 0:
        return end == 0
    steps = np.diff(start)
    return bool(start[0] == 0 and start[-1] == end and (not len(steps) or steps.min() >= int(strictly)))


def _within(codes: npt.NDArray[Any], low: int, count: int) -> bool:
    return not len(codes) or bool(low <= codes.min() and codes.max() < count)
