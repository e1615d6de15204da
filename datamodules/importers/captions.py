"""Pictures with a table of captions: CSV, TSV, JSON, JSON lines, or Flickr's ``name#0<TAB>caption``."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.importers.files import FileTree, Picture, suffix, without_suffix
from datamodules.importers.records import Collection, Keys, Record
from datamodules.sample import REAL, Sample

IMAGE_COLUMNS = ("image", "file_name", "filename", "image_name", "file", "filepath", "path", "img", "image_path")
_CAPTION = ("caption", "captions", "text", "comment", "prompt", "title", "sentence", "sentences", "description")
_TABLES = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl"})


@dataclass
class _Entry:
    captions: list[str] = field(default_factory=list)
    split: str = ""
    label: str | None = None


def read_captions(
    tree: FileTree, captions: str | Path | None = None, *, source: str = REAL, key_prefix: str | None = None
) -> Collection:
    """Read pictures whose captions stand in a table.

    Rows name a picture by path, file name or stem; several rows of one picture are several captions. A column or field
    ``split`` makes splits, ``label`` gives the class.

    Args:
        tree: the pictures.
        captions: the table, on disk or within the tree; None takes the one that the tree holds.
        source: of all pictures.
        key_prefix: see :class:`datamodules.importers.records.Keys`.

    Raises:
        DataError: naming the table, if it is missing, cannot be read, or names no picture of the tree.
    """
    name, data = find_table(tree, captions, "--captions")
    entries: dict[str, _Entry] = {}
    found = Collection(problems=tree.problems)
    rows = 0
    for wanted, texts, split, label in _rows(name, data):
        rows += 1
        picture = tree.find(wanted)
        if picture is None:
            found.problems.add("caption without picture", wanted)
            continue
        entry = entries.setdefault(picture, _Entry())
        entry.captions += [clean for text in texts if (clean := " ".join(text.split())) and clean not in entry.captions]
        entry.split = split or entry.split
        entry.label = label or entry.label
    if not entries:
        raise DataError(f"{name}: none of its {rows} rows names a picture of {tree.path}")
    keys = Keys(source, key_prefix)
    for picture in tree.pictures:
        entry = entries.get(picture, _Entry())
        if not entry.captions:
            found.problems.add("picture without caption", picture)
            continue
        identity = without_suffix(picture)
        sample = Sample(keys.make(identity), tuple(entry.captions), source, entry.label)
        found.records.append(Record(sample, Picture(tree, picture), identity, entry.split))
    return found


def find_table(tree: FileTree, given: str | Path | None, option: str) -> tuple[str, bytes]:
    """Find a table of captions on disk or within the tree.

    Returns:
        Its name and its bytes.

    Raises:
        DataError: if it is missing, or several could be meant.
    """
    if given is not None:
        path = Path(given).expanduser()
        if path.is_file():
            return str(path), path.read_bytes()
        if str(given) in tree.names:
            return f"{tree.path}/{given}", tree.read(str(given))
        raise DataError(f"{option} {given}: there is no such file, neither on disk nor within {tree.path}")
    tables = [name for name in tree.names if suffix(name) in _TABLES - {".txt"}]
    tables = [name for name in tables if "caption" in name.lower()] or tables
    if len(tables) != 1:
        what = "no table of captions" if not tables else f"several tables ({', '.join(tables[:4])})"
        raise DataError(f"{tree.path}: holds {what}; name one with {option}")
    return f"{tree.path}/{tables[0]}", tree.read(tables[0])


def parse_json_file(name: str, data: bytes) -> Any:
    """Parse a whole JSON file.

    Raises:
        DataError: naming the file.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"{name}: is no JSON ({error})") from error


_Row = tuple[str, list[str], str, str | None]


def _rows(name: str, data: bytes) -> Iterator[_Row]:
    kind = suffix(name)
    if kind == ".json":
        obj = parse_json_file(name, data)
        if isinstance(obj, dict):
            if "images" in obj and "annotations" in obj:
                raise DataError(f"{name}: is in COCO's format; import it with the layout coco")
            for image, value in obj.items():
                yield image, _texts(value, f"{name}: {image}"), "", None
        elif isinstance(obj, list):
            for number, row in enumerate(obj):
                yield _record(row, f"{name}: entry {number}")
        else:
            raise DataError(f"{name}: must hold a list of records or an object of captions by picture")
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if kind == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield _record(parse_json_file(f"{name}: line {number}", line.encode()), f"{name}: line {number}")
        return
    first = text.partition("\n")[0]
    if re.match(r"[^\t,|]+#\d+\t", first):
        for line in text.splitlines():
            image, _, caption = line.partition("\t")
            if caption.strip():
                yield image.rpartition("#")[0] or image, [caption], "", None
        return
    # The header decides: a caption's own commas must not.
    delimiter = max("\t|,;", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    columns = {(column or "").strip().lower(): column for column in reader.fieldnames or ()}
    _column(columns, IMAGE_COLUMNS, name)
    _column(columns, _CAPTION, name)
    try:
        for row in reader:
            clean = {str(column or "").strip().lower(): value for column, value in row.items() if value is not None}
            yield _record(clean, f"{name}: line {reader.line_num}")
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num} cannot be read ({error})") from error


def _column(names: Any, candidates: tuple[str, ...], where: str) -> str:
    for candidate in candidates:
        if candidate in names:
            return candidate
    what = "picture" if candidates is IMAGE_COLUMNS else "caption"
    raise DataError(
        f"{where}: no column or field for the {what}; call it {candidates[0]!r} (found: {', '.join(map(str, names))})"
    )


def _record(row: Any, where: str) -> _Row:
    if not isinstance(row, dict):
        raise DataError(f"{where}: must be an object with picture and caption, not {row!r}"[:400])
    image = row[_column(row, IMAGE_COLUMNS, where)]
    if not isinstance(image, str) or not image.strip():
        raise DataError(f"{where}: the picture's name is {image!r}")
    captions = _texts(row[_column(row, _CAPTION, where)], where)
    split, label = row.get("split"), row.get("label")
    return image.strip(), captions, str(split).strip() if split else "", str(label).strip() or None if label else None


def _texts(value: Any, where: str) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: captions must be a string or a list of strings, not {value!r}"[:400])
    return texts
