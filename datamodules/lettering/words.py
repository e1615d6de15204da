"""Lists of words, what captions say, and words that they do not say."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from datamodules.errors import DataError
from datamodules.lettering.fonts import is_unspaced

SHIPPED = ("en", "ar", "el", "he", "hi", "ja", "ko", "ru", "th", "zh", "things")
"""Lists that come along, by language."""

# Words that carry no content of a caption: articles, pronouns, prepositions, conjunctions, auxiliaries, common adverbs.
_FUNCTION_WORDS = """
a about above across after again against all along also am an and another any are around as at away back be because
been before behind being below beneath beside between beyond both but by can could did do does doing down during each
either etc every few for from front get gets getting had has have having he her here hers him his how i if in inside
into is it its itself just like many may me might more most much my near nearby next no nor not of off on one onto or
other our out outside over own past put several she should since so some someone something such than that the their
them themselves then there these they this those through to together too toward towards two three four five under
underneath until up upon us very via was we were what when where which while who whom whose why will with within
without would you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@lru_cache(maxsize=65536)
def normalised(word: str) -> str:
    """A word for comparing: compatibility forms unified (NFKC), case folded, punctuation and symbols at its ends gone.

    Marks within a word stay (``t-shirt``, ``don't``), and so do the vowel signs of other scripts. What consists of
    punctuation alone becomes empty.

    Example:
        >>> normalised("“STOP!”"), normalised("Straße,"), normalised("...")
        ('stop', 'strasse', '')
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
    ends = [at for at, letter in enumerate(folded) if unicodedata.category(letter)[0] in "LMN"]
    return folded[ends[0] : ends[-1] + 1] if ends else ""


def words_of(caption: str) -> tuple[str, ...]:
    """The normalised words of a caption, split at white space, in their order; empty ones are left out.

    Scripts without spaces between words (Chinese, Japanese, Thai ...) stay whole; `says` looks into them.

    Example:
        >>> words_of("A dog - and a DOG's bone.")
        ('a', 'dog', 'and', 'a', "dog's", 'bone')
    """
    return tuple(word for word in map(normalised, caption.split()) if word)


def content_words(caption: str) -> tuple[str, ...]:
    """The words of a caption without function words and numbers, each once, normalised.

    Example:
        >>> content_words("A dog is running on the 2 beaches; a dog!")
        ('dog', 'running', 'beaches')
    """
    found = (word for word in words_of(caption) if word not in FUNCTION_WORDS and not word.isdigit() and len(word) > 1)
    return tuple(dict.fromkeys(found))


def says(captions: Iterable[str], word: str) -> bool:
    """Whether a caption says a word, in singular or plural, or the words of a name one after the other.

    In scripts without spaces it is looked for anywhere.

    Example:
        >>> says(["Two hot dogs."], "hot dog"), says(["A dog, hot."], "hot dog"), says(["一只猫。"], "猫")
        (True, False, True)
    """
    captions = tuple(captions)
    wanted = _forms_of(word)
    if not wanted:
        return False
    if is_unspaced(word):
        return any(normalised(word) in unicodedata.normalize("NFKC", caption).casefold() for caption in captions)
    return any(_holds(_forms_of(caption), wanted) for caption in captions)


Forms = tuple[frozenset[str], ...]


@lru_cache(maxsize=16384)
def _forms_of(text: str) -> Forms:
    return tuple(_forms(word) for word in words_of(text))


def _holds(said: Forms, wanted: Forms) -> bool:
    places = range(len(said) - len(wanted) + 1)
    return any(all(said[at + step] & form for step, form in enumerate(wanted)) for at in places)


@lru_cache(maxsize=65536)
def _forms(word: str) -> frozenset[str]:
    """An English word and what it may be the plural of: two words are taken for one if these have one in common."""
    word = word.removesuffix("'s").removesuffix("’s")
    found = {word}
    if not word.endswith("ss"):
        for ending, singular in (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe")):
            if word.endswith(ending) and len(word) >= len(ending) + 3:
                found.add(word.removesuffix(ending) + singular)
    return frozenset(found)


def pick_word(words: Sequence[str], captions: Iterable[str], u: float) -> str:
    """Pick a word that no caption says: a pure function of its arguments.

    Args:
        words: to pick from.
        captions: of the picture.
        u: uniform in [0, 1): the word at this place of the list, or the next one that no caption says.

    Raises:
        DataError: if the list is empty, or captions say all of it.

    Example:
        >>> pick_word(("cat", "dog", "cow"), ["Two dogs."], 0.4)
        'cow'
    """
    captions = tuple(captions)
    first = min(int(u * len(words)), len(words) - 1)
    for step in range(len(words)):
        word = words[(first + step) % len(words)]
        if not says(captions, word):
            return word
    what = "the list of words is empty" if not words else "captions say every word of the list"
    raise DataError(f"{what}; give a longer list (captions: {list(captions)[:3]})")


def load_words(path: str | Path | None = None) -> tuple[str, ...]:
    """Read a list of words.

    Nothing stands for a missing value: ``null`` and ``nan`` are words.

    Args:
        path: of a text file with a word or name on each line, or of a .csv, of which the column ``word`` is read, or
            the first one where no header says so. Or the name of a list that comes along, made for this project:
            ``en`` (the default, about 1,000 names of things), ``ar``, ``el``, ``he``, ``hi``, ``ja``, ``ko``, ``ru``,
            ``th`` or ``zh`` (about 60 each); or ``things`` (two dozen short names of what photos often show, so few
            that a small retriever learns to read them).

    Returns:
        The words in their order, each once (compared as `normalised`).

    Raises:
        DataError: if the file cannot be read as UTF-8, or holds no word.

    Example:
        >>> len(load_words()) > 900
        True
    """
    if path is None or str(path) in SHIPPED:
        return _shipped(str(path or SHIPPED[0]))
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list of words {path}: cannot be read as UTF-8 text ({error})") from error
    lines = text.splitlines()
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(lines) if row]
        header = [normalised(cell) for cell in rows[0]] if rows else []
        column = header.index("word") if "word" in header else 0
        if "word" in header:
            rows = rows[1:]
        short = next((number for number, row in enumerate(rows) if len(row) <= column), None)
        if short is not None:
            raise DataError(f"list of words {path}: row {rows[short]} has no column {column + 1}")
        lines = [row[column] for row in rows]
    found = _each_once(lines)
    if not found:
        raise DataError(f"list of words {path}: holds no word; write one on each line")
    return found


@cache
def _shipped(name: str) -> tuple[str, ...]:
    return _each_once(files("datamodules.lettering").joinpath(f"words_{name}.txt").read_text("utf-8").splitlines())


def _each_once(lines: Iterable[str]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for line in lines:
        word = " ".join(line.split())
        if normalised(word):
            found.setdefault(normalised(word), word)
    return tuple(found.values())


def digest_of(words: Sequence[str]) -> str:
    """SHA-256 of a list of words, for the record of what was measured or made with it."""
    return sha256("\n".join(words).encode()).hexdigest()
