"""Public paired sets: rows of caption, photo and a picture by each generator, in Parquet or Arrow files.

Two passes, since a set of some gigabytes fits in no memory. The first reads captions and ids alone and says which
samples there are. The second copies the pictures that are wanted, in the order of the files, to an unnamed file on
disk, from where they are read in whatever order the shards want them.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from datamodules.errors import DataError
from datamodules.hashing import string_id
from datamodules.importers.files import FileTree, Picture
from datamodules.importers.paired_columns import PairedColumns, choose_columns
from datamodules.importers.records import Collection, Keys, Record
from datamodules.importers.row_files import RowFile, find_row_files
from datamodules.sample import REAL, Sample, View


def read_pairs(
    inputs: Sequence[str | Path],
    *,
    captions: Sequence[str] = (),
    real: str | None = None,
    twins: Mapping[str, str] | None = None,
    source: str | None = None,
    names: Mapping[str, str] | None = None,
    identity: str | None = None,
    key_prefix: str | None = None,
) -> Collection:
    """Read which samples a table holds; their pictures must be fetched with :func:`fetch_pictures` before use.

    With a column per source (NasrinImp/COCO_AI, NasrinImp/Defactify4_Train) every row is a sample. With a row per
    picture and a column that names its source (Rajarshi-Roy-research/Defactify_Image_Dataset), rows of equal id in one
    split, or of equal caption where there is no id, are one: the photo is the anchor, the others are its twins.

    Args:
        inputs: see :func:`datamodules.importers.row_files.find_row_files`.
        captions: see :func:`datamodules.importers.paired_columns.choose_columns`, as the next ones.
        real: the photos' column.
        twins: column by generator.
        source: the column that says what made a row's picture.
        names: source by that column's value.
        identity: the column that names a scene.
        key_prefix: see :class:`datamodules.importers.records.Keys`.

    Raises:
        DataError: if a file cannot be read, columns are missing, or no row makes a pair.
    """
    files = find_row_files(inputs)
    columns = choose_columns(
        files[0].schema(), str(files[0].path),
        captions=captions, real=real, twins=twins, source=source, names=names, identity=identity,
    )  # fmt: skip
    for file in files[1:]:
        _check_same(file, columns)
    found = Collection()
    records = _by_row if columns.source is None else _by_scene
    found.records.extend(records([_Cells(file) for file in files], columns, Keys(REAL, key_prefix), found))
    if not found.records:
        why = "; ".join(found.problems.lines()) or "it has no rows"
        raise DataError(f"{files[0].path}: no row makes a sample ({why})")
    return found


def fetch_pictures(
    collection: Collection,
    folder: str | Path,
    *,
    limit: int | None = None,
    keep_order: bool = False,
    on_picture: Callable[[int, int], None] | None = None,
) -> Collection:
    """Copy the records' pictures out of their tables, to a file on disk that vanishes with the records.

    Args:
        collection: what :func:`read_pairs` found, perhaps with a part held out.
        folder: where that file lies; as much room is needed as the pictures take.
        limit: fetch these many records of each split alone: those that `write_collection` would take.
        keep_order: as it will be for `write_collection`.
        on_picture: called with the pictures fetched so far and their total, for a progress bar.

    Returns:
        The records whose photo is there, with the views that are.

    Raises:
        DataError: if a table is damaged, or the disk is full.
    """
    if limit is not None and limit < 1:
        raise DataError(f"--limit {limit}: must be 1 or more")
    chosen = _limited(collection, limit, keep_order)
    wanted: dict[_Cells, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for record in chosen:
        for picture in (record.image, *record.views.values()):
            assert isinstance(picture.tree, _Cells)
            row, column = _place(picture.name)
            wanted[picture.tree][column].add(row)
    total, done = sum(len(rows) for cells in wanted.values() for rows in cells.values()), 0
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Unnamed: it is gone when the process is, however that ends.
        spool: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the records
        for tree, cells in wanted.items():
            for _ in tree.copy(cells, spool):
                done += 1
                if on_picture is not None:
                    on_picture(done, total)
        spool.flush()
    except OSError as error:
        raise DataError(f"{folder}: the pictures cannot be copied there ({error.strerror or error})") from error
    kept = []
    for record in chosen:
        if why := _missing(record.image):
            collection.problems.add(f"photo: {why}", str(record.image))
            continue
        views = dict(record.views)
        for name, picture in record.views.items():
            if why := _missing(picture):
                collection.problems.add(f"twin by {name}: {why}", str(picture))
                del views[name]
        sample = replace(record.sample, views={name: record.sample.views[name] for name in views})
        kept.append(replace(record, sample=sample, views=views))
    return Collection(kept, collection.problems)


# pictures of one file ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stored:
    """A fetched picture: a stretch of the spool, or a file of its own."""

    spool: IO[bytes] | None = None
    offset: int = 0
    size: int = 0
    path: Path | None = None


class _Cells(FileTree):
    """One file of a table as a tree of pictures, whose names are ``row <number>, <column>``."""

    def __init__(self, file: RowFile) -> None:
        super().__init__(file.path)
        self.file = file
        self.stored: dict[str, _Stored | str] = {}

    @property
    def names(self) -> list[str]:
        """The pictures fetched so far."""
        return list(self.stored)

    def read(self, name: str) -> bytes:
        stored = self.stored.get(name, "was not fetched")
        if isinstance(stored, str):
            raise DataError(f"{self.path}/{name}: {stored}")
        if stored.path is not None:
            try:
                return stored.path.read_bytes()
            except OSError as error:
                raise DataError(f"{stored.path}: cannot be read ({error.strerror})") from error
        assert stored.spool is not None
        # pread, since pictures are read by several threads.
        return os.pread(stored.spool.fileno(), stored.size, stored.offset)

    def copy(self, cells: Mapping[str, set[int]], spool: IO[bytes]) -> Iterator[str]:
        """Fetch the wanted rows of each column, one column after the other; yields each cell's name when it is done."""
        for column, rows in cells.items():
            for first, batch in self.file.batches([column], rows):
                for number, value in enumerate(batch.column(0)):
                    if first + number in rows:
                        name = _name(first + number, column)
                        self.stored[name] = self._store(value.as_py(), spool)
                        yield name

    def _store(self, value: Any, spool: IO[bytes]) -> _Stored | str:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if value is None or value == "" or value == b"":
            return "the cell is empty"
        if isinstance(value, bytes):
            offset = spool.tell()
            spool.write(value)
            return _Stored(spool, offset, len(value))
        if not isinstance(value, str):
            return f"the cell holds no picture but a {type(value).__name__}"
        if "://" in value:
            return "the cell is a web address, not a picture"
        path = self.path.parent / Path(value).expanduser()
        return _Stored(path=path) if path.is_file() else "the file that the cell names is missing"


