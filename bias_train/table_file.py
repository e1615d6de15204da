"""Long tables written piece by piece, as CSV, Parquet or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from bias_train.errors import RunError
from bias_train.files import replacing


@contextmanager
def table_file(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Open a table for writing; yields what adds rows to it. The file appears when it is whole.

    Args:
        path: ends in ``.csv``, ``.parquet`` or ``.jsonl``, which chooses the form.
        schema: of every piece.

    Raises:
        RunError: for another ending, or where the file cannot be written.
    """
    if path.suffix not in _FORMS:
        raise RunError(f"{path}: end the file's name in {', '.join(_FORMS)}, which chooses its form")
    try:
        with replacing(path) as partial, _FORMS[path.suffix](partial, schema) as writer:
            yield writer.write_table
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


class _JSONLines:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("w", encoding="utf-8")

    def __enter__(self) -> _JSONLines:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write_table(self, table: pa.Table) -> None:
        self._file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())


_FORMS: dict[str, Callable[[Path, pa.Schema], Any]] = {
    ".csv": pyarrow.csv.CSVWriter,
    ".parquet": pyarrow.parquet.ParquetWriter,
    ".jsonl": _JSONLines,
}
