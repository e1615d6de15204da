"""Pictures of people with their groups: FairFace's tables, UTKFace's file names, any table of attributes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import DataError
from datamodules.groups import META
from datamodules.importers.captions import IMAGE_COLUMNS
from datamodules.importers.files import FileTree, Picture, suffix, without_suffix
from datamodules.importers.records import SPLITS, Collection, Keys, Record
from datamodules.sample import REAL, Sample

ATTRIBUTES = ("race", "gender", "age")
_TABLES = frozenset({".csv", ".tsv"})

# UTKFace: [age]_[gender]_[race]_[date and time].jpg, with or without a second ".chip.jpg".
_UTK_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+")
_UTK_GENDERS = ("Male", "Female")
_UTK_RACES = ("White", "Black", "Asian", "Indian", "Others")
_OLDEST = 120

# The lower ends of FairFace's age groups.
_AGES = (0, 3, 10, 20, 30, 40, 50, 60, 70)

_SAME_SPLIT = {"valid": "val", "validation": "val", "dev": "val"}  # names of one and the same split


@dataclass
class _Labelled:
    groups: dict[str, str]
    split: str


def read_faces(
    tree: FileTree,
    tables: Sequence[str | Path] = (),
    *,
    attributes: Sequence[str] | None = None,
    templates: Sequence[str] = (),
    source: str = REAL,
    key_prefix: str | None = None,
) -> Collection:
    """Read pictures of people; each sample's meta says its groups by attribute (`datamodules.groups.META`).

    - A table (CSV or TSV) with a column for the file (``file``, ``image``, ...) and one for each attribute, as
      FairFace has them; where it names ``val/1.jpg``, or has a column ``split``, that makes splits. An empty field is
      an unknown group. An ``age`` in years is put into FairFace's groups ("0-2", ..., "more than 70").
    - UTKFace's file names, ``[age]_[gender]_[race]_[date].jpg``: race White, Black, Asian, Indian or Others, gender
      Male or Female, age in FairFace's groups.

    Args:
        tree: the pictures.
        tables: on disk or within the tree. None given takes those that the tree holds, else UTKFace's names, else
            tables called ``*label*.csv`` beside the tree.
        attributes: columns of the tables; None takes race, gender and age, as far as they are there.
        templates: captions of every picture, the same for all, such as "a photo of a person"; may be none.
        source: of all pictures.
        key_prefix: see :class:`datamodules.importers.records.Keys`.

    Raises:
        DataError: if there is neither a table nor a name of UTKFace's, or none that labels a picture of the tree.
    """
    found = Collection(problems=tree.problems)
    named = list(tables) or _tables_within(tree)
    if not named and any(_utk_groups(name) for name in tree.pictures):
        if attributes is not None and not set(attributes) <= set(ATTRIBUTES):
            raise DataError(f"--attributes: file names of UTKFace say {', '.join(ATTRIBUTES)}, and nothing else")
        labels = _from_names(tree, attributes or ATTRIBUTES, found)
    else:
        named = named or sorted(tree.path.absolute().parent.glob("*label*.csv"))
        if not named:
            raise DataError(
                f"{tree.path}: holds no table (CSV) of who is on the pictures, and no picture is named as UTKFace "
                "names them; name a table with --labels"
            )
        labels = _from_tables(tree, named, attributes, found)
    keys = Keys(source, key_prefix)
    for name in tree.pictures:
        if name not in labels:
            if named:
                found.problems.add("picture without a row", name)
            continue
        label = labels[name]
        if not label.groups:
            found.problems.add("picture without a group", name)
            continue
        identity = without_suffix(name)
        sample = Sample(keys.make(identity), tuple(templates), source, meta={META: label.groups})
        found.records.append(Record(sample, Picture(tree, name), identity, label.split))
    return found


def age_group(years: int) -> str:
    """FairFace's group of an age in years.

    >>> [age_group(years) for years in (0, 2, 3, 19, 69, 70)]
    ['0-2', '0-2', '3-9', '10-19', '60-69', 'more than 70']
    """
    start = max(lower for lower in _AGES if lower <= years)
    above = [lower for lower in _AGES if lower > years]
    return f"{start}-{above[0] - 1}" if above else f"more than {start}"


def _utk_groups(name: str) -> dict[str, str] | None:
    match = _UTK_NAME.fullmatch(name.rpartition("/")[2].partition(".")[0])
    if match is None or int(match[1]) > _OLDEST:
        return None
    return {
        "race": _UTK_RACES[int(match[3])],
        "gender": _UTK_GENDERS[int(match[2])],
        "age": age_group(int(match[1])),
    }


def _from_names(tree: FileTree, attributes: Sequence[str], found: Collection) -> dict[str, _Labelled]:
    labels = {}
    for name in tree.pictures:
        groups = _utk_groups(name)
        if groups is None:
            found.problems.add("name that is not UTKFace's", name)
        else:
            labels[name] = _Labelled({attribute: groups[attribute] for attribute in attributes}, "")
    return labels


def _tables_within(tree: FileTree) -> list[str | Path]:
    """The tables that the tree holds: those that are called labels, else the only one.

    Raises:
        DataError: where it holds several others.
    """
    names = [name for name in tree.names if suffix(name) in _TABLES]
    called = [name for name in names if "label" in name.rpartition("/")[2].lower()]
    if not called and len(names) > 1:
        raise DataError(f"{tree.path}: holds several tables ({', '.join(names[:4])}); name one with --labels")
    return list(called or names)


def _from_tables(
    tree: FileTree, tables: Sequence[str | Path], attributes: Sequence[str] | None, found: Collection
) -> dict[str, _Labelled]:
    finder = _Finder(tree)
    labels: dict[str, _Labelled] = {}
    contradicted = set()
    rows = 0
    for table in tables:
        for wanted, label in _rows(*_read_table(tree, table), attributes):
            rows += 1
            name = finder.find(wanted)
            if name is None:
                found.problems.add("row without picture", wanted)
            elif labels.setdefault(name, label).groups != label.groups:
                contradicted.add(name)
    if not labels:
        raise DataError(f"{', '.join(map(str, tables))}: none of the {rows} rows names a picture of {tree.path}")
    for name in sorted(contradicted):
        found.problems.add("rows that contradict each other", name)
        labels[name].groups = {}
    return labels


class _Finder:
    """Finds the picture that a row means. A row of one split never means a picture of another one.

    FairFace's two parts both begin with 1.jpg: by the file name alone, a folder of one part would be labelled by the
    table of the other.
    """

    def __init__(self, tree: FileTree) -> None:
        self.tree = tree
        self.root = tree.path.absolute().stem
        self.ends: dict[str, str | None] = {}
        for name in tree.pictures:
            end = "/".join(name.split("/")[-2:])
            self.ends[end] = name if end not in self.ends else None

    def find(self, wanted: str) -> str | None:
        """The picture's name in the tree, None if there is not exactly one."""
        wanted = wanted.replace("\\", "/").removeprefix("./")
        name = self.tree.find(wanted) or self.ends.get("/".join(wanted.split("/")[-2:]))
        if name is None:
            return None
        asked, there = _split(wanted.split("/")[:-1]), _split([self.root, *name.split("/")[:-1]])
        return None if asked and there and asked != there else name


