"""How much of a caption is written in its picture: co-embedded text, CoTR and fuzzy CoTR.

After "Parrot Captions Teach CLIP to Spot Text" (arXiv 2312.14232), algorithm 1: with the word sets W_c of the caption
and W_o of the text in the picture, split at white space, CoTR = |W_c & W_o| / |W_c|. The paper's prose calls it an
intersection over union; its algorithm divides by the caption's words alone, and so do we.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rapidfuzz.distance import Levenshtein

from datamodules.errors import DataError
from datamodules.lettering.words import normalised


def word_set(text: str | Iterable[str], *, normalise: bool = True) -> frozenset[str]:
    """Split at white space into a set of words.

    Args:
        text: a caption, or pieces of text that were found in a picture.
        normalise: see :func:`datamodules.lettering.words.normalised`; words of which nothing is left are dropped.

    >>> sorted(word_set("Stop the car. STOP!"))
    ['car', 'stop', 'the']
    >>> sorted(word_set(["stop", "stop sign"], normalise=False))
    ['sign', 'stop']
    """
    pieces = (text,) if isinstance(text, str) else text
    words = (word for piece in pieces for word in piece.split())
    if not normalise:
        return frozenset(words)
    return frozenset(map(normalised, words)) - {""}


def ratio(caption: frozenset[str], written: frozenset[str]) -> float:
    """CoTR of word sets; NaN where the caption has no word."""
    return len(caption & written) / len(caption) if caption else math.nan


def fuzzy_ratio(caption: frozenset[str], written: frozenset[str], threshold: float) -> float:
    """Fuzzy CoTR of word sets; NaN where the caption has no word."""
    if not caption:
        return math.nan
    if not written:
        return 0.0
    same = caption & written
    alike = sum(any(_alike(word, other, threshold) for other in written) for word in caption - same)
    return (len(same) + alike) / len(caption)


def _alike(word: str, other: str, threshold: float) -> bool:
    # In whole letters: the library's normalised cutoff loses similarities that equal the threshold but for rounding.
    most = int((1.0 - threshold) * max(len(word), len(other)) + 1e-9)
    return abs(len(word) - len(other)) <= most and Levenshtein.distance(word, other, score_cutoff=most) <= most


def cotr(caption: str, words: Iterable[str], *, normalise: bool = True) -> float:
    """Co-embedded text rate: the share of a caption's words that are written in the picture (arXiv 2312.14232, alg. 1).

    Args:
        caption: W_c is the set of its words.
        words: text found in the picture, words or longer pieces; W_o is the set of their words.
        normalise: compare without case and outer punctuation. The paper shows no such step: False compares words as
            they are spelt. On by default, since signs are mostly in capitals and captions mostly not (our choice).

    Returns:
        In [0, 1]; NaN where the caption has no word, which callers count. 0 where nothing is written.

    >>> cotr("a stop sign", ["STOP"]), cotr("a stop sign", ["STOP"], normalise=False)
    (0.3333333333333333, 0.0)
    >>> cotr("stop", ["stop", "all", "way"])  # not 1/3, as an intersection over union would be
    1.0
    """
    return ratio(word_set(caption, normalise=normalise), word_set(words, normalise=normalise))


def fuzzy_cotr(caption: str, words: Iterable[str], threshold: float, *, normalise: bool = True) -> float:
    """CoTR with a caption's word counted as written where some written word is as similar as ``threshold``.

    Similarity is 1 - d / max(length) with the Levenshtein distance d. The paper gives no threshold, so there is no
    default; report it with the figure.

    Args:
        caption: as in :func:`cotr`.
        words: as in :func:`cotr`.
        threshold: in (0, 1]; 1 gives :func:`cotr`.
        normalise: as in :func:`cotr`.

    Returns:
        In [cotr, 1]; NaN where the caption has no word.

    Raises:
        DataError: for a threshold outside (0, 1].

    >>> fuzzy_cotr("a coffee shop", ["C0FFEE"], 0.8)  # one letter of six: 0.83
    0.3333333333333333
    """
    check_threshold(threshold)
    return fuzzy_ratio(word_set(caption, normalise=normalise), word_set(words, normalise=normalise), threshold)


def check_threshold(threshold: float) -> None:
    """Refuse a threshold of similarity outside (0, 1].

    Raises:
        DataError: naming it.
    """
    if not 0.0 < threshold <= 1.0:
        raise DataError(f"threshold of fuzzy CoTR {threshold}: must lie in (0, 1]")
