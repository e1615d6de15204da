"""Words that name categories of objects: a table for COCO's 80 that came along (``coco80.csv``), and users' own."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from datamodules.errors import DataError
from datamodules.sample import check_name


@dataclass(frozen=True)
class Vocabulary:
    """Categories and the phrases by which captions mention them. Phrases are tokens joined by blanks.

    Attributes:
        categories: in the table's order, which is that of every array over categories.
        synonyms: all phrases that mention a category, singular and plural, its own name among them.
        hypernym: a wider word for a category ("animal"), "" where a caption cannot do with one.
        digest: SHA-256 of the table, to be stored with every result.
        hypernym_plural: the same in plural.
        plurals: phrases that are plural and not singular as well.
        modifiers: phrases that are modifiers of other nouns as often ("orange"), see :class:`Mentions`.
        decoys: phrases that hold a synonym and mention nothing ("bus stop").
        version: as the table says, empty where it does not.

    >>> vocabulary = load_vocabulary()
    >>> len(vocabulary.categories), vocabulary.synonyms["sheep"][:3], vocabulary.hypernym["sheep"]
    (80, ('sheep', 'lamb', 'lambs'), 'animal')
    """

    categories: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]]
    hypernym: Mapping[str, str]
    digest: str
    hypernym_plural: Mapping[str, str] = field(default_factory=dict)
    plurals: frozenset[str] = frozenset()
    modifiers: frozenset[str] = frozenset()
    decoys: tuple[str, ...] = ()
    version: str = ""

    def number(self, category: str) -> int:
        """A category's place in :attr:`categories`.

        Raises:
            DataError: if it has none.
        """
        if category not in self.synonyms:
            raise DataError(
                f"category {category!r}: the vocabulary does not have it; add it to the table of --vocabulary"
            )
        return self.categories.index(category)


def tokens(text: str) -> list[str]:
    """Cut a text into words, lower-case: letters and digits, everything else parts them.

    >>> tokens("A man's hot-dog.")
    ['a', 'man', 's', 'hot', 'dog']
    """
    return re.findall(r"[^\W_]+", text.lower())


def slug(category: str) -> str:
    """Turn a category into a part of a view's name.

    Raises:
        DataError: if it cannot be one.

    >>> slug("baseball bat")
    'baseball-bat'
    """
    return check_name("-".join(tokens(category)), f"category {category!r} as a view's name")


def load_vocabulary(path: str | None = None) -> Vocabulary:
    """Read a table of categories.

    A CSV with the columns ``category`` and ``synonyms`` and, where wanted, ``hypernym`` and ``decoys``. Phrases are
    joined by ``;``, singular and plural by ``/``; what they mean stands at the head of the table that came along. Lines
    in front that begin with ``#`` are remarks; ``# version: 1`` gives the version.

    Args:
        path: the file; None takes the table of COCO's 80 categories.

    Raises:
        DataError: naming file and line, for a file that is no such table, or a phrase of two categories.
    """
    if path is None:
        return _read("coco80.csv", (files("datamodules.objects") / "coco80.csv").read_bytes())
    file = Path(path).expanduser()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: the vocabulary cannot be read ({error.strerror})") from error
    return _read(str(file), data)


def _read(name: str, data: bytes) -> Vocabulary:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    lines = text.splitlines(keepends=True)
    before = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    table = _Table(name)
    reader = csv.DictReader(io.StringIO("".join(lines[before:]), newline=""), skipinitialspace=True)
    missing = {"category", "synonyms"} - set(reader.fieldnames or ())
    if missing:
        raise DataError(f"{name}: line {before + 1}: no column {sorted(missing)[0]!r}")
    try:
        for row in reader:
            table.add(before + reader.line_num, {key: value or "" for key, value in row.items() if key})
    except csv.Error as error:
        raise DataError(f"{name}: line {before + reader.line_num}: cannot be read ({error})") from error
    version = next((line.partition(":")[2].strip() for line in lines[:before] if "version:" in line), "")
    return table.vocabulary(hashlib.sha256(data).hexdigest(), version)


class _Table:
    """Gathers the rows of a table and refuses what contradicts itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.synonyms: dict[str, tuple[str, ...]] = {}
        self.hypernym: dict[str, str] = {}
        self.hypernym_plural: dict[str, str] = {}
        self.singular: set[str] = set()
        self.plural: set[str] = set()
        self.modifiers: set[str] = set()
        self.decoys: dict[str, int] = {}
        self._owner: dict[str, str] = {}

    def add(self, line: int, row: dict[str, str]) -> None:
        category = " ".join(row["category"].split())
        where = f"{self.name}: line {line}"
        if not category or category in self.synonyms:
            raise DataError(f"{where}: {'stands on another line too' if category else 'no category'} ({category!r})")
        slug(category)
        phrases: dict[str, None] = {}
        for entry in [category, *filter(str.strip, row["synonyms"].split(";"))]:
            forms = [" ".join(tokens(form)) for form in entry.split("/")]
            if not all(forms) or len(forms) > 2:
                raise DataError(f"{where}: {entry!r} is neither WORD nor SINGULAR/PLURAL")
            if "*" in entry:
                self.modifiers.add(forms[0])
            if entry is not category:
                self.singular.add(forms[0])
                self.plural |= set(forms[1:])
            phrases |= dict.fromkeys(forms)
        for phrase in phrases:
            other = self._owner.setdefault(phrase, category)
            if other != category:
                raise DataError(
                    f"{where}: {phrase!r} is a synonym of {other!r} and of {category!r}; leave it out of one"
                )
        self.synonyms[category] = tuple(phrases)
        self.hypernym[category], _, plural = (part.strip() for part in row.get("hypernym", "").partition("/"))
        self.hypernym_plural[category] = plural or self.hypernym[category]
        for decoy in row.get("decoys", "").split(";"):
            if phrase := " ".join(tokens(decoy)):
                self.decoys.setdefault(phrase, line)

    def vocabulary(self, digest: str, version: str) -> Vocabulary:
        if not self.synonyms:
            raise DataError(f"{self.name}: holds no categories")
        for phrase, line in self.decoys.items():
            if phrase in self._owner:
                raise DataError(
                    f"{self.name}: line {line}: {phrase!r} cannot mention nothing and {self._owner[phrase]!r}; leave "
                    "out one of the two"
                )
        return Vocabulary(
            tuple(self.synonyms),
            self.synonyms,
            self.hypernym,
            digest,
            self.hypernym_plural,
            frozenset(self.plural - self.singular),
            frozenset(self.modifiers),
            tuple(self.decoys),
            version,
        )
