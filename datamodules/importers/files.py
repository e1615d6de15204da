"""A folder or a tar, read the same way and never unpacked."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import DataError
from datamodules.problems import Problems
from datamodules.tar_members import TarDamage, walk_tar

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class FileTree(ABC):
    """Files by their relative path, with forward slashes.

    Attributes:
        path: the folder or tar.
        problems: what of it could not be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems = Problems()

    @cached_property
    @abstractmethod
    def names(self) -> list[str]:
        """All files, sorted; hidden ones left out."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            DataError: if it cannot be read.
        """

    @cached_property
    def pictures(self) -> list[str]:
        """The files that are pictures by their suffix."""
        return [name for name in self.names if suffix(name) in PICTURE_SUFFIXES]

    @cached_property
    def _finder(self) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for name in self.pictures:
            base = name.rpartition("/")[2]
            for alias in {name, without_suffix(name), base, without_suffix(base)} - {""}:
                found[alias] = name if alias not in found else None
        # A full path is never ambiguous, whatever else is called so.
        return found | {name: name for name in self.pictures}

    def find(self, wanted: str) -> str | None:
        """The picture that a captions file means: by path, else by file name, else by stem; None if not exactly one."""
        wanted = wanted.replace("\\", "/").removeprefix("./")
        base = wanted.rpartition("/")[2]
        for alias in (wanted, without_suffix(wanted), base, without_suffix(base)):
            if self._finder.get(alias) is not None:
                return self._finder[alias]
        return None


class _Folder(FileTree):
    """A folder. A tar within it reads as a folder of its name: people keep one tar per class."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._tars: dict[str, _Tar] = {}

    @cached_property
    def names(self) -> list[str]:
        found = []
        for folder, folders, files in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            prefix = os.path.relpath(folder, self.path).replace(os.sep, "/")
            found += [
                name if prefix == "." else f"{prefix}/{name}"
                for name in files
                if not name.startswith((".", "__MACOSX"))
            ]
        for name in [name for name in found if suffix(name) == ".tar"]:
            tar = self._tars[without_suffix(name)] = _Tar(self.path / name)
            found.remove(name)
            found += [f"{without_suffix(name)}/{inner}" for inner in tar.names]
            self.problems.update(tar.problems)
        return sorted(found)

    def read(self, name: str) -> bytes:
        for prefix, tar in self._tars.items():
            if name.startswith(f"{prefix}/"):
                return tar.read(name.removeprefix(f"{prefix}/"))
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path / name}: cannot be read ({error.strerror})") from error


class _Tar(FileTree):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - open as long as the tree
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error

    @cached_property
    def _members(self) -> dict[str, tuple[int, int]]:
        members: dict[str, tuple[int, int]] = {}
        try:
            for member in walk_tar(self.path):
                name = member.name.removeprefix("./")
                parts = name.split("/")
                # Nothing is unpacked, but a key made of such a name would be written somewhere by somebody.
                if name.startswith("/") or ".." in parts:
                    self.problems.add("unsafe member name", f"{self.path.name}: {name!r}")
                elif not any(part.startswith((".", "__MACOSX")) for part in parts):
                    members[name] = (member.offset, member.size)
        except TarDamage as damage:
            if not members:
                raise DataError(f"{self.path}: {damage}") from damage
            self.problems.add("damaged tar", f"{self.path.name} {damage}")
        return members

    @cached_property
    def names(self) -> list[str]:
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        if name not in self._members:
            raise DataError(f"{self.path}: holds no {name}")
        offset, size = self._members[name]
        # pread, since pictures are read by several threads.
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise DataError(f"{self.path}: {name} cannot be read to its end")
        return data


class Picture(NamedTuple):
    """One file of a tree."""

    tree: FileTree
    name: str

    def read(self) -> bytes:
        """The file's bytes."""
        return self.tree.read(self.name)

    def __str__(self) -> str:
        return f"{self.tree.path}/{self.name}"


def open_tree(path: str | Path) -> FileTree:
    """Open a folder or an uncompressed tar.

    Raises:
        DataError: if it is neither.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if path.suffix != ".tar":
        raise DataError(f"{path}: is neither a folder nor a plain .tar; unpack it first")
    return _Tar(path)


def suffix(name: str) -> str:
    """A file's suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def without_suffix(name: str) -> str:
    """A path without the suffix of its file name.

    >>> without_suffix("a.b/c.d.jpg")
    'a.b/c.d'
    """
    return os.path.splitext(name)[0]
