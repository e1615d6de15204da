"""However damaged a tar is, reading it ends, stays inside it, and holds little memory."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import tarfile
import textwrap
import tracemalloc
from pathlib import Path

import pytest
from damage import BLOCK, EVIL_SIZES, TAR_DAMAGE, Damage, octal, padded, pax_record, several, tar_header
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from datamodules.tar_members import Member, TarDamage, walk_tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
END = bytes(2 * BLOCK)

# One folder for all examples of a test is what is wanted: every example replaces the file of the one before.
fuzz = settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])


def walked(path: Path) -> tuple[list[Member], str]:
    """What the walk yields, and why it ended ("" for a proper end). Any other exception is the test's failure."""
    members: list[Member] = []
    most = path.stat().st_size // BLOCK
    try:
        for member in walk_tar(path):
            members.append(member)
            assert len(members) <= most, "more members than the file has headers"
    except TarDamage as damage:
        return members, str(damage)
    return members, ""


def check(path: Path) -> tuple[list[Member], str]:
    """Walk, and hold the walk to what it promises for any file."""
    members, why = walked(path)
    total = path.stat().st_size
    end = 0
    for member in members:
        assert member.offset % BLOCK == 0
        assert end + BLOCK <= member.offset <= member.offset + member.size <= total
        assert member.size >= 0
        member.name.encode()  # can be stored and printed
        end = member.offset + member.size
    why.encode()
    return members, why


def tar_of(members: list[tuple[str, bytes]], tar_format: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format, **options) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


LONG = "folder/" + "n" * 90 + "/" + "m" * 120 + ".jpg"
SEEDS = [
    tar_of([("a.jpg", b"1" * 700), ("a.json", b"{}"), ("b.jpg", b""), ("b.txt", b"2" * 512)], tarfile.USTAR_FORMAT),
    tar_of([(LONG, b"1" * 100), ("ü.jpg", b"2" * 513), ("c.jpg", b"3")], tarfile.GNU_FORMAT),
    tar_of(
        [(LONG, b"1" * 100), ("ü.jpg", b"2" * 513), ("字" * 60, b"3")],
        tarfile.PAX_FORMAT,
        pax_headers={"comment": "global"},
    ),
]

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=120).filter(
    lambda name: not name.endswith("/")
)


@fuzz
@given(
    members=st.lists(st.tuples(names, st.binary(max_size=1100)), max_size=6, unique_by=lambda member: member[0]),
    tar_format=st.sampled_from(FORMATS),
)
def test_whole_tars_read_as_the_standard_library_reads_them(
    tmp_path: Path, members: list[tuple[str, bytes]], tar_format: int
) -> None:
    try:
        data = tar_of(members, tar_format)
    except ValueError:  # a name that is too long for ustar
        assume(False)
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with tarfile.open(path) as archive:
        expected = [Member(info.name, info.offset_data, info.size) for info in archive if info.isreg()]
    assert check(path) == (expected, "")
    assert [data[member.offset : member.offset + member.size] for member in expected] == [data for _, data in members]


@fuzz
@given(st.binary(max_size=4096))
def test_random_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    check(path)


@settings(fuzz, max_examples=700)
@given(seed=st.sampled_from(SEEDS), damage=several(TAR_DAMAGE))
def test_damaged_tars(tmp_path: Path, seed: bytes, damage: Damage) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(damage(seed))
    check(path)


def extension(kind: bytes, body: bytes, size: bytes | None = None) -> bytes:
    return tar_header(b"ext", size or octal(len(body)), kind) + padded(body)


pax_bodies = st.lists(
    st.one_of(
        st.builds(
            pax_record,
            st.sampled_from([b"size", b"path", b"GNU.sparse.major", b"GNU.sparse.size", b"mtime", b""]),
            st.one_of(st.sampled_from([b"-512", b"-1", b"0", b"+5", b"5_0", b"9" * 30, b"9" * 5000, b"nan", b"\xff"])),
            st.one_of(st.none(), st.integers(-600, 600)),
        ),
        st.binary(max_size=30),
    ),
    max_size=4,
).map(b"".join)
sizes = st.one_of(st.sampled_from(EVIL_SIZES), st.integers(0, 3 * BLOCK).map(octal))
headers = st.one_of(
    st.builds(
        tar_header,
        st.sampled_from([b"a.jpg", b"a/", b"", b"\xff\xfe.jpg", b"../../etc/passwd", b"/a", b"a\nb", b"x" * 100]),
        sizes,
        st.sampled_from([bytes([kind]) for kind in b"01234567SMDVN\x00\xff"]),
        magic=st.sampled_from([b"ustar\x0000", b"ustar  \x00", b""]),
    ),
    st.builds(
        extension,
        st.sampled_from([b"x", b"X", b"g", b"L", b"K"]),
        pax_bodies,
        st.one_of(st.none(), st.sampled_from(EVIL_SIZES)),
    ),
    st.binary(max_size=BLOCK).map(padded),
    st.just(bytes(BLOCK)),
)


