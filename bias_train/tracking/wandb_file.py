"""Reading ``.wandb`` files, what an offline run of W&B consists of."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_BLOCK = 32 * 1024  # bytes
_PART_HEADER = 7  # bytes: checksum (4), length (2), kind (1)
_WHOLE, _FIRST, _LAST = 1, 2, 4
_FILE_HEADER = 7


def records(file: Path) -> Iterator[Any]:
    """Iterate over the records of a file, up to where it was cut off.

    The form is that of LevelDB's log: blocks of 32 KiB, records split into parts that cross no block.

    Yields:
        ``wandb_internal_pb2.Record``.
    """
    # Importing W&B costs a second, which reading no file need not pay; its messages have no types.
    from google.protobuf.message import DecodeError

    messages: Any = import_module("wandb.proto.wandb_internal_pb2")
    data, place, parts = file.read_bytes(), _FILE_HEADER, b""
    while place + _PART_HEADER <= len(data):
        room = _BLOCK - place % _BLOCK
        if room < _PART_HEADER:
            place += room  # what is left of a block that is too short for a header is padding
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part = data[place + _PART_HEADER : place + _PART_HEADER + size]
        if len(part) < size or not kind:
            return
        parts = part if kind in (_WHOLE, _FIRST) else parts + part
        place += _PART_HEADER + size
        if kind in (_WHOLE, _LAST):
            record = messages.Record()
            try:
                record.ParseFromString(parts)
            except DecodeError:
                return
            yield record


def has_ended(file: Path) -> bool:
    """Whether the process that wrote the file has ended its run, rather than been killed or being at work."""
    return any(record.HasField("exit") for record in records(file))