def _split(folders: Sequence[str]) -> str:
    inner = next((folder for folder in reversed(folders) if folder in SPLITS), "")
    return _SAME_SPLIT.get(inner, inner)


def _read_table(tree: FileTree, table: str | Path) -> tuple[str, str]:
    """A table's name and text."""
    path = Path(table).expanduser()
    if str(table) in tree.names:
        name, data = f"{tree.path}/{table}", tree.read(str(table))
    elif path.is_file():
        name, data = str(path), path.read_bytes()
    else:
        raise DataError(f"--labels {table}: there is no such file, neither on disk nor within {tree.path}")
    try:
        return name, data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _rows(name: str, text: str, attributes: Sequence[str] | None) -> Iterator[tuple[str, _Labelled]]:
    delimiter = max(",\t;", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    columns = {(column or "").strip().lower(): column for column in reader.fieldnames or ()}
    file = next((columns[column] for column in IMAGE_COLUMNS if column in columns), None)
    held = ", ".join(columns) or "none"
    if file is None:
        raise DataError(f"{name}: no column for the picture; call it 'file' (found: {held})")
    wanted = [column for column in ATTRIBUTES if column in columns] if attributes is None else list(attributes)
    if not wanted:
        raise DataError(f"{name}: no column race, gender or age; name the columns with --attributes (found: {held})")
    missing = next((column for column in wanted if column.lower() not in columns), None)
    if missing is not None:
        raise DataError(f"--attributes {missing}: {name} has no such column (found: {held})")
    try:
        for row in reader:
            picture = (row[file] or "").strip()
            if not picture:
                raise DataError(f"{name}: line {reader.line_num}: no picture is named")
            values = {column: (row[columns[column.lower()]] or "").strip() for column in wanted}
            groups = {column: _group(column, value) for column, value in values.items() if value}
            own = (row[columns["split"]] or "").strip() if "split" in columns else ""
            yield picture, _Labelled(groups, own or _split(picture.replace("\\", "/").split("/")[:-1]))
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num} cannot be read ({error})") from error


def _group(attribute: str, value: str) -> str:
    years = attribute.lower() == "age" and value.isdecimal() and int(value) <= _OLDEST
    return age_group(int(value)) if years else value