@settings(fuzz, max_examples=700)
@given(st.lists(headers, max_size=8).map(b"".join))
def test_headers_that_lie_under_checksums_that_hold(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data + END)
    check(path)


# What fuzzing found, or would have: each once by name


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"S", b"V"])
@pytest.mark.parametrize("size", [size for size in EVIL_SIZES if size.strip(b" \x00") not in (b"", b"00000000000")])
def test_a_size_that_is_none_ends_the_walk(tmp_path: Path, kind: bytes, size: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_header(b"a.jpg", octal(1)) + padded(b"1") + tar_header(b"b.jpg", size, kind) + END)
    members, why = check(path)
    assert members == [Member("a.jpg", BLOCK, 1)]
    assert "damaged header at byte 1024" in why or "cut off inside 'b.jpg'" in why


@pytest.mark.parametrize("kind", [b"x", b"g"])
@pytest.mark.parametrize("size", [b"-512", b"-1024", b"+1", b"1_0", b" 1", b"9" * 5000, b"", b"\xc2\xb2"])
def test_a_pax_size_that_is_none_is_never_a_members_size(tmp_path: Path, kind: bytes, size: bytes) -> None:
    path = tmp_path / "a.tar"
    header = extension(kind, pax_record(b"size", size))
    path.write_bytes(header + tar_header(b"a.jpg", octal(3)) + padded(b"123") + END)
    members, why = check(path)
    if size:
        assert (members, why) == ([], f"has a damaged header at byte {len(header)}")
    else:  # an empty value takes a record back
        assert (members, why) == ([Member("a.jpg", len(header) + BLOCK, 3)], "")


