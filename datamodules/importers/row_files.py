"""Tables of pictures as public data sets come: Parquet shards, or the Arrow files that ``datasets`` saves to disk."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import DataError
from datamodules.importers.records import SPLITS

# Rows handed on at once: sixteen 1,024-pixel PNGs are some 25 megabytes.
_ROWS = 16

# Parquet is read through a buffer of this many bytes, else whole columns of row groups are brought in ahead.
_BUFFER = 1 << 20


@dataclass(frozen=True)
class RowFile:
    """One file of a table.

    Attributes:
        path: the file.
        split: the part of the data set that its name or folder says, "" where none.
    """

    path: Path
    split: str = ""

    def schema(self) -> pa.Schema:
        """Columns and their types, with the metadata that ``datasets`` keeps.

        Raises:
            DataError: naming the file, if it cannot be read.
        """
        try:
            if self.path.suffix == ".parquet":
                return pq.read_schema(self.path)
            with pa.memory_map(str(self.path)) as source:
                return _open_arrow(source).schema
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read as {self._kind} ({error})") from error

    def batches(self, columns: Sequence[str], wanted: set[int] | None = None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read some columns, a few rows at a time, so that memory does not grow with the file.

        Args:
            columns: to be read; nothing else of the file is. Of Parquet, up to twice a row group of them is in
                memory, so that columns of pictures are best read one after the other.
            wanted: row numbers; stretches without any of them are passed over. None reads all.

        Yields:
            The number of the batch's first row in the file, and the batch.

        Raises:
            DataError: naming the file, if it is damaged.
        """
        try:
            yield from self._parquet(columns, wanted) if self.path.suffix == ".parquet" else self._arrow(columns)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read as {self._kind} ({error})") from error

    @property
    def _kind(self) -> str:
        return "Parquet" if self.path.suffix == ".parquet" else "Arrow"

    def _parquet(self, columns: Sequence[str], wanted: set[int] | None) -> Iterator[tuple[int, pa.RecordBatch]]:
        with pq.ParquetFile(self.path, buffer_size=_BUFFER, pre_buffer=False) as file:
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if wanted is None or any(row in wanted for row in range(first, first + rows)):
                    start = first
                    for batch in file.iter_batches(_ROWS, [group], list(columns), use_threads=False):
                        yield start, batch
                        start += len(batch)
                first += rows

    def _arrow(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        # Mapped, so that a batch of a thousand pictures takes no memory that the system could not take back.
        with pa.memory_map(str(self.path)) as source:
            first = 0
            for batch in _arrow_batches(_open_arrow(source)):
                chosen = batch.select(list(columns))
                for start in range(0, len(batch), _ROWS):
                    yield first + start, chosen.slice(start, _ROWS)
                first += len(batch)


def find_row_files(inputs: Sequence[str | Path]) -> list[RowFile]:
    """Find the files of a table.

    Args:
        inputs: files, glob patterns, or folders: of Parquet shards (named ``train-00000-of-00012.parquet`` or lying in
            a folder of the split's name, they make splits), or what ``Dataset.save_to_disk`` and
            ``DatasetDict.save_to_disk`` leave.

    Returns:
        At least one file, in a stable order.

    Raises:
        DataError: naming the input that leads to none.
    """
    found: list[RowFile] = []
    for entry in inputs:
        path = Path(entry).expanduser()
        paths = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not paths:
            raise DataError(f"{entry}: there is no such file or folder, and no file of this pattern")
        for place in paths:
            found += _folder(place) if place.is_dir() else [_file(place)]
    if len({file.path.resolve() for file in found}) < len(found):
        raise DataError(f"{', '.join(map(str, inputs))}: name the same file twice")
    return found


def _file(path: Path, split: str | None = None) -> RowFile:
    if path.suffix not in (".parquet", ".arrow"):
        raise DataError(f"{path}: is neither a .parquet nor an .arrow file")
    return RowFile(path, _split_of(path) if split is None else split)


def _folder(folder: Path, split: str | None = None) -> list[RowFile]:
    if (folder / "dataset_dict.json").is_file():
        names = _json(folder / "dataset_dict.json").get("splits", [])
        return [file for name in names for file in _folder(folder / str(name), str(name))]
    if (folder / "state.json").is_file():
        # The folder may hold cached files of other transformations, too.
        listed = _json(folder / "state.json").get("_data_files", [])
        return [_file(folder / str(entry["filename"]), split or "") for entry in listed]
    paths = sorted(folder.rglob("*.parquet")) or sorted(folder.rglob("*.arrow"))
    if not paths:
        raise DataError(f"{folder}: holds no .parquet and no .arrow files")
    return [_file(path) for path in paths]


def _split_of(path: Path) -> str:
    """The split that a file's name begins with, or that its folder is called."""
    start = re.split(r"[-_.]", path.name, maxsplit=1)[0].lower()
    return next((name for name in (start, path.parent.name.lower()) if name in SPLITS), "")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold an object, not {type(value).__name__}")
    return value


def _open_arrow(source: pa.MemoryMappedFile) -> Any:
    """Open either form: ``datasets`` writes streams, others write files."""
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _arrow_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader
