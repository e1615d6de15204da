"""Finding words and phrases in captions, by whole tokens.

A list of words is searched token by token, never letter by letter ("man" is not in "woman" or "Germany"), and with its
plurals ("boys", "ladies"), whose lack is a known fault of published scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_TOKEN = re.compile(r"[^\W_]+")
_IRREGULAR = {"child": "children", "person": "people", "thief": "thieves"}


def tokens(text: str) -> tuple[str, ...]:
    """Cut a text into lower-case tokens; hyphens and apostrophes divide.

    >>> tokens("A working-class lady's hat")
    ('a', 'working', 'class', 'lady', 's', 'hat')
    """
    return tuple(_TOKEN.findall(text.lower()))


def plural(noun: str) -> str:
    """The regular plural of an English noun, of its last token where it has several, and the commonest irregular ones.

    >>> [plural(noun) for noun in ("boy", "lady", "fireman", "midwife", "boss", "person")]
    ['boys', 'ladies', 'firemen', 'midwives', 'bosses', 'people']
    """
    *first, last = noun.split(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last in ("man", "woman") or (last.endswith("man") and len(last) > 5):
        last = last[:-2] + "en"
    elif last.endswith("wife"):
        last = last[:-2] + "ves"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last += "es"
    else:
        last += "s"
    return " ".join([*first, last])


class TermIndex:
    """Looks up many terms in a text at once.

    Args:
        terms: lists of words and phrases; a text mentions a list where it holds one of its entries.
    """

    def __init__(self, terms: Sequence[Iterable[str]]) -> None:
        found: dict[tuple[str, ...], set[int]] = {}
        for number, entries in enumerate(terms):
            for entry in entries:
                found.setdefault(tokens(entry), set()).add(number)
        self._owners: Mapping[tuple[str, ...], set[int]] = {term: owners for term, owners in found.items() if term}
        self._lengths = sorted({len(term) for term in self._owners})

    def mentioned(self, text: str) -> set[int]:
        """Numbers of the lists that the text mentions.

        >>> sorted(TermIndex([["man", "men"], ["police officer"]]).mentioned("A police officer and two women"))
        [1]
        """
        words = tokens(text)
        found: set[int] = set()
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                found |= self._owners.get(words[start : start + length], set())
        return found
