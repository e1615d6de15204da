"""Ways to damage a file, for the tests that read damaged ones."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

BLOCK = 512

SIZE = slice(124, 136)
CHECKSUM = slice(148, 156)
KIND = slice(156, 157)

# Sizes that no honest writer puts into a header: signs, prefixes and spaces that `int` would take, and base-256
# numbers that are negative or larger than any file.
EVIL_SIZES = (
    b"-1000      \x00",
    b"-0000000001\x00",
    b"+0000001000\x00",
    b"0o000001000\x00",
    b"0_000001000\x00",
    b"\t0000001000\x00",
    b"77777777777\x00",
    b"777777777777",
    b"00000000000\x00",
    b"            ",
    b"\x00" * 12,
    b"\xff" * 12,
    b"\xff" * 10 + b"\xfe\x00",  # -512
    b"\x80" + b"\xff" * 11,
    b"\x80" + b"\x00" * 3 + (2**63).to_bytes(8, "big"),
    b"\x80" + b"\x00" * 3 + (2**63 - 1).to_bytes(8, "big"),
    b"\xbf" + b"\xff" * 11,
)


def octal(size: int) -> bytes:
    """A size as headers hold it."""
    return b"%011o\x00" % size


def tar_header(name: bytes, size: bytes, kind: bytes = b"0", *, magic: bytes = b"ustar\x0000") -> bytes:
    """A header whose checksum holds, whatever it claims."""
    header = bytearray(BLOCK)
    header[: min(len(name), 100)] = name[:100]
    header[100:108] = b"0000644\x00"
    header[SIZE] = size
    header[KIND] = kind
    header[257 : 257 + len(magic)] = magic
    return sealed(bytes(header))


def sealed(header: bytes) -> bytes:
    """The header with a checksum that holds."""
    sealed_header = bytearray(header)
    sealed_header[CHECKSUM] = b" " * 8
    sealed_header[CHECKSUM] = b"%06o\x00 " % sum(sealed_header)
    return bytes(sealed_header)


def padded(data: bytes) -> bytes:
    """The data, filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def pax_record(name: bytes, value: bytes, length: int | None = None) -> bytes:
    """A record of a PAX header; ``length`` makes it lie about its own."""
    rest = b" " + name + b"=" + value + b"\n"
    if length is None:
        length = len(rest)
        while length != len(str(length)) + len(rest):
            length = len(str(length)) + len(rest)
    return str(length).encode() + rest


Damage = Callable[[bytes], bytes]


def _flip(position: int, mask: int) -> Damage:
    def damage(data: bytes) -> bytes:
        if not data:
            return data
        at = position % len(data)
        return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]

    return damage


def _cut(position: int) -> Damage:
    return lambda data: data[: position % (len(data) + 1)]


def _without_block(number: int) -> Damage:
    def damage(data: bytes) -> bytes:
        at = number % (len(data) // BLOCK + 1) * BLOCK
        return data[:at] + data[at + BLOCK :]

    return damage


def _with_block(source: int, target: int) -> Damage:
    def damage(data: bytes) -> bytes:
        blocks = len(data) // BLOCK + 1
        block = data[source % blocks * BLOCK :][:BLOCK]
        at = target % blocks * BLOCK
        return data[:at] + block + data[at:]

    return damage


def _filled(number: int, byte: int) -> Damage:
    def damage(data: bytes) -> bytes:
        at = number % (len(data) // BLOCK + 1) * BLOCK
        return data[:at] + bytes([byte]) * len(data[at : at + BLOCK]) + data[at + BLOCK :]

    return damage


def _overwritten(position: int, new: bytes) -> Damage:
    def damage(data: bytes) -> bytes:
        at = position % (len(data) + 1)
        return (data[:at] + new + data[at + len(new) :])[: max(len(data), at)]

    return damage


def _lying_header(number: int, size: bytes, kind: bytes | None) -> Damage:
    """Give one block of the file a size, a kind and a checksum that holds: past the check that stops random flips."""

    def damage(data: bytes) -> bytes:
        at = number % (len(data) // BLOCK + 1) * BLOCK
        header = bytearray(data[at : at + BLOCK].ljust(BLOCK, b"\x00"))
        header[SIZE] = size
        if kind is not None:
            header[KIND] = kind
        return data[:at] + sealed(bytes(header)) + data[at + BLOCK :]

    return damage


_anywhere = st.integers(0, 2**32 - 1)

BYTE_DAMAGE: st.SearchStrategy[Damage] = st.one_of(
    st.builds(_flip, _anywhere, st.integers(1, 255)),
    st.builds(_cut, _anywhere),
    st.builds(_overwritten, _anywhere, st.binary(min_size=1, max_size=16)),
    st.builds(_filled, _anywhere, st.sampled_from([0, 0xFF])),
)

TAR_DAMAGE: st.SearchStrategy[Damage] = st.one_of(
    BYTE_DAMAGE,
    st.builds(_without_block, _anywhere),
    st.builds(_with_block, _anywhere, _anywhere),
    st.builds(
        _lying_header,
        _anywhere,
        st.one_of(st.sampled_from(EVIL_SIZES), st.integers(0, 2**20).map(octal), st.binary(min_size=12, max_size=12)),
        st.one_of(st.none(), st.sampled_from([bytes([kind]) for kind in b"01234567LKxXgSMDVN\x00\xff"])),
    ),
)


def several(damage: st.SearchStrategy[Damage], most: int = 4) -> st.SearchStrategy[Damage]:
    """One to ``most`` kinds of damage, one after another."""

    def all_of(parts: list[Damage]) -> Damage:
        def together(data: bytes) -> bytes:
            for part in parts:
                data = part(data)
            return data

        return together

    return st.lists(damage, min_size=1, max_size=most).map(all_of)