@pytest.mark.parametrize(
    "body",
    [
        pax_record(b"path", b"evil", length=0),
        pax_record(b"path", b"evil", length=-30),
        pax_record(b"path", b"evil", length=3),
        pax_record(b"path", b"evil", length=14),
        pax_record(b"path", b"evil", length=10**6),
        pax_record(b"path", b"evil", length=10**12),
        b"path=evil\n",
        b"9" * 600 + b" path=evil\n",
        b" path=evil\n",
        b"nospace\n",
    ],
)
def test_pax_records_that_lie_about_their_length(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(extension(b"x", body) + tar_header(b"a.jpg", octal(3)) + padded(b"123") + END)
    assert check(path) == ([], "has a damaged header at byte 0")


def test_extensions_that_are_cut_off_or_absurdly_long(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for kind in (b"L", b"K", b"x", b"g"):
        path.write_bytes(tar_header(b"ext", octal(5000), kind) + b"y" * 600)
        assert check(path) == ([], "is cut off inside a header at byte 0")
        with open(path, "wb") as file:
            file.write(tar_header(b"ext", octal(2**30), kind))
            file.truncate(2**31)  # a hole: the data are there, and are a gigabyte of name
        assert check(path) == ([], "has a damaged header at byte 0")


def test_extensions_of_no_length_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for kind in (b"L", b"K", b"x", b"X", b"g"):
        path.write_bytes(tar_header(b"ext", octal(0), kind) * 3000 + tar_header(b"a.jpg", octal(0)) + END)
        members, why = check(path)
        assert (len(members), why) == (1, "")


def test_names_are_passed_on_as_they_are_but_can_always_be_stored(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    found = {
        b"../../etc/passwd": "../../etc/passwd",
        b"/etc/passwd": "/etc/passwd",
        b"a\nb\x1b[2J.jpg": "a\nb\x1b[2J.jpg",
        b"caf\xe9.jpg": "caf\\xe9.jpg",
        b"\xed\xa0\x80.jpg": "\\xed\\xa0\\x80.jpg",  # a lone surrogate
    }
    path.write_bytes(b"".join(tar_header(name, octal(0)) for name in found) + END)
    members, why = check(path)
    assert ([member.name for member in members], why) == (list(found.values()), "")
    records = b"".join(
        extension(b"x", pax_record(b"path", name)) + tar_header(b"z", octal(0)) for name in [*found, b"a\x00b.jpg"]
    )
    path.write_bytes(records + END)
    assert [member.name for member in check(path)[0]] == [*found.values(), "a\x00b.jpg"]


def test_what_follows_an_end_mark_is_missed_loudly(tmp_path: Path) -> None:
    """A header that a bad disk has wiped out looks like the end; so does the seam of tars that ``cat`` has joined."""
    path = tmp_path / "a.tar"
    whole = SEEDS[0]
    path.write_bytes(whole[: 3 * BLOCK] + bytes(BLOCK) + whole[4 * BLOCK :])
    members, why = check(path)
    assert [member.name for member in members] == ["a.jpg"]
    assert why == f"has an end mark at byte {3 * BLOCK} but goes on at byte {4 * BLOCK}, which is not read"
    path.write_bytes(whole + whole)
    members, why = check(path)
    assert len(members) == 4
    assert f"goes on at byte {len(whole)}" in why
    for zeros in (BLOCK, 2 * BLOCK, 3 * 2**20):
        path.write_bytes(whole.rstrip(b"\x00").ljust(7 * BLOCK, b"\x00") + bytes(zeros))
        assert check(path)[1] == ""


def test_only_files_are_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.tar"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(TarDamage, match="no regular file"):
            list(walk_tar(path))  # would wait for a writer
    with pytest.raises(FileNotFoundError):
        list(walk_tar(tmp_path / "nowhere.tar"))


def test_a_tar_that_shrinks_while_it_is_read_ends_the_walk(tmp_path: Path) -> None:
    """A memory map would kill the process here (SIGBUS)."""
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(tar_header(b"%d" % i, octal(9000)) + padded(bytes(9000)) for i in range(9)) + END)
    walk = walk_tar(path)
    assert next(walk).name == "0"
    os.truncate(path, 12_000)
    with pytest.raises(TarDamage, match="cut off"):
        list(walk)


@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_memory_does_not_grow_with_what_headers_hold(tmp_path: Path, kind: bytes) -> None:
    """Records of a million names, claims of exabytes, long names without end: one header is held at a time."""
    records = b"".join(itertools.islice((pax_record(b"k%d" % i, b"") for i in itertools.count()), 60_000))[: 2**19]
    records = records[: records.rindex(b"\n") + 1]
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        for _ in range(4):
            file.write(extension(kind, records))
            file.write(extension(b"L", b"n" * 2**20))
            file.write(tar_header(b"a", octal(10)) + padded(b"0" * 10))
            file.write(extension(kind, pax_record(b"size", b"10") + pax_record(b"path", b"p" * 2**19)))
            file.write(tar_header(b"a", EVIL_SIZES[7]) + padded(b"0" * 10))
        file.write(tar_header(b"a", b"\x80" + b"\x00" * 3 + (2**62).to_bytes(8, "big")))
    tracemalloc.start()
    try:
        count, why = 0, ""
        try:
            for _ in walk_tar(path):
                count += 1
        except TarDamage as damage:
            why = str(damage)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (count, why[:17]) == (8, "is cut off inside")
    # Two extensions, the text of one, and what reading them takes; the file holds eight times one.
    assert peak < 6 * 2**20 < path.stat().st_size


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of a process's memory are Linux's")
def test_claims_beyond_the_memory_there_is_fit_into_little_memory(tmp_path: Path) -> None:
    """In a process whose address space is limited, where an allocation by a claimed size would fail."""
    path = tmp_path / "a.tar"
    blocks = [tar_header(b"a", size, bytes([kind])) for size in EVIL_SIZES for kind in b"0xgLKSMX"]
    blocks += [tar_header(b"a", octal(2**28), bytes([kind])) for kind in b"0xgLKSMX"]
    program = """
        import resource, sys
        from pathlib import Path
        from datamodules.tar_members import TarDamage, walk_tar

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
        path, blocks = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
        for start in range(0, len(blocks), 512):
            with open(path, "wb") as file:
                file.write(blocks[start : start + 512] + b"x" * 512)
                file.truncate(2**29)
            try:
                for member in walk_tar(path):
                    assert 512 <= member.offset <= member.offset + member.size <= 2**29
            except TarDamage:
                pass
        """
    (tmp_path / "blocks").write_bytes(b"".join(blocks))
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path), str(tmp_path / "blocks")], check=True, timeout=300
    )
