"""Which objects a caption mentions: the longest phrase first, so that a hot dog is no dog."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datamodules.objects.vocabulary import Vocabulary, tokens

Span = tuple[int, int, str | None]
"""First token, token after the last, category; None for a decoy."""

DETERMINERS = frozenset(
    """
    a an the this that these those one two three four five six seven eight nine ten eleven twelve some several many few
    any each every both another no his her its their my our your various multiple numerous half
    """.split()  # noqa: SIM905 - forty lines otherwise
)
# What may follow a noun that is the head of its phrase.
_FOLLOWING = frozenset(
    """
    and or but while as with without of in on at to from by into onto over under up down out off for near next beside
    behind through along across around between against toward towards inside outside above below upon is are was were be
    been has have had that which who whose where when there here sits sit stands stand lies lie looks look being during
    before after
    """.split()  # noqa: SIM905
)


class Mentions:
    """Parses captions for the categories of a vocabulary.

    From left to right, the longest phrase that begins at a token wins and is passed over whole: "a hot dog" mentions a
    hot dog, "teddy bear" no bear, "bus stop" nothing. A phrase that is a modifier as often ("an orange cat", "a
    baseball cap") mentions its category only where a determiner stands before it and the caption ends after it or goes
    on with a word that can follow a noun ("an orange on a plate").

    Args:
        vocabulary: categories and phrases.

    >>> from datamodules.objects.vocabulary import load_vocabulary
    >>> mentions = Mentions(load_vocabulary())
    >>> sorted(mentions.of("A puppy eats a hot dog at the bus stop"))
    ['dog', 'hot dog']
    >>> mentions.spans("A puppy eats a hot dog at the bus stop")
    [(1, 2, 'dog'), (4, 6, 'hot dog'), (8, 10, None)]
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        phrases: dict[tuple[str, ...], str | None] = {tuple(tokens(decoy)): None for decoy in vocabulary.decoys}
        for category, synonyms in vocabulary.synonyms.items():
            phrases |= dict.fromkeys((tuple(tokens(phrase)) for phrase in synonyms), category)
        self._modifiers = {tuple(tokens(phrase)) for phrase in vocabulary.modifiers}
        self._by_first: dict[str, list[tuple[tuple[str, ...], str | None]]] = {}
        for phrase in sorted(phrases, key=len, reverse=True):
            self._by_first.setdefault(phrase[0], []).append((phrase, phrases[phrase]))

    def of(self, caption: str) -> frozenset[str]:
        """Categories that a caption mentions."""
        return frozenset(category for _, _, category in self.spans(caption) if category is not None)

    def spans(self, caption: str) -> list[Span]:
        """Where a caption mentions what, in its tokens (:func:`datamodules.objects.vocabulary.tokens`)."""
        return self.spans_of(tokens(caption))

    def spans_of(self, words: Sequence[str]) -> list[Span]:
        """The same of a caption that is cut into tokens already."""
        found: list[Span] = []
        at = 0
        while at < len(words):
            span = self._longest(words, at)
            if span is None:
                at += 1
                continue
            found.append(span)
            at = span[1]
        return found

    def _longest(self, words: Sequence[str], at: int) -> Span | None:
        for phrase, category in self._by_first.get(words[at], ()):
            end = at + len(phrase)
            if tuple(words[at:end]) != phrase:
                continue
            if phrase not in self._modifiers or self._is_head(words, at, end):
                return at, end, category
        return None

    @staticmethod
    def _is_head(words: Sequence[str], start: int, end: int) -> bool:
        if start == 0 or words[start - 1] not in DETERMINERS:
            return False
        return end == len(words) or words[end] in _FOLLOWING or words[end].endswith("ing")

    def matrix(self, captions: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Tabulate mentions: [T, C] bool, categories in the vocabulary's order."""
        place = {category: at for at, category in enumerate(self.vocabulary.categories)}
        found = np.zeros((len(captions), len(place)), dtype=bool)
        for row, caption in enumerate(captions):
            for category in self.of(caption):
                found[row, place[category]] = True
        return found
