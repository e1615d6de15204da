"""Takes an object out of a caption, by rules: what is left is true of the picture without it, and grammatical."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from datamodules.decorrelation.deletion import Deletion, is_noun
from datamodules.decorrelation.grammar import CONJUNCTIONS, PREPOSITIONS, clauses, cut, is_plural
from datamodules.objects.mentions import Mentions
from datamodules.objects.vocabulary import tokens
from datamodules.taxonomy.prompts import with_article

How = Literal["untouched", "deleted", "hypernym"]

_OPENING = re.compile(
    r"^\s*(?:(?:here|there|this|these|it)(?:\s+(?:is|are|was|were)|'s)\s+"
    r"|(?:an?|the|this\s+is\s+an?)?\s*(?:[\w-]+\s+){0,3}?(?:photo|photograph|picture|image|view|shot|close\s?-?up)s?"
    r"(?:\s+(?:photo|photograph|picture|image|view|shot))?\s+(?:of|with|showing|shows)\s+)+",
    re.IGNORECASE,
)


class Edit(NamedTuple):
    """A caption without an object, and how that came about."""

    text: str
    how: How


class CaptionEditor:
    """Takes objects out of captions.

    The noun phrase that mentions the object goes, with its determiners and adjectives, with the preposition,
    conjunction or verb that led to it, and with the clauses that hang on it. Where it was the subject, the things that
    the sentence places beside it become the caption: "A dog sleeps on a couch" becomes "A couch". Deleting keeps what
    is left true of the picture without the object, which "An animal sleeps on a couch" would not be. That is why a
    hypernym is the last resort, for a caption of nothing else: "A dog runs" becomes "An animal runs". Ours.

    Args:
        mentions: the parser that says what mentions the object; the edited caption is checked by it.

    >>> from datamodules.objects import load_vocabulary
    >>> editor = CaptionEditor(Mentions(load_vocabulary()))
    >>> editor("A man with a red frisbee in a park.", "frisbee")
    Edit(text='A man in a park.', how='deleted')
    >>> editor("A dog and a cat sit on a couch", "dog").text
    'A cat sits on a couch'
    """

    def __init__(self, mentions: Mentions) -> None:
        self.mentions = mentions
        self.vocabulary = mentions.vocabulary

    def __call__(self, caption: str, category: str) -> Edit | None:
        """Edit one caption.

        Args:
            caption: any text.
            category: what to take out; a category of the vocabulary.

        Returns:
            The edit; None where nothing would be left, or the category would still be mentioned.
        """
        if category not in self.mentions.of(caption):
            return Edit(caption, "untouched")
        text = self._delete(caption, category)
        if text and self._is_sound(text, category):
            return Edit(text, "deleted")
        text = self._widen(caption, category)
        return Edit(text, "hypernym") if text and self._is_sound(text, category) else None

    def _is_sound(self, text: str, category: str) -> bool:
        if category in self.mentions.of(text):
            return False
        words = tokens(text)
        mentioned = any(its is not None for _, _, its in self.mentions.spans_of(words))
        return mentioned or any(is_noun(word) for word in words)

    # Deletion --------------------------------------------------------------------------------------------------------

    def _delete(self, caption: str, category: str) -> str:
        opening = _OPENING.match(caption)
        body = caption[opening.end() :] if opening else caption
        words = cut(body)
        spans = self.mentions.spans_of([word.low for word in words])
        gone = {at for start, end, its in spans if its == category for at in range(start, end)}
        named = {at for start, end, its in spans if its is not None for at in range(start, end)} - gone
        if not gone:
            return ""
        pieces: list[str] = []
        for clause in clauses(words, {at for start, end, _ in spans for at in range(start, end)}):
            deletion = Deletion(clause, gone, named)
            piece = deletion.text()
            if pieces and deletion.lost_subject and not deletion.names:
                continue  # "while a man waits for a train" is of no use without the man
            if piece:
                joint = " ".join(words[at].raw.lower() for at in clause.opening)
                joint = "and" if deletion.lost_subject else joint
                pieces.append(f"{joint} {piece}".strip() if pieces else piece)
        text = " ".join(pieces)
        return _finished(text, caption) if text else ""

    # Hypernyms -------------------------------------------------------------------------------------------------------

    def _widen(self, caption: str, category: str) -> str:
        vocabulary = self.vocabulary
        if not vocabulary.hypernym.get(category):
            return ""
        words = cut(caption)
        parts: list[str] = []
        at = 0
        spans = {start: end for start, end, its in self.mentions.spans(caption) if its == category}
        while at < len(words):
            if at not in spans:
                parts.append(words[at].gap + words[at].raw)
                at += 1
                continue
            phrase = " ".join(word.low for word in words[at : spans[at]])
            plural = phrase in vocabulary.plurals or (is_plural(phrase) and phrase not in vocabulary.categories)
            wider = (vocabulary.hypernym_plural if plural else vocabulary.hypernym)[category]
            if at and words[at - 1].low in ("a", "an"):
                article = with_article(wider).split()[0]
                parts[-1] = words[at - 1].gap + (article.capitalize() if words[at - 1].raw[0].isupper() else article)
            parts.append(words[at].gap + wider)
            at = spans[at]
        return _finished("".join(parts).strip(), caption)


def _finished(text: str, original: str) -> str:
    """Trim dangling words, begin as the original begins and end as it ends."""
    words = text.strip(" ,;:.-").split()
    dangling = PREPOSITIONS | CONJUNCTIONS | {"a", "an", "the", "next", "while", "as", "but", "when", "where"}
    while words and words[-1].lower().strip(",") in dangling - {"outside", "inside", "up", "down"}:
        words.pop()
    first = original.split()[0].lower() if original.split() else ""
    leading = CONJUNCTIONS | PREPOSITIONS | {"while", "as", "but", "when"}
    while words and words[0].lower().strip(",") in leading and words[0].lower() != first:
        words.pop(0)
    text = " ".join(words).strip(" ,;:")
    if not text:
        return ""
    if original.strip()[:1].isupper():
        text = text[0].upper() + text[1:]
    elif text[1:2].islower() or len(words[0]) == 1:  # "A dog", not "TV"
        text = text[0].lower() + text[1:]
    return text + ("." if original.rstrip().endswith(".") else "")
