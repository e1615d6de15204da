"""Captions without the words that are written in their picture, the picture staying as it is.

What parrot captions teach comes from the caption, not from the glyphs: in arXiv 2312.14232 pictures with text whose
captions say none of it train about as well as random ones. So the words are dropped from the caption, and what they
leave behind is mended by a few rules; no parser, no model (our construction).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from datamodules.curation.overlap import word_set
from datamodules.lettering.words import FUNCTION_WORDS, normalised

_SAYING = (
    r"says|say|saying|said|reads|read|reading|states|stating|spells|spelling|bears|bearing|displays|displaying|"
    r"announces|announcing|marked|labell?ed|titled|entitled|named|called|printed|inscribed|lettered|written"
)
_NOUN = r"words?|text|letters|lettering|letter|message|phrase|slogan|name|title|caption|inscription|writing|number"
_ARTICLES = r"a|an|the"
_FUNCTION = "|".join(sorted(FUNCTION_WORDS - {"i"}, key=len, reverse=True))
_OPEN, _CLOSE = "\"“”„«‹'‘(\\[", "\"“”»›'’)\\]"
_HOLE = "\x00"  # where words were dropped
_QUOTED = "\x01"  # where all that stood in quotation marks or brackets was

# What announces words, once nothing is announced: 'that says', 'with the words', 'reading:'.
_ANNOUNCED = re.compile(
    rf"(?:\b(?:which|that|who)\s+)?(?:\b(?:is|are|was|were)\s+)?"
    rf"(?:\b(?:{_SAYING})\s*|(?:\b(?:with|of|by|in)\s+)?(?:\b(?:{_ARTICLES}|some|big|large)\s+)*\b(?:{_NOUN})\s*)+"
    rf"(?:\b(?:as|that|on\s+it)\s*)?[:,]?\s*(?:{_QUOTED}|{_HOLE}(?=\s*(?:$|[.!?,;:)]|\b(?:{_FUNCTION})\b)))",
    re.IGNORECASE,
)
_EMPTY_PAIRS = re.compile(rf"(?<!\w)([{_OPEN}])\s*[,.!?;:\-]?\s*{_HOLE}[\s,.!?;:\-{_HOLE}]*([{_CLOSE}])(?!\w)")
_ARTICLE_BEFORE = re.compile(rf"\b(?:{_ARTICLES})\s+{_HOLE}(?=\s*(?:$|[.!?,;:)]|\b(?:{_FUNCTION})\b))", re.IGNORECASE)
_DANGLING = re.compile(
    r"(?:\s*\b(?:and|or|of|with|without|for|from|by|to|in|on|at|as|into|that|which|is|are|a|an|the)\b)*\s*"
    rf"{_HOLE}(?=\s*(?:$|[.!?;]))",
    re.IGNORECASE,
)
_LEADING = re.compile(rf"^\s*{_HOLE}\s*(?:(?:and|or|of|is|are)\b\s*)?", re.IGNORECASE)
_TWO_JOINTS = re.compile(
    rf"\b(of|with|for|from|by|in|on|at|and|or)\s+{_HOLE}\s+(?=(?:of|with|for|from|by|in|on|at|and|or)\b)", re.IGNORECASE
)
_AN = re.compile(rf"\b(a|an)\s+{_HOLE}\s*(?=(\w))", re.IGNORECASE)
_SPACE_BEFORE = re.compile(r"\s+([,.!?;:)])")
_REPEATED = re.compile(r"([,;:])(?:\s*[,;:])+|[,;:]\s*(?=[.!?])")


def edit_caption(caption: str, words: Iterable[str], *, keep_function_words: bool = True) -> str | None:
    """Drop from a caption the words that are written in its picture.

    Words are compared without case and outer punctuation (:func:`datamodules.lettering.words.normalised`). What stays
    behind is mended: empty quotation marks and brackets, verbs that announce nothing ("that says"), articles and
    prepositions without their noun, spaces, punctuation, "a" or "an", and the first capital.

    Args:
        caption: the sentence.
        words: text found in the picture, words or longer pieces.
        keep_function_words: articles, prepositions, pronouns and auxiliaries stay, though a sign may say "the" too,
            but for those beside a dropped word that are written as well, and whole pieces of text: "NO PARKING" and
            "JUST DO IT" go.

    Returns:
        The caption as it is, where none of its words is written in the picture; without them, where some are; None
        where nothing that says something would be left. Deterministic.

    >>> edit_caption('A red sign that says "STOP" on a pole.', ["stop"])
    'A red sign on a pole.'
    >>> edit_caption("An OPEN umbrella at the Corner Cafe", ["open", "CORNER CAFE"])
    'An umbrella'
    >>> edit_caption("Stop!", ["STOP"]) is None
    True
    """
    pieces = [tuple(filter(None, map(normalised, piece.split()))) for piece in words]
    written = frozenset(word for piece in pieces for word in piece)
    drop = written - FUNCTION_WORDS if keep_function_words else written
    tokens = caption.split()
    dropped = _dropped([normalised(token) for token in tokens], drop, written, pieces)
    if not any(dropped):
        return caption
    text = " ".join(_held(token) if gone else token for token, gone in zip(tokens, dropped, strict=True))
    text = re.sub(rf"{_HOLE}(?:\s*{_HOLE})*", _HOLE, text)
    before = None
    while before != text:  # an empty pair of quotation marks may leave a verb without its object, and so on
        before = text
        text = _ANNOUNCED.sub(_HOLE, _EMPTY_PAIRS.sub(_QUOTED, text)).replace(_QUOTED, _HOLE)
        text = re.sub(rf"{_HOLE}(?:\s*(?:and|or|&|,|-)?\s*{_HOLE})+", _HOLE, text)
        for rule in (_ARTICLE_BEFORE, _DANGLING):
            text = rule.sub(_HOLE, text)
    text = _LEADING.sub("", text)
    text = _TWO_JOINTS.sub("", text)
    text = _AN.sub(lambda found: f"{_article(found[1], found[2])} ", text)
    text = text.replace(_HOLE, " ")
    text = _REPEATED.sub(lambda found: found[1] or "", _SPACE_BEFORE.sub(r"\1", " ".join(text.split())))
    text = re.sub(r"^[\s,.;:!?&\-–—]+", "", text).rstrip(" ,;:&-–—")
    if not word_set(text) - FUNCTION_WORDS:
        return None
    if caption.lstrip()[:1].isupper():
        text = text[0].upper() + text[1:]
    return text


def _dropped(
    words: list[str], drop: frozenset[str], written: frozenset[str], pieces: Sequence[tuple[str, ...]]
) -> list[bool]:
    """Which words go: those to drop, pieces of text as a whole, and what is written beside one of them."""
    gone = [word in drop for word in words]
    for piece in pieces:
        for start in range(len(words) - len(piece) + 1 if len(piece) > 1 else 0):
            if tuple(words[start : start + len(piece)]) == piece:
                gone[start : start + len(piece)] = [True] * len(piece)
    for order in (range(1, len(words)), range(len(words) - 2, -1, -1)):
        for at in order:  # by the neighbour that was looked at before
            gone[at] = gone[at] or (gone[at - order.step] and words[at] in written)
    return gone


def _held(token: str) -> str:
    """What stays of a dropped token: its outer punctuation around a hole."""
    letters = [at for at, letter in enumerate(token) if unicodedata.category(letter)[0] not in "PS"]
    return f"{token[: letters[0]]}{_HOLE}{token[letters[-1] + 1 :]}" if letters else _HOLE


def _article(article: str, letter: str) -> str:
    """Return "a" or "an" by the letter that follows, in the case that it had."""
    found = "an" if letter.lower() in "aeiou" else "a"
    return found.capitalize() if article[0].isupper() else found