def _name(row: int, column: str) -> str:
    return f"row {row}, {column}"


def _place(name: str) -> tuple[int, str]:
    row, _, column = name.removeprefix("row ").partition(", ")
    return int(row), column


def _missing(picture: Picture) -> str:
    assert isinstance(picture.tree, _Cells)
    stored = picture.tree.stored.get(picture.name, "was not fetched")
    return stored if isinstance(stored, str) else ""


def _limited(collection: Collection, limit: int | None, keep_order: bool) -> list[Record]:
    if limit is None:
        return collection.records
    chosen: list[Record] = []
    for split in collection.splits:
        records = [record for record in collection.records if record.split == split]
        chosen += (records if keep_order else sorted(records, key=lambda r: string_id(r.identity)))[:limit]
    return chosen


# rows to records -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    cells: _Cells
    number: int
    identity: str | None
    captions: tuple[str, ...]
    source: object

    def __str__(self) -> str:
        return f"{self.cells.path.name}: row {self.number}"

    def picture(self, column: str) -> Picture:
        return Picture(self.cells, _name(self.number, column))


def _rows(tables: Sequence[_Cells], columns: PairedColumns) -> Iterator[tuple[int, _Row]]:
    """Every row with its number over all files."""
    count = 0
    for cells in tables:
        for first, batch in cells.file.batches(columns.described):
            values = {name: batch.column(batch.schema.get_field_index(name)) for name in columns.described}
            for number in range(len(batch)):
                row = {name: column[number].as_py() for name, column in values.items()}
                identity = row[columns.identity] if columns.identity is not None else None
                texts = _texts([row[name] for name in columns.captions])
                source = row[columns.source] if columns.source is not None else None
                yield count, _Row(cells, first + number, None if identity is None else str(identity), texts, source)
                count += 1


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    """Captions of strings and lists of strings: blanks made single, none empty, none twice."""
    flat = [text for value in values for text in (value if isinstance(value, list | tuple) else [value])]
    clean = (" ".join(text.split()) for text in flat if isinstance(text, str))
    return tuple(dict.fromkeys(text for text in clean if text))


