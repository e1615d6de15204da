"""Files of vectors and what goes with them: named arrays read, checked and written, with errors that name both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.errors import RunError
from bias_train.files import replacing


def read_arrays(path: Path, from_parquet: Callable[[Path], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Read named arrays from ``.npz``, a folder of ``.npy`` or, by the function that is given, ``.parquet``.

    Raises:
        RunError: naming the file, where there is none or it cannot be read.
    """
    if path.is_dir():
        arrays = {file.stem: _array(file) for file in sorted(path.glob("*.npy"))}
        if not arrays:
            raise RunError(f"{path}: holds no .npy files; name them as the arrays, such as image.npy and text.npy")
        return arrays
    if not path.is_file():
        raise RunError(f"{path}: there is no such file or folder of embeddings")
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read as .npz ({error})") from error
    if path.suffix == ".parquet":
        return from_parquet(path)
    raise RunError(f"{path}: embeddings are read from .npz, .parquet or a folder of .npy files")


def _array(path: Path) -> NDArray[Any]:
    try:
        return cast(NDArray[Any], np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as .npy ({error})") from error


def write_file(path: str | Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Write a file in the form that its ending chooses; it appears when it is whole.

    Args:
        path: the file.
        writers: what writes each form, by ending.

    Raises:
        RunError: for another ending, or where the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in writers:
        raise RunError(f"{path}: end the file's name in {' or '.join(writers)}, which chooses its form")
    try:
        with replacing(path) as partial:
            writers[path.suffix](partial)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def checked_vectors(path: Path, name: str, array: NDArray[Any]) -> Tensor:
    """Vectors as float32 [rows, width].

    Raises:
        RunError: naming file and array, for another shape or type, or a row that is not finite.
    """
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise RunError(f"{path}: {name} is {array.dtype} of shape {list(array.shape)}; it must be floats [rows, width]")
    broken = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(broken):
        raise RunError(f"{path}: {name} row {broken[0]} is not finite ({len(broken)} such rows)")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def checked_texts(path: Path, name: str, array: NDArray[Any], rows: int) -> tuple[str, ...]:
    """One text a row.

    Raises:
        RunError: naming file and array, for another number of rows.
    """
    if array.shape != (rows,):
        raise RunError(f"{path}: {name} has shape {list(array.shape)}; it must have {rows} entries")
    return tuple(str(entry) for entry in array.tolist())


def read_sides(path: Path, needed: tuple[str, ...]) -> tuple[pa.Table, NDArray[Any], NDArray[np.bool_]]:
    """Read a table of pictures and texts, told apart by its column ``side``.

    Args:
        path: the ``.parquet``.
        needed: columns that it must have besides ``side`` and ``embedding``.

    Returns:
        The table, its vectors float32 [rows, width], and whether each row is a picture [rows].

    Raises:
        RunError: naming file and column, for one that is missing or holds something else.
    """
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path}: cannot be read as parquet ({error})") from error
    for name in ("side", "embedding", *needed):
        if name not in table.column_names:
            raise RunError(f"{path}: has no column {name!r}; it has {', '.join(table.column_names)}")
    side = np.asarray(table["side"].to_pylist(), dtype=np.str_)
    lists = table["embedding"].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    if len(table) == 0 or len(flat) % len(table):
        raise RunError(f"{path}: the lists of column 'embedding' are not all of one length")
    image, text = side == "image", side == "text"
    if not (image | text).all():
        raise RunError(f"{path}: column 'side' holds {str(side[~(image | text)][0])!r}; choose image or text")
    return table, flat.reshape(len(table), -1), image
