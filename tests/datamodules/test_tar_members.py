from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from pictures import write_tar

from datamodules.tar_members import Member, TarDamage, walk_tar

LONG = "folder/" + "n" * 90 + "/" + "m" * 90 + ".jpg"
LONGER = "x" * 200 + "/" + "y" * 250 + ".jpg"
MEMBERS = [("a.jpg", b"1" * 700), ("b/c.txt", b""), ("ü/ñ 字.json", b"2" * 512), ("d.jpg", b"3")]


def by_tarfile(path: Path) -> list[Member]:
    with tarfile.open(path) as archive:
        return [Member(info.name, info.offset_data, info.size) for info in archive if info.isreg()]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_walk_agrees_with_the_standard_library(tmp_path: Path, tar_format: int) -> None:
    names = [(LONG, b"4" * 1000)]
    if tar_format != tarfile.USTAR_FORMAT:
        names += [(LONGER, b"5" * 3)]
    path = write_tar(tmp_path / "a.tar", MEMBERS + names, tar_format=tar_format, folders=True)
    assert list(walk_tar(path)) == by_tarfile(path)
    data = path.read_bytes()
    assert [data[m.offset : m.offset + m.size] for m in walk_tar(path)] == [data for _, data in MEMBERS + names]


@pytest.mark.parametrize("tar_format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_the_walk_reads_what_the_tar_program_writes(tmp_path: Path, tar_format: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"1" * 5000)
    (tmp_path / "in" / "b.txt").write_bytes(b"2")
    (tmp_path / "in" / "link.txt").symlink_to("b.txt")
    path = tmp_path / "a.tar"
    subprocess.run(["tar", f"--format={tar_format}", "-cf", path, "-C", tmp_path, "in"], check=True)
    assert list(walk_tar(path)) == by_tarfile(path)
    assert {member.name for member in walk_tar(path)} == {"in/a.jpg", "in/b.txt"}


def test_sparse_files_are_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"first")
    with open(tmp_path / "hole.bin", "wb") as file:
        file.truncate(10_000_000)
        file.seek(5_000_000)
        file.write(b"data")
    (tmp_path / "z.txt").write_bytes(b"last")
    for kind in ("gnu", "posix"):
        path = tmp_path / f"{kind}.tar"
        subprocess.run(
            ["tar", f"--format={kind}", "-S", "-cf", path, "-C", tmp_path, "a.txt", "hole.bin", "z.txt"], check=True
        )
        data = path.read_bytes()
        found = {m.name: data[m.offset : m.offset + m.size] for m in walk_tar(path)}
        assert found == {"a.txt": b"first", "z.txt": b"last"}


def test_sizes_beyond_eight_gigabytes(tmp_path: Path) -> None:
    size = 9 * 2**30
    info = tarfile.TarInfo("big.bin")
    info.size = size
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "big.tar"
        header = info.tobuf(tar_format)
        with open(path, "wb") as file:
            file.write(header)
            file.truncate(len(header) + size)  # a hole: no disk is used
            file.seek(0, io.SEEK_END)
            file.write(bytes(1024))
        assert list(walk_tar(path)) == [Member("big.bin", len(header), size)]


@pytest.mark.parametrize("cut", range(1, 4096, 157))
def test_what_lies_before_a_cut_is_read(tmp_path: Path, cut: int) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    whole = by_tarfile(path)
    path.write_bytes(path.read_bytes()[:cut])
    found: list[Member] = []
    with pytest.raises(TarDamage, match=r"cut off|damaged header"):
        found.extend(walk_tar(path))  # keeps what came before the exception
    assert found == [member for member in whole if member.offset + member.size <= cut][: len(found)]
    # Nothing whole is lost but, at most, a member of no bytes that ends where the cut is.
    assert len(found) == sum(member.offset + member.size <= cut for member in whole)


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"")
    with pytest.raises(TarDamage, match="is empty"):
        list(walk_tar(path))
    path.write_bytes(b"\x1f\x8b" + bytes(1000))
    with pytest.raises(TarDamage, match="compressed"):
        list(walk_tar(path))
    path.write_bytes(b"this is no tar file at all" * 100)
    with pytest.raises(TarDamage, match="damaged header at byte 0"):
        list(walk_tar(path))
    data = bytearray(write_tar(path, MEMBERS).read_bytes())
    data[1536 + 10] ^= 0xFF  # in the second header
    path.write_bytes(data)
    with pytest.raises(TarDamage, match="damaged header at byte 1536"):
        list(walk_tar(path))
