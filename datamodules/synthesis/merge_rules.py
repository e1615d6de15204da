"""Merges a photo's captions into one prompt by rules: no model, no network, the same text for ever."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Words that name nothing which could be seen.
_STOP = frozenset(
    """
    a an the this that these those some several many few one his her its their our your my he she it they we you i
    is are was were be been being am do does did has have had having there here and or but while as than then so
    of in on at to from by with without into onto over under up down out off for near next beside behind front
    through along across around between against toward towards inside outside above below upon
    who which what where when very just also other another each both all photo picture image view
    """.split()  # noqa: SIM905 - forty lines otherwise
)

# Annotators name one person by different words; "boy" after "child" says more, "guy" after "man" does not.
_SAME = {
    "guy": "man", "gentleman": "man", "male": "man", "fellow": "man", "lady": "woman", "female": "woman",
    "kid": "child", "toddler": "child", "kids": "child", "children": "child", "men": "man", "women": "woman",
    "guys": "man", "ladies": "woman", "people": "person", "persons": "person", "individual": "person",
    "someone": "person", "puppy": "dog", "kitten": "cat", "bike": "bicycle", "photograph": "photo",
}  # fmt: skip

_OPENING = re.compile(
    r"^(?:(?:here|there|this)\s+(?:is|are|was|were)\s+|(?:a|an|the)\s+(?:photo|photograph|picture|image|view|shot)\s+of\s+)+",
    re.IGNORECASE,
)
_BOUNDARY = re.compile(
    r"\s*[,;:]\s*|\s+(?=(?:and|while|as|with|wearing|holding|in|on|at|near|next|beside|behind|by|through|along|across"
    r"|around|under|over|against|inside|outside|during|for|from|into|onto|towards?|between)\b)",
    re.IGNORECASE,
)
_LEADING = re.compile(r"^(?:and|while|as|but|or)\b\s*", re.IGNORECASE)


def merge_captions(captions: Sequence[str], max_words: int = 50) -> str:
    """Merge captions of one photo: the richest one whole, then what the others add.

    The caption that names most things comes first. The others are cut at commas, conjunctions and prepositions, and a
    piece is appended if it names something that has not been named; most telling captions first. Ours; the reference
    recipe asks a language model.

    Args:
        captions: one or more sentences.
        max_words: pieces that would exceed it are left out; a longer first caption is cut.

    Returns:
        The prompt, without a full stop.

    >>> merge_captions(["A dog runs.", "There is a brown dog by the sea", "A puppy runs, with a red ball"])
    'A puppy runs, with a red ball, a brown dog, by the sea'
    """
    cleaned = [text for text in (_clean(caption) for caption in captions) if text]
    if not cleaned:
        return " ".join(" ".join(captions).split()[:max_words])
    # Python's sort keeps the order of equals: the earlier caption wins.
    first, *others = sorted(cleaned, key=lambda text: -len(_things(text)))
    prompt = " ".join(first.split()[:max_words]).rstrip(" ,;:")
    words, named = len(prompt.split()), set(_things(first))
    while others:
        best = max(others, key=lambda text: len(_things(text) - named))  # the first of the best, as above
        others.remove(best)
        for piece in _pieces(best):
            added = _things(piece) - named
            if added and words + len(piece.split()) <= max_words:
                prompt += f", {piece[0].lower()}{piece[1:]}" if not piece.isupper() else f", {piece}"
                words += len(piece.split())
                named |= added
    return prompt


def _pieces(caption: str) -> list[str]:
    """Cut a caption; a word that would stand alone ("standing") goes with what follows it ("on a lake")."""
    pieces: list[str] = []
    for piece in _BOUNDARY.split(caption):
        piece = _LEADING.sub("", piece.strip(" .,;:"))
        if pieces and len(pieces[-1].split()) < 2:
            pieces[-1] = f"{pieces[-1]} {piece}".strip()
        elif piece:
            pieces.append(piece)
    return pieces


def _clean(caption: str) -> str:
    text = re.sub(r"\s+([,.;:!?'])", r"\1", " ".join(caption.split()))  # tokenised captions: "a dog ."
    return _OPENING.sub("", text).strip(" .!,;:")


def _things(text: str) -> set[str]:
    """The words of a text that name something, by their stems."""
    words = re.findall(r"[^\W_]+", text.lower())
    return {_stem(_SAME.get(word, word)) for word in words if word not in _STOP}


def _stem(word: str) -> str:
    """Cut endings, so that "runs", "running" and "run" count as one. Coarse on purpose."""
    for ending in ("ing", "ed", "es", "s"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= 3:
            word = stem
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]  # running: runn
    word = _SAME.get(word, word)
    return word.rstrip("e") if len(word) > 3 else word
