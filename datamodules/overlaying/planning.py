"""Which word is written on which picture: exact shares, pure in the seed and in the samples' keys."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.hashing import mix, string_id, uniform
from datamodules.index import ShardIndex
from datamodules.lettering.fonts import covering, covers, is_unspaced
from datamodules.lettering.overlay import UNIFORMS, Lettering, draw_lettering
from datamodules.lettering.words import content_words, normalised, pick_word, says
from datamodules.overlaying.settings import KINDS, OverlaySettings

log = logging.getLogger(__name__)

PARROTING, NEUTRAL, MISLEADING = KINDS
_SHARE, _WORD, _VIEW_WORD, _STYLE, _OTHER = range(5)  # what a draw is for
NO_LABEL, ALL_SAID = "no label, so no other class's name", "captions say the names of all other classes"
_TRIES = 64  # other samples whose captions are looked into for a misleading word


@dataclass(frozen=True)
class OverlayPlan:
    """What is written for one sample.

    Attributes:
        key: of the sample.
        kind: of the anchor's word, one of ``KINDS``; None where nothing is written on it.
        word: that word.
        anchor: how it is written.
        view_word: misleading word of the view ``overlay``; None without one.
        view: how it is written: as the anchor's, so that the word alone tells the two apart.
        skip: why there is no such view, "" where there is one or none was asked for.
    """

    key: str
    kind: str | None = None
    word: str | None = None
    anchor: Lettering | None = None
    view_word: str | None = None
    view: Lettering | None = None
    skip: str = ""


def largest_remainder(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Share out a number of samples: each share gets its due rounded down, those with the largest rests one more.

    Args:
        total: samples.
        shares: [J] in [0, 1], whose sum is at most 1; what is left is a share as well, and is not returned.

    Example:
        >>> largest_remainder(10, (0.25, 0.25)), largest_remainder(3, (1 / 3, 1 / 3, 1 / 3))
        ((3, 2), (1, 1, 1))
    """
    dues = [Fraction(share).limit_denominator(10**6) * total for share in shares]
    dues.append(total - sum(dues, Fraction()))
    counts = [due.numerator // due.denominator for due in dues]
    by_rest = sorted(range(len(dues)), key=lambda at: (counts[at] - dues[at], at))
    for at in by_rest[: total - sum(counts)]:
        counts[at] += 1
    return tuple(counts[:-1])


class OverlayPlanner:
    """Plans what is written on the pictures of a set.

    Args:
        index: of the set.
        words: list of words.
        settings: what decides.

    Raises:
        DataError: naming a word that no chosen font can write; if labels are asked for and there are fewer than two.
    """

    def __init__(self, index: ShardIndex, words: Sequence[str], settings: OverlaySettings) -> None:
        self.index, self.words, self.settings = index, tuple(words), settings
        if not self.words:
            raise DataError("the list of words is empty; give one word or more with --words")
        self._listed = frozenset(normalised(word) for word in self.words)
        self._ids = np.array([string_id(key) for key in index.keys], dtype=np.int64)
        misleads = settings.overlay or settings.misleading > 0
        if settings.neutral or settings.caption is not None or (misleads and settings.mislead_by != "labels"):
            self._check(self.words)
        if misleads and settings.mislead_by == "labels":
            if len(self.classes) < 2:
                raise DataError(
                    f"{index.store.location}: {len(self.classes)} classes; to write the names of other ones, two or "
                    "more labels are needed (import with labels, or give --mislead-by captions)"
                )
            self._check(self.classes)

    def _check(self, words: Sequence[str]) -> None:
        for look in self.settings.looks:
            for word in words:
                covering(look.fonts, word)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, as they are written: without underscores."""
        return tuple(_name(label) for label in self.index.labels)

    # Anchors ---------------------------------------------------------------------------------------------------------

    @cached_property
    def kinds(self) -> npt.NDArray[np.int8]:
        """What is written on each anchor, a number in ``KINDS``; -1 for nothing: int8 [S].

        Samples are in the order of a hash of seed and key. The parroting ones are the first of those that can be
        (a caption has a content word that the fonts can write, or captions are replaced), the misleading ones the last
        of the others: raising a share of these two keeps what it had.

        Raises:
            DataError: if too few captions can be parroted, or too few samples can be misled about.
        """
        total, settings = len(self.index), self.settings
        found = np.full(total, -1, dtype=np.int8)
        order = np.argsort(mix(settings.seed, _SHARE, self._ids), kind="stable").tolist()
        parroting, neutral, misleading = largest_remainder(total, settings.shares)
        first = self._take(order, parroting, self._can_parrot, PARROTING)
        left = [row for row in order if row not in first]
        last = self._take(left[::-1], misleading, self._can_mislead, MISLEADING)
        middle = [row for row in left if row not in last][:neutral]
        for kind, rows in enumerate((first, middle, last)):
            found[list(rows)] = kind
        return found

    def _can_parrot(self, row: int) -> bool:
        return self.settings.caption is not None or bool(self.parrotable(row))

    def _can_mislead(self, row: int) -> bool:
        return self.settings.mislead_by != "labels" or self._other_class(row, _WORD) is not None

    def _take(self, order: Sequence[int], count: int, can: Callable[[int], bool], kind: str) -> set[int]:
        found: set[int] = set()
        for row in order:
            if len(found) == count:
                return found
            if can(row):
                found.add(row)
        if len(found) < count:
            why = {
                PARROTING: "have a caption with a word that can be written",
                MISLEADING: "have a label, and another class that no caption names",
            }
            raise DataError(
                f"{self.index.store.location}: --{kind} {getattr(self.settings, kind):g} means {count:,} samples, but "
                f"only {len(found):,} {why[kind]}; lower it"
            )
        return found

    def parrotable(self, row: int) -> tuple[str, ...]:
        """Content words of a sample's captions that can be written on it: names of things, where captions have any.

        Captions of scripts without spaces cannot be split: there it is the listed words that they say.
        """
        found: dict[str, None] = {}
        for caption in self.index.captions(row):
            if is_unspaced(caption):
                found.update(dict.fromkeys(word for word in self.words if is_unspaced(word) and says([caption], word)))
            else:
                found.update(dict.fromkeys(content_words(caption)))
        words = [word for word in found if self._can_write(word)]
        return tuple(word for word in words if normalised(word) in self._listed) or tuple(words)

    def _can_write(self, word: str) -> bool:
        return all(any(covers(font, word) for font in look.fonts) for look in self.settings.looks)

    # Words -----------------------------------------------------------------------------------------------------------

    def _u(self, row: int, purpose: int, *parts: int) -> float:
        return float(uniform(self.settings.seed, purpose, int(self._ids[row]), *parts))

    def misleading_word(self, row: int, purpose: int) -> str | None:
        """The name of something else that no caption of the sample says; None where no other class's name will do.

        Args:
            row: of the sample.
            purpose: draws for different purposes are independent.
        """
        captions = self.index.captions(row)
        if self.settings.mislead_by == "labels":
            return self._other_class(row, purpose)
        if self.settings.mislead_by == "captions":
            for attempt in range(_TRIES):
                other = int(self._u(row, _OTHER, purpose, attempt) * len(self.index))
                words = [word for word in self.parrotable(other) if not says(captions, word)]
                if words:
                    return words[int(self._u(row, purpose) * len(words))]
        return self._listed_word(row, purpose)

    def _other_class(self, row: int, purpose: int) -> str | None:
        own = int(self.index.label[row])
        if own < 0:
            return None
        said = (self.classes[own], *self.index.captions(row))
        for attempt in range(_TRIES):  # of thousands of classes, the first one drawn nearly always does
            name = self.classes[int(self._u(row, purpose, attempt) * len(self.classes))]
            if not says(said, name):
                return name
        others = [name for name in self.classes if not says(said, name)]
        return others[int(self._u(row, purpose) * len(others))] if others else None

    def _listed_word(self, row: int, purpose: int) -> str:
        return pick_word(self.words, self.index.captions(row), self._u(row, purpose))

    def plan(self, row: int) -> OverlayPlan:
        """Plan one sample.

        Raises:
            DataError: if captions say every word of the list.
        """
        settings, key = self.settings, self.index.keys[row]
        kind = None if self.kinds[row] < 0 else KINDS[int(self.kinds[row])]
        if kind == PARROTING and settings.caption is None:
            choices = self.parrotable(row)
            word: str | None = choices[int(self._u(row, _WORD) * len(choices))]
        elif kind in (PARROTING, NEUTRAL):
            word = self._listed_word(row, _WORD)
        else:
            word = self.misleading_word(row, _WORD) if kind == MISLEADING else None
        if word is None:
            kind = None
        view_word, skip = None, ""
        if settings.overlay:
            view_word = self.misleading_word(row, _VIEW_WORD)
            if view_word is None:
                skip = NO_LABEL if int(self.index.label[row]) < 0 else ALL_SAID
        return OverlayPlan(
            key,
            kind,
            word,
            None if word is None else self._lettering(row, word),
            view_word,
            None if view_word is None else self._lettering(row, view_word),
            skip,
        )

    def _lettering(self, row: int, word: str) -> Lettering:
        u = uniform(self.settings.seed, _STYLE, int(self._ids[row]), np.arange(UNIFORMS + 1))
        looks = self.settings.looks
        look = looks[int(float(u[0]) * len(looks))]
        return draw_lettering(word, u[1:], replace(look, two_lines=True) if self.settings.attack else look)


def _name(label: str) -> str:
    return " ".join(label.replace("_", " ").split())
