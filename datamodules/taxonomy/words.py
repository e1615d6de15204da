"""Lists of neutral words: what came along (``words.csv``), and users' own."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from datamodules.errors import DataError

CORE = "core"
PARTS_OF_SPEECH = ("noun", "adjective", "activity")
_CATEGORY = "words"  # of users' lists that name none


@dataclass(frozen=True)
class Entry:
    """A word of one category; a word that two categories hold is two entries.

    Attributes:
        category: what kind of word it is.
        word: as it stands in a prompt.
        tier: how well it is established: "core", "extended".
        part_of_speech: "noun" (doctor), "adjective" (smart) or "activity" (reading a book).
        seen_in: the lists that hold it.
    """

    category: str
    word: str
    tier: str = CORE
    part_of_speech: str = "adjective"
    seen_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Taxonomy:
    """A list of words, or a part of one.

    Attributes:
        name: the file's, or that of a prompt set.
        version: as the file says, empty where it does not.
        digest: SHA-256 of the whole file, whatever part of it this is; to be stored with every result.
        entries: in the file's order, no two of one category and word.
    """

    name: str
    version: str
    digest: str
    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.entries)

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories in the order of their first words."""
        return tuple(dict.fromkeys(entry.category for entry in self.entries))


def load_taxonomy(
    path: str | Path | None = None,
    tiers: Sequence[str] | None = (CORE,),
    categories: Sequence[str] | None = None,
) -> Taxonomy:
    """Read a list of words.

    A CSV with a column ``word`` and, where wanted, ``category`` (default "words"), ``tier`` ("core"),
    ``part_of_speech`` ("adjective") and ``seen_in`` (lists joined by ``+``). Lines in front that begin with ``#`` are
    remarks; ``# version: 1`` gives the version.

    Args:
        path: the file; None takes the list that came along, after So-B-IT (arXiv 2411.00997; what it is and is not
            stands at its head).
        tiers: keep these; None keeps all.
        categories: keep these; None keeps all.

    Raises:
        DataError: naming file and line, for a file that is no such list, or a tier or category that it does not have.

    >>> taxonomy = load_taxonomy()
    >>> len(taxonomy), taxonomy.categories[:2]
    (405, ('appearance', 'behavioral'))
    """
    if path is None:
        return read_words("words", _packaged("words.csv"), tiers, categories)
    path = Path(path).expanduser()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the list of words cannot be read ({error.strerror})") from error
    return read_words(str(path), data, tiers, categories)


def packaged_taxonomy(name: str) -> Taxonomy:
    """Read a list that came along, whole: ``words``, ``berg``, ``opposites`` or ``activities``."""
    return read_words(name, _packaged(f"{name}.csv"), None, None)


def _packaged(name: str) -> bytes:
    return (files("datamodules.taxonomy") / name).read_bytes()


def read_words(name: str, data: bytes, tiers: Sequence[str] | None, categories: Sequence[str] | None) -> Taxonomy:
    """Read a list of words from the bytes of its file, see :func:`load_taxonomy`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    lines = text.splitlines(keepends=True)
    remarks = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    version = next((line.partition(":")[2].strip() for line in lines[:remarks] if "version:" in line), "")
    entries = tuple(_entries(name, "".join(lines[remarks:]), remarks))
    whole = Taxonomy(name, version, hashlib.sha256(data).hexdigest(), entries)
    return _part(whole, tiers, categories)


def _entries(name: str, text: str, before: int) -> Iterator[Entry]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    columns = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    if "word" not in columns:
        raise DataError(f"{name}: line {before + 1}: no column 'word' (found: {', '.join(columns) or 'nothing'})")
    seen: dict[tuple[str, str], int] = {}
    try:
        for row in reader:
            line = before + reader.line_num
            found = {column: (row.get(column) or "").strip() for column in columns}
            entry = Entry(
                category=found.get("category") or _CATEGORY,
                word=" ".join(found["word"].split()),
                tier=found.get("tier") or CORE,
                part_of_speech=found.get("part_of_speech") or "adjective",
                seen_in=tuple(filter(None, found.get("seen_in", "").split("+"))),
            )
            if not entry.word:
                raise DataError(f"{name}: line {line}: the word is empty")
            if entry.part_of_speech not in PARTS_OF_SPEECH:
                raise DataError(
                    f"{name}: line {line}: part_of_speech {entry.part_of_speech!r}; choose {', '.join(PARTS_OF_SPEECH)}"
                )
            key = (entry.category, entry.word)
            if key in seen:
                raise DataError(
                    f"{name}: line {line}: {entry.word!r} of category {entry.category!r} stands on line {seen[key]} too"
                )
            seen[key] = line
            yield entry
    except csv.Error as error:
        raise DataError(f"{name}: line {before + reader.line_num}: cannot be read ({error})") from error
    if not seen:
        raise DataError(f"{name}: holds no words")


def _part(whole: Taxonomy, tiers: Sequence[str] | None, categories: Sequence[str] | None) -> Taxonomy:
    entries = whole.entries
    for wanted, what, of in (
        (tiers, "tier", [entry.tier for entry in entries]),
        (categories, "category", [entry.category for entry in entries]),
    ):
        missing = next((name for name in wanted or () if name not in of), None)
        if missing is not None:
            raise DataError(f"{whole.name}: has no {what} {missing!r}; it has {', '.join(dict.fromkeys(of))}")
    kept = tuple(_kept(entries, tiers, categories))
    if not kept:
        raise DataError(f"{whole.name}: no word is of tier {tiers or 'any'} and category {categories or 'any'}")
    return replace(whole, entries=kept)


def _kept(entries: Iterable[Entry], tiers: Sequence[str] | None, categories: Sequence[str] | None) -> Iterator[Entry]:
    for entry in entries:
        if (tiers is None or entry.tier in tiers) and (categories is None or entry.category in categories):
            yield entry
