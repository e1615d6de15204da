"""Where the files of a tar lie, read from its headers alone: faster than ``tarfile``, and it survives a cut.

Nothing that a header claims is believed before it is checked: a walk only ever goes forward, so it ends, and it holds
no more than one header at a time. Files are read, not mapped: a mapped file that shrinks under its reader kills it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 512
_ZERO = bytes(BLOCK)
_REGULAR = frozenset(b"0\x007")
_WITHOUT_DATA = frozenset(b"123456")  # links, devices, folders, pipes: a size in such a header counts no bytes
_EXTENSIONS = frozenset(b"LKxXg")  # headers that say more about the header after them
_SPARSE = frozenset(b"S")

_WINDOW = 8192  # bytes read at once: a header with its extensions, and the headers of small members after it
_LONGEST_EXTENSION = 2**20  # as in libarchive; a long name or a PAX header takes a few hundred bytes
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstandard


class Member(NamedTuple):
    r"""A regular file in a tar: its path, the first byte of its data, and how many there are.

    Bytes of the path that are no UTF-8 stand as ``\xNN``, so that every path can be printed and stored.
    """

    name: str
    offset: int
    size: int


class TarDamage(Exception):  # noqa: N818 - it ends a walk as StopIteration does
    """The walk cannot go on; what it yielded before is whole."""


def _count(digits: bytes, base: int) -> int:
    """A number that counts bytes; ``int`` alone would also take signs, underscores and prefixes."""
    if not digits.isdigit():
        raise ValueError("not a number")
    return int(digits, base)


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU base-256, for files of 8 GiB and more
        if field[0] & 0x40:
            raise ValueError("negative")
        return int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    digits = field.split(b"\x00", 1)[0].strip(b" ")
    return _count(digits, 8) if digits else 0


def _decoded(data: bytes) -> str:
    # Not "surrogateescape": a surrogate could be neither written to the index nor printed.
    return data.decode("utf-8", "backslashreplace")


def _text(field: bytes) -> str:
    return _decoded(field.split(b"\x00", 1)[0])


class _Pax(NamedTuple):
    """What of a PAX header matters here; empty or None where it says nothing."""

    path: str | None = None
    size: bytes | None = None
    sparse: bool = False

    def over(self, below: _Pax) -> _Pax:
        """This header's word where it has one, the other's elsewhere."""
        return _Pax(
            below.path if self.path is None else self.path,
            below.size if self.size is None else self.size,
            below.sparse or self.sparse,
        )


_NO_PAX = _Pax()


def _pax(data: bytes) -> _Pax:
    path, size, sparse = None, None, False
    position = 0
    while position < len(data) and data[position]:
        space = data.find(b" ", position, position + 9)  # a length has no more digits than the longest header
        end = position + _count(data[position : max(space, position)], 10)
        if not space < end <= len(data) or data[end - 1] != 0x0A:
            raise ValueError("PAX record that is not as long as it says")
        name, _, value = data[space + 1 : end - 1].partition(b"=")
        if name == b"path":
            path = _decoded(value)
        elif name == b"size":
            size = value
        elif name.startswith(b"GNU.sparse"):
            sparse = True
        position = end
    return _Pax(path, size, sparse)


def _checksum_holds(header: bytes) -> bool:
    stored = _number(header[148:156])
    total = sum(header) - sum(header[148:156]) + 8 * 32
    if total == stored:
        return True
    # Some old writers summed signed bytes.
    return total - 256 * sum(byte > 127 for byte in header[:148] + header[156:]) == stored


def _first_set_byte(file: int, position: int) -> int | None:
    while chunk := os.pread(file, 2**20, position):
        if rest := chunk.lstrip(b"\x00"):
            return position + len(chunk) - len(rest)
        position += len(chunk)
    return None


def _after_sparse_map(file: int, header: bytes, start: int) -> int:
    """Where the data of a file in GNU's sparse format begin: its map may go on in blocks after the header."""
    more = header[482]
    while more:
        block = os.pread(file, BLOCK, start)
        if len(block) < BLOCK:
            raise TarDamage(f"is cut off inside a header at byte {start}")
        more = block[504]
        start += BLOCK
    return start


def _walk(file: int, total: int) -> Iterator[Member]:
    position = 0
    window, window_start = b"", 0
    long_name: str | None = None
    pax_next = pax_global = _NO_PAX
    while True:
        if position >= total:
            raise TarDamage("has no end mark and may be cut off")
        at = position - window_start
        if at + BLOCK > len(window):
            window, window_start, at = os.pread(file, _WINDOW, position), position, 0
        header = window[at : at + BLOCK]
        if len(header) < BLOCK:
            raise TarDamage(f"is cut off inside a header at byte {position}")
        if header == _ZERO:
            if (beyond := _first_set_byte(file, position)) is not None:
                # A header that was wiped out, or tars that were joined by `cat`: either way something is lost.
                raise TarDamage(f"has an end mark at byte {position} but goes on at byte {beyond}, which is not read")
            return
        start = position + BLOCK
        try:
            if not _checksum_holds(header):
                raise ValueError("checksum")
            size = _number(header[124:136])
            kind = header[156]
            if kind in _EXTENSIONS:
                if size > _LONGEST_EXTENSION:
                    raise ValueError("extension of no sensible length")
                at = start - window_start
                extra = window[at : at + size] if at + size <= len(window) else os.pread(file, size, start)
                if len(extra) < size:
                    raise TarDamage(f"is cut off inside a header at byte {position}")
                if kind == 0x4C:  # L
                    long_name = _text(extra)
                elif kind == 0x67:  # g
                    pax_global = _pax(extra).over(pax_global)
                elif kind != 0x4B:  # K is the target of a link
                    pax_next = _pax(extra).over(pax_next)
                position = start + -(-size // BLOCK) * BLOCK
                continue
            pax = pax_next.over(pax_global)
            if pax.size:
                size = _count(pax.size, 10)
        except ValueError as error:
            raise TarDamage(f"has a damaged header at byte {position}") from error
        name = pax.path or long_name
        if name is None:
            name = _text(header[:100])
            # Only POSIX headers have a prefix; GNU's old format keeps times in that place.
            if header[257:263] == b"ustar\x00" and header[345]:
                name = f"{_text(header[345:500])}/{name}"
        long_name, pax_next = None, _NO_PAX
        if kind in _WITHOUT_DATA:
            position = start
            continue
        if kind in _SPARSE:
            start = _after_sparse_map(file, header, start)
        if start + size > total:
            raise TarDamage(f"is cut off inside {name[:200]!r}")
        position = start + -(-size // BLOCK) * BLOCK
        if kind in _REGULAR and not pax.sparse and not name.endswith("/"):
            yield Member(name, start, size)


def walk_tar(path: Path) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar in the order in which they lie.

    Reads old, ustar, GNU and PAX headers, long names and sizes included; sparse files, whose data do not lie in one
    piece, are left out. Ends at the first block of zeros, as ``tar`` does. However damaged the file, every member that
    is yielded lies inside it and after the one before it.

    Raises:
        TarDamage: after the last whole member, if the file is cut off, a header is damaged, or the file goes on after
            its end mark.
        OSError: if the file cannot be opened or read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise TarDamage("is no regular file")  # opening a pipe would wait for its writer
    with open(path, "rb", buffering=0) as opened:
        file = opened.fileno()
        total = os.fstat(file).st_size
        if not total:
            raise TarDamage("is empty")
        if os.pread(file, 8, 0).startswith(_PACKED):
            raise TarDamage("is compressed, so that no member can be read on its own; unpack it to a plain tar")
        yield from _walk(file, total)
