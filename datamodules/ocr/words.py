"""Lines of text cut into words, and the words among them that captions say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from datamodules.lettering.words import normalised, words_of
from datamodules.text_spans import Point, Span


def split_words(span: Span) -> tuple[Span, ...]:
    """Cut a piece of text into its words.

    The corners of a word lie on the upper and the lower edge of the line, at its characters' share of the line's
    characters, spaces included: as if all characters were equally wide.

    Args:
        span: a line or a word.

    Returns:
        A span for each word, in their order; the span itself where it is one word.

    >>> line = Span("to be", ((0, 0), (50, 0), (50, 10), (0, 10)))
    >>> [(word.text, word.quad[0], word.quad[2]) for word in split_words(line)]
    [('to', (0.0, 0.0), (20.0, 10.0)), ('be', (30.0, 0.0), (50.0, 10.0))]
    """
    found = list(re.finditer(r"\S+", span.text))
    if len(found) == 1 and found[0].group() == span.text:
        return (span,)
    a, b, c, d = span.quad
    total = len(span.text)
    return tuple(
        replace(
            span,
            text=word.group(),
            quad=(
                _between(a, b, word.start() / total),
                _between(a, b, word.end() / total),
                _between(d, c, word.end() / total),
                _between(d, c, word.start() / total),
            ),
        )
        for word in found
    )


def _between(first: Point, last: Point, share: float) -> Point:
    return first[0] + (last[0] - first[0]) * share, first[1] + (last[1] - first[1]) * share


def words_said(spans: Iterable[Span], captions: Sequence[str]) -> tuple[Span, ...]:
    """The words of some text that a caption says too: co-embedded text (arXiv 2312.14232, section 3).

    Case, and punctuation at the ends of words, do not count.

    Args:
        spans: lines or words.
        captions: of the picture.

    Returns:
        A span for each such word.

    >>> line = Span("STOP here", ((0, 0), (90, 0), (90, 10), (0, 10)))
    >>> [word.text for word in words_said([line], ["a stop sign"])]
    ['STOP']
    """
    said = {word for caption in captions for word in words_of(caption)}
    return tuple(word for span in spans for word in split_words(span) if normalised(word.text) in said)
