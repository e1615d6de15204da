"""Where the files of a tar lie, read from its headers alone: faster than ``tarfile``, and it survives a cut."""

from __future__ import annotations

import mmap
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 512
_ZERO = bytes(BLOCK)
_REGULAR = frozenset(b"0\x007")
_WITHOUT_DATA = frozenset(b"123456")  # links, devices, folders, pipes: a size in such a header counts no bytes


class Member(NamedTuple):
    """A regular file in a tar: its path, the first byte of its data, and how many there are."""

    name: str
    offset: int
    size: int


class TarDamage(Exception):  # noqa: N818 - it ends a walk as StopIteration does
    """The walk cannot go on; what it yielded before is whole."""


class _NeedsTarfile(Exception):  # noqa: N818
    """A feature that only the standard library reads (sparse files)."""


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU base-256, for files of 8 GiB and more
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.split(b"\x00", 1)[0].strip()
    return int(text, 8) if text else 0


def _text(field: bytes) -> str:
    return field.split(b"\x00", 1)[0].decode("utf-8", "surrogateescape")


def _pax_records(data: bytes) -> dict[str, str]:
    records = {}
    position = 0
    while position < len(data) and data[position]:
        space = data.index(b" ", position)
        end = position + int(data[position:space])
        if end <= space:
            raise ValueError("PAX record of no length")
        name, _, value = data[space + 1 : end - 1].partition(b"=")
        records[name.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        position = end
    return records


def _checksum_holds(header: bytes) -> bool:
    stored = _number(header[148:156])
    total = sum(header) - sum(header[148:156]) + 8 * 32
    if total == stored:
        return True
    # Some old writers summed signed bytes.
    return total - 256 * sum(byte > 127 for byte in header[:148] + header[156:]) == stored


def _walk(data: mmap.mmap) -> Iterator[Member]:
    total = len(data)
    position = 0
    name_next: str | None = None
    pax_next: dict[str, str] = {}
    pax_global: dict[str, str] = {}
    while True:
        if position >= total:
            raise TarDamage("has no end mark and may be cut off")
        header = data[position : position + BLOCK]
        if len(header) < BLOCK:
            raise TarDamage(f"is cut off inside a header at byte {position}")
        if header == _ZERO:
            return
        try:
            if not _checksum_holds(header):
                raise ValueError("checksum")
            size = _number(header[124:136])
            kind = header[156]
            start = position + BLOCK
            if kind in b"LxgK" and start + size <= total:
                extra = data[start : start + size]
                if kind in b"L":
                    name_next = _text(extra)
                elif kind in b"x":
                    pax_next = _pax_records(extra)
                elif kind in b"g":
                    pax_global |= _pax_records(extra)
                position = start + -(-size // BLOCK) * BLOCK
                continue
            records = pax_global | pax_next
            size = int(records.get("size", size))
        except (ValueError, IndexError) as error:
            raise TarDamage(f"has a damaged header at byte {position}") from error
        if kind in b"S" or any(name.startswith("GNU.sparse") for name in records):
            raise _NeedsTarfile
        name = records.get("path") or name_next
        if name is None:
            name = _text(header[:100])
            # Only POSIX headers have a prefix; GNU's old format keeps times in that place.
            if header[257:263] == b"ustar\x00" and header[345]:
                name = f"{_text(header[345:500])}/{name}"
        name_next, pax_next = None, {}
        if kind in _WITHOUT_DATA:
            position = start
            continue
        if start + size > total:
            raise TarDamage(f"is cut off inside {name}")
        position = start + -(-size // BLOCK) * BLOCK
        if kind in _REGULAR and not name.endswith("/"):
            yield Member(name, start, size)


def _walk_with_tarfile(path: Path) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isreg() and not info.issparse():
                    yield Member(info.name, info.offset_data, info.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise TarDamage(f"cannot be read: {error}") from error


def walk_tar(path: Path) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar in the order in which they lie.

    Reads old, ustar, GNU and PAX headers, long names and sizes included; sparse files, whose data do not lie in one
    piece, are left out. Ends at the first block of zeros, as ``tar`` does.

    Raises:
        TarDamage: after the last whole member, if the file is cut off or a header is damaged.
        OSError: if the file cannot be opened.
    """
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            raise TarDamage("is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:2] == b"\x1f\x8b" or data[:3] == b"BZh" or data[:6] == b"\xfd7zXZ\x00":
                raise TarDamage("is compressed, so that no member can be read on its own; unpack it to a plain tar")
            seen = 0
            try:
                for member in _walk(data):
                    yield member
                    seen += 1
                return
            except _NeedsTarfile:
                pass
        for position, member in enumerate(_walk_with_tarfile(path)):
            if position >= seen:
                yield member
