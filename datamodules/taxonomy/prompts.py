"""Words written out as queries. Published versions disagree on the wording, so that it is an axis of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from datamodules.errors import DataError
from datamodules.taxonomy.words import Entry

Mode = Literal["article", "bare", "literal", "bm"]
MODES: tuple[Mode, ...] = get_args(Mode)

# Where the first letter misleads. No word of the list that came along begins like these.
_SILENT_H = ("heir", "honest", "honor", "honour", "hour")
_LIKE_YOU = ("eu", "ewe", "unicorn", "unif", "unio", "uniq", "unit", "univ", "use", "usu", "utop", "one-", "once")
_PLAIN_NOUNS = frozenset({"occupation", "political"})  # the categories to which mode "bm" adds no "person"


@dataclass(frozen=True)
class Prompt:
    """A word written out as a query.

    Attributes:
        category: the word's.
        word: the word itself.
        tier: the word's.
        text: the query.
    """

    category: str
    word: str
    tier: str
    text: str


def word_prompts(entries: Sequence[Entry], mode: Mode = "article") -> tuple[Prompt, ...]:
    """Write words out as queries, one each.

    - "article": "A photo of an actor.", "A photo of a smart person." (BendVLM's wording with the right article)
    - "bare": the word alone (ameliagmz/Debiasing_CLIP_Neural_Interventions)
    - "literal": "a photo of a/an actor", both articles as they stand here, a slip of lluisgomez/SynthFairCLIP, for
      comparison with its figures
    - "bm": "a photo of a actor" for the categories occupation and political, "a photo of a WORD person" for all others
      (InterVisions/broken_mirror)

    An activity follows the person: "A photo of a person reading a book."; that is ours in every mode.

    Args:
        entries: words, such as those of a taxonomy.
        mode: the wording.

    Raises:
        DataError: for an unknown mode.

    >>> [prompt.text for prompt in word_prompts([Entry("occupation", "actor", part_of_speech="noun")])]
    ['A photo of an actor.']
    """
    if mode not in MODES:
        raise DataError(f"prompts: there is no mode {mode!r}; choose {', '.join(MODES)}")
    return tuple(Prompt(entry.category, entry.word, entry.tier, _text(entry, mode)) for entry in entries)


def _text(entry: Entry, mode: Mode) -> str:
    if mode == "bare":
        return entry.word
    if mode == "article":
        return f"A photo of {with_article(phrase(entry))}."
    if mode == "literal":
        return f"a photo of a/an {phrase(entry)}"
    if entry.part_of_speech == "activity":
        return f"a photo of a {phrase(entry)}"
    return f"a photo of a {entry.word}{'' if entry.category in _PLAIN_NOUNS else ' person'}"


def phrase(entry: Entry, person: str = "person") -> str:
    """The person whom a word describes, without an article.

    >>> phrase(Entry("wealth", "rich")), phrase(Entry("a", "running", part_of_speech="activity"), "woman")
    ('rich person', 'woman running')
    """
    return {
        "noun": entry.word,
        "adjective": f"{entry.word} {person}",
        "activity": f"{person} {entry.word}",
    }[entry.part_of_speech]


def with_article(words: str) -> str:
    """Put the indefinite article in front: by the first letter, but for a few beginnings that sound otherwise.

    >>> with_article("actor"), with_article("CEO"), with_article("honest person"), with_article("uninsured person")
    ('an actor', 'a CEO', 'an honest person', 'an uninsured person')
    """
    start = words.lower()
    vowel = start.startswith(_SILENT_H) or (start[:1] in "aeiou" and not start.startswith(_LIKE_YOU))
    return f"{'an' if vowel else 'a'} {words}"