def _by_row(tables: Sequence[_Cells], columns: PairedColumns, keys: Keys, found: Collection) -> Iterator[Record]:
    """One column per source: every row is a sample."""
    seen: set[tuple[str, str]] = set()
    for count, row in _rows(tables, columns):
        if not row.captions:
            found.problems.add("row without caption", str(row))
            continue
        identity = row.identity if row.identity is not None else f"{count:07d}"
        # Ids may be counted anew in each split.
        if (row.cells.file.split, identity) in seen:
            found.problems.add("id that an earlier row has", f"{row} ({identity})")
            continue
        seen.add((row.cells.file.split, identity))
        views = {name: row.picture(column) for name, column in columns.twins.items()}
        yield _record(keys, identity, row.captions, row.picture(columns.real), views, row.cells.file.split)


@dataclass
class _Scene:
    captions: dict[str, None] = field(default_factory=dict)
    pictures: dict[str, _Row] = field(default_factory=dict)
    count: int = 0


def _by_scene(tables: Sequence[_Cells], columns: PairedColumns, keys: Keys, found: Collection) -> Iterator[Record]:
    """One row per picture: rows of one id or caption are a sample."""
    scenes: dict[tuple[str, str], _Scene] = {}
    for count, row in _rows(tables, columns):
        if not row.captions:
            found.problems.add("row without caption", str(row))
            continue
        # Captions join across splits, ids within one, where they may be counted anew.
        known = row.identity is not None
        key = (row.cells.file.split, str(row.identity)) if known else ("", row.captions[0])
        scene = scenes.setdefault(key, _Scene())
        source = columns.source_of(row.source, str(row))
        if source in scene.pictures:
            # A caption that two photos share: their twins were made of it and fit the one as well as the other.
            found.problems.add(f"second picture by {source} of one scene", str(row))
            continue
        scene.pictures[source] = row
        scene.captions.update(dict.fromkeys(row.captions))
        if source == REAL:
            scene.count = count
    for scene in scenes.values():
        if REAL not in scene.pictures:
            found.problems.add("scene without photo", str(next(iter(scene.pictures.values()))))
            continue
        if len(scene.pictures) == 1:
            found.problems.add("photo without twin", str(scene.pictures[REAL]))
        views = {name: row.picture(columns.real) for name, row in sorted(scene.pictures.items()) if name != REAL}
        photo = scene.pictures[REAL]
        identity = photo.identity if photo.identity is not None else f"{scene.count:07d}"
        yield _record(keys, identity, tuple(scene.captions), photo.picture(columns.real), views, photo.cells.file.split)


def _record(
    keys: Keys, identity: str, captions: tuple[str, ...], photo: Picture, views: Mapping[str, Picture], split: str
) -> Record:
    sample = Sample(keys.make(identity), captions, REAL, views={name: View(name) for name in views})
    return Record(sample, photo, identity, split, views)


def _check_same(file: RowFile, columns: PairedColumns) -> None:
    names = set(file.schema().names)
    for column in (*columns.described, columns.real, *columns.twins.values()):
        if column not in names:
            raise DataError(
                f"{file.path}: has no column {column!r}, which the first file has; import tables of other columns by "
                "themselves"
            )
