"""Small real JPEGs and tars for the tests of shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


def pixels(seed: int, height: int = 24, width: int = 32) -> npt.NDArray[np.uint8]:
    """A smooth coloured picture that JPEG keeps well: [height, width, 3]."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR))


def jpeg(seed: int, height: int = 24, width: int = 32, quality: int = 95) -> bytes:
    """The same as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, height, width)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_tar(
    path: Path, members: Iterable[tuple[str, bytes]], *, tar_format: int = tarfile.GNU_FORMAT, folders: bool = False
) -> Path:
    """Write members by the standard library, which is not what reads them in the project."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as archive:
        if folders:
            folder = tarfile.TarInfo("a-folder")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_tree(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
