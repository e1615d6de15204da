"""Corpus statistics of text and captions, as in table 2 of arXiv 2312.14232."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class CorpusStatistics:
    """Figures of a corpus. A share over nothing is NaN.

    CoTR is a mean over pictures, each of which counts with the mean over its captions that have words. So, where all
    pictures are captioned, CoTR over all is CoTR over pictures with text times the share with text, as in the paper.

    Attributes:
        pictures: all samples.
        unknown: pictures whose text is not known (unreadable, or not annotated); all figures leave them out.
        with_text: pictures with at least one word in them.
        share_with_text: of the known pictures.
        captioned: known pictures with a caption that has words.
        cotr: mean CoTR of the captioned pictures.
        cotr_with_text: of those with text.
        fuzzy_cotr: mean fuzzy CoTR likewise; None where it was not measured.
        fuzzy_cotr_with_text: likewise.
        parroted: captioned pictures of which some caption says a word that is written in it (CoTR > 0).
        share_parroted: of the captioned pictures.
        share_parroted_with_text: of those with text.
        area_with_text: mean share of the picture under text, of pictures with text.
        empty_captions: captions without a word, whose CoTR is undefined.
        uncaptioned: known pictures without any caption that has words.
        unspaced_captions: captions in scripts without spaces, in which words at white space are phrases.
        cotr_spaced: mean CoTR over pictures without any such caption.
        scores: mean scores and relative scores of pictures with text (over captions), by column; empty without a
            retriever.
    """

    pictures: int
    unknown: int
    with_text: int
    share_with_text: float
    captioned: int
    cotr: float
    cotr_with_text: float
    fuzzy_cotr: float | None
    fuzzy_cotr_with_text: float | None
    parroted: int
    share_parroted: float
    share_parroted_with_text: float
    area_with_text: float
    empty_captions: int
    uncaptioned: int
    unspaced_captions: int
    cotr_spaced: float
    scores: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self) | {"scores": dict(self.scores)}


def corpus_statistics(
    sample: npt.NDArray[np.integer[Any]],
    cotr: Floats,
    *,
    has_text: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    area: Floats,
    fuzzy: Floats | None = None,
    unspaced: npt.NDArray[np.bool_] | None = None,
    scores: Mapping[str, Floats] | None = None,
) -> CorpusStatistics:
    """Reduce captions' figures to those of a corpus of S pictures with R captions.

    Args:
        sample: [R] picture of each caption, 0 to S - 1.
        cotr: [R] NaN where a caption has no word.
        has_text: [S] whether anything is written in a picture.
        known: [S] whether its text is known.
        area: [S] share of the picture under text.
        fuzzy: [R] fuzzy CoTR, None where it was not measured.
        unspaced: [R] captions in scripts without spaces; None takes none.
        scores: [R] columns by name, of which means are given; NaN is left out.

    >>> found = corpus_statistics(
    ...     np.array([0, 1, 1]), np.array([0.5, 0.0, np.nan]), has_text=np.array([True, False]),
    ...     known=np.array([True, True]), area=np.array([0.25, 0.0]))
    >>> found.share_with_text, found.cotr, found.cotr_with_text, found.parroted, found.empty_captions
    (0.5, 0.25, 0.5, 1, 1)
    """
    count = len(has_text)
    rows = known[sample]
    spaced = np.ones(count, dtype=bool)
    if unspaced is not None:
        spaced[sample[unspaced]] = False
    each = _picture_means(sample[rows], np.asarray(cotr, dtype=np.float64)[rows], count)
    captioned = known & ~np.isnan(each)
    text = known & has_text
    parroted = captioned & (each > 0)
    alike = None if fuzzy is None else _picture_means(sample[rows], np.asarray(fuzzy, dtype=np.float64)[rows], count)
    with_text = text[sample]
    return CorpusStatistics(
        pictures=count,
        unknown=int((~known).sum()),
        with_text=int(text.sum()),
        share_with_text=_share(text, known),
        captioned=int(captioned.sum()),
        cotr=_mean(each[captioned]),
        cotr_with_text=_mean(each[captioned & text]),
        fuzzy_cotr=None if alike is None else _mean(alike[captioned]),
        fuzzy_cotr_with_text=None if alike is None else _mean(alike[captioned & text]),
        parroted=int(parroted.sum()),
        share_parroted=_share(parroted, captioned),
        share_parroted_with_text=_share(parroted, captioned & text),
        area_with_text=_mean(np.asarray(area, dtype=np.float64)[text]),
        empty_captions=int(np.isnan(cotr[rows]).sum()),
        uncaptioned=int((known & ~captioned).sum()),
        unspaced_captions=0 if unspaced is None else int(unspaced[rows].sum()),
        cotr_spaced=_mean(each[captioned & spaced]),
        scores={name: _mean(values[with_text & ~np.isnan(values)]) for name, values in (scores or {}).items()},
    )


def _picture_means(sample: npt.NDArray[np.integer[Any]], values: Floats, count: int) -> Floats:
    """Mean over each picture's captions that have a value: [S], NaN where none has."""
    held = ~np.isnan(values)
    total = np.bincount(sample[held], values[held], minlength=count)
    number = np.bincount(sample[held], minlength=count)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _mean(values: Floats) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")


def _share(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> float:
    return float((part & whole).sum() / whole.sum()) if whole.any() else float("nan")
