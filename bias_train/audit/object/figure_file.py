"""``figures.parquet`` of an audit whose figures stand for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from bias_train.metrics.figure import Figure
from bias_train.table_file import table_file

_SCHEMA = pa.schema(
    [
        ("change", pa.bool_()),
        *((name, pa.string()) for name in ("name", "label", "note")),
        *((name, pa.int64()) for name in ("k", "count")),
        *((name, pa.float64()) for name in ("value", "low", "high")),
    ]
)


def write_figures(path: Path, figures: Sequence[Figure], changes: Sequence[Figure] = ()) -> None:
    """Write figures, and changes with the mark ``change``; the file appears when it is whole.

    Raises:
        RunError: where it cannot be written.
    """
    with table_file(path, _SCHEMA) as add:
        for part, change in ((figures, False), (changes, True)):
            add(pa.Table.from_pylist([{"change": change} | asdict(figure) for figure in part], schema=_SCHEMA))
