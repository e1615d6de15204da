"""A map of vectors, such as an eraser, applied to an index on disk, a piece at a time and without any labels."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from bias_train.errors import RunError
from bias_train.files import replacing
from models.erasure import LinearEraser

Change = Callable[[NDArray[Any], int], NDArray[Any]]
Side = Literal["image", "text"]

# Columns of tables hold both sides, told apart by another column.
_NAMES: dict[Side, tuple[str, ...]] = {
    "image": ("image", "vectors", "embedding", "embeddings"),
    "text": ("text", "queries", "embedding", "embeddings"),
}
_UNIT = 1e-3  # how far from unit length a stored cosine embedding may be


def erase_file(
    eraser: LinearEraser,
    source: Path,
    result: Path,
    *,
    name: str | None = None,
    renormalise: bool = True,
    chunk: int = 16384,
) -> int:
    """Write a copy of an index with its picture vectors erased; all else is as it was.

    ``.npy``: [n, D]. ``.npz``: the array of that name; others (queries among them) are copied. ``.parquet``: the
    column of that name, lists of floats; of a table with a column ``side`` the rows of pictures ("image") alone. Rows
    keep their precision. Neither file is ever held in memory as a whole.

    Args:
        eraser: what to apply.
        source: the index.
        result: another file of the same ending; it appears when it is whole.
        name: array or column; None takes the first of image, vectors, embedding and embeddings that is there.
        renormalise: see :meth:`models.erasure.LinearEraser.apply`.
        chunk: rows at once.

    Returns:
        Vectors erased.

    Raises:
        RunError: naming the file, where it is missing, has another form or width, or holds rows that are not of unit
            length though the eraser needs that.
    """

    def erase(rows: NDArray[Any], first: int) -> NDArray[Any]:
        return _erased(eraser, rows, first, source, renormalise)

    return map_file(erase, source, result, name=name, chunk=chunk)


def map_file(
    change: Change,
    source: Path,
    result: Path,
    *,
    name: str | None = None,
    side: Side = "image",
    chunk: int = 16384,
) -> int:
    """Write a copy of an index with its vectors of one side changed, see :func:`erase_file`.

    Args:
        change: takes some rows [n, D] and the number of the first, and gives the rows that stand instead.
        source: the index.
        result: another file of the same ending; it appears when it is whole.
        name: array or column; None takes the first of the side's usual names that is there.
        side: "image", or "text" for queries.
        chunk: rows at once.

    Returns:
        Vectors changed.

    Raises:
        RunError: naming the file, where it is missing or has another form.
    """
    kinds = {".npy": _npy, ".npz": _npz, ".parquet": _parquet}
    if source.suffix not in kinds or source.suffix != result.suffix:
        raise RunError(f"{source} and {result} must both end in one of {', '.join(kinds)}")
    if not source.is_file():
        raise RunError(f"{source}: there is no such file")
    if result.exists() and result.samefile(source):
        raise RunError(f"{result} is the index itself: name another file, so that this one stays")
    if chunk < 1:
        raise RunError(f"--chunk is {chunk}; give 1 or more rows")
    try:
        with replacing(result) as partial:
            return kinds[source.suffix](source, partial, name, side, chunk, change)
    except (zipfile.BadZipFile, pa.ArrowException, EOFError) as error:
        raise RunError(f"{source}: cannot be read as {source.suffix} ({error})") from error
    except OSError as error:
        raise RunError(f"cannot write {result}: {error.strerror or error}") from error


def _erased(eraser: LinearEraser, rows: NDArray[Any], first: int, source: Path, renormalise: bool) -> NDArray[Any]:
    if rows.ndim != 2 or rows.shape[1] != eraser.width:
        raise RunError(f"{source}: its rows have shape {rows.shape[1:]}, but the eraser is for width {eraser.width}")
    work = np.array(rows, dtype=np.float64 if rows.dtype == np.float64 else np.float32)  # what was read is read-only
    length = np.linalg.norm(work, axis=1)
    bad = ~np.isfinite(length) | (length == 0)
    if eraser.bias is not None or not renormalise:
        bad |= np.abs(length - 1) > _UNIT
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        needs = "of unit length, as those that the eraser was fitted on" if length[row] > 0 else "finite and not zero"
        raise RunError(f"{source}: row {first + row} has length {length[row]:.4g}; it must be {needs}")
    return eraser.apply(torch.from_numpy(work), renormalise=renormalise).numpy().astype(rows.dtype)


def _npy(source: Path, partial: Path, name: str | None, side: Side, chunk: int, change: Change) -> int:
    with source.open("rb") as read, partial.open("wb") as write:
        return _stream(read, write, chunk, change, source)


def _npz(source: Path, partial: Path, name: str | None, side: Side, chunk: int, change: Change) -> int:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(partial, "w", allowZip64=True) as new:
        held = [member.filename.removesuffix(".npy") for member in old.infolist()]
        chosen = _chosen(source, held, name, side, "array")
        count = 0
        for member in old.infolist():
            info = zipfile.ZipInfo(member.filename)
            info.compress_type = member.compress_type
            with old.open(member) as read, new.open(info, "w", force_zip64=True) as write:
                if member.filename == f"{chosen}.npy":
                    count = _stream(read, write, chunk, change, source)
                else:
                    while block := read.read(1 << 20):
                        write.write(block)
    return count


def _stream(read: IO[bytes], write: IO[bytes], chunk: int, change: Change, source: Path) -> int:
    """Copy one array in .npy's form, changed."""
    try:
        version = npy.read_magic(read)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = header(read)
    except ValueError as error:
        raise RunError(f"{source}: cannot be read as .npy ({error})") from error
    if fortran or len(shape) != 2 or dtype.kind != "f":
        raise RunError(f"{source}: holds {dtype} of shape {list(shape)}; vectors are floats [rows, width], row by row")
    npy.write_array_header_2_0(write, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    size = dtype.itemsize * shape[1]
    for first in range(0, shape[0], chunk):
        rows = min(chunk, shape[0] - first)
        block = read.read(rows * size)
        if len(block) != rows * size:
            raise RunError(f"{source}: ends within row {first + len(block) // size}")
        write.write(change(np.frombuffer(block, dtype=dtype).reshape(rows, shape[1]), first).tobytes())
    return int(shape[0])


def _parquet(source: Path, partial: Path, name: str | None, side: Side, chunk: int, change: Change) -> int:
    with pyarrow.parquet.ParquetFile(source) as old:
        schema = old.schema_arrow
        chosen = _chosen(source, schema.names, name, side, "column")
        place, count, first = schema.get_field_index(chosen), 0, 0
        with pyarrow.parquet.ParquetWriter(partial, schema) as new:
            for batch in old.iter_batches(chunk):
                mine = np.ones(len(batch), dtype=bool)
                if "side" in schema.names:
                    mine = np.asarray(batch.column("side").to_pylist()) == side
                column = _column(batch.column(place), mine, first, change, source)
                columns = [column if i == place else batch.column(i) for i in range(batch.num_columns)]
                new.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
                count += int(mine.sum())
                first += len(batch)
    return count


def _column(column: Any, mine: NDArray[np.bool_], first: int, change: Change, source: Path) -> Any:
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise RunError(f"{source}: the column of vectors is {kind}; it must hold lists of floats")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if column.null_count or len(flat) % max(len(column), 1) or flat.dtype.kind != "f":
        raise RunError(f"{source}: the vectors from row {first} on are not lists of floats of one length")
    rows = flat.reshape(len(column), -1).copy()
    if not (pa.types.is_fixed_size_list(kind) or (_lengths(column) == rows.shape[1]).all()):
        raise RunError(f"{source}: the vectors from row {first} on are not of one length")
    if mine.any():
        rows[mine] = change(rows[mine], first)
    return _lists(rows, kind)


def _lengths(column: Any) -> NDArray[Any]:
    return np.diff(column.offsets.to_numpy())


def _lists(rows: NDArray[Any], kind: Any) -> Any:
    values = pa.array(rows.ravel(), type=kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    ends = np.arange(len(rows) + 1) * rows.shape[1]
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values, type=kind)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values, type=kind)


def _chosen(source: Path, held: list[str], name: str | None, side: Side, what: str) -> str:
    found: Iterator[str] = (n for n in ((name,) if name else _NAMES[side]) if n in held)
    chosen = next(found, None)
    if chosen is None:
        asked = f"no {what} {name!r}" if name else f"no {what} named {', '.join(_NAMES[side])}"
        raise RunError(f"{source}: has {asked}; it holds {', '.join(held)} (choose with --name)")
    return chosen
