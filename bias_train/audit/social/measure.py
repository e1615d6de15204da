"""Measures one set of people, by one attribute and in one wording, and lays the figures out as rows and cells."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from bias_train.audit.social.options import SocialOptions
from bias_train.audit.social.outcome import Cell, Headline, Row
from bias_train.errors import RunError
from bias_train.metrics.functional.social.word_bias import WordBias, WordFigures, word_bias
from bias_train.people.vectors import People, Words
from bias_train.significance import benjamini_hochberg, holm
from bias_train.stats import Floats
from datamodules.groups import Grouping

HEADLINE = "max_skew"
RACE_BY_GENDER = "race x gender"


@dataclass(frozen=True)
class Measured:
    """What words retrieve from one set of people, by one attribute.

    Attributes:
        set: "people" or "transfer".
        mode: wording of the prompts.
        grouping: of all pictures; those of unknown group, and of groups that are too small, have none.
        small: groups that were left out, with their pictures.
        words: that were asked.
        bias: figures over the pictures that have a group.
    """

    set: str
    mode: str
    grouping: Grouping
    small: dict[str, int]
    words: Words
    bias: WordBias

    @property
    def attribute(self) -> str:
        """What people are grouped by."""
        return self.grouping.name


def attributes_of(people: People, options: SocialOptions) -> tuple[str, ...]:
    """What to group by: what was asked for, or every attribute with race crossed with gender.

    >>> from datamodules.groups import grouping
    >>> two = tuple(grouping(name, ["x", "y"]) for name in ("age", "gender"))
    >>> attributes_of(People(torch.ones(2, 1), ("a", "b"), two), SocialOptions())
    ('age', 'gender')
    """
    if options.attributes is not None:
        return options.attributes
    both = (RACE_BY_GENDER,) if {"race", "gender"} <= set(people.attributes) else ()
    return (*people.attributes, *both)


def measure(set_: str, mode: str, people: People, words: Words, attribute: str, options: SocialOptions) -> Measured:
    """Measure.

    Raises:
        RunError: for an attribute that the pictures do not carry or that leaves one group, and for vectors that cannot
            be compared.
    """
    whole, grouping = people.grouping(attribute), people.grouping(attribute, options.minimum)
    counts = dict(zip(whole.labels, whole.counts.tolist(), strict=True))
    small = {label: count for label, count in counts.items() if label not in grouping.labels}
    if len(grouping) < 2:
        raise RunError(
            f"{attribute}: only {', '.join(grouping.labels)} has {options.minimum} pictures or more; bias is between "
            "groups, so give a set with several, or a lower --minimum"
        )
    known = grouping.known
    try:
        bias = word_bias(
            words.text,
            people.image[torch.from_numpy(known)],
            grouping.code[known],
            len(grouping),
            ks=options.ks,
            target=options.target_of(attribute, grouping.labels),
            bootstrap=options.bootstrap,
            permutations=options.permutations,
            floor_draws=options.floor_draws,
            seed=options.seed,
        )
    except ValueError as error:
        raise error if isinstance(error, RunError) else RunError(f"{attribute}: {error}") from error
    return Measured(set_, mode, grouping, small, words, bias)


def mean_rows(measured: Measured, figures: WordFigures | None = None) -> list[Row]:
    """Means over the words of each category, and over all.

    Args:
        measured: which words and groups.
        figures: a change of them; None for the figures themselves.
    """
    shown = measured.bias if figures is None else figures
    category = np.array(measured.words.category)
    parts = [("", np.arange(len(category)))]
    parts += [(name, np.flatnonzero(category == name)) for name in dict.fromkeys(measured.words.category)]
    rows = []
    for name, words in parts:
        pictures, both = shown.mean(words), shown.mean(words, over_words=True)
        for f, (figure, k) in enumerate(shown.names):
            several = len(words) > 1
            row = Row(
                measured.set, measured.mode, measured.attribute, name, "", figure, k,
                float(pictures.value[f]), float(pictures.low[f]), float(pictures.high[f]),
                float(both.low[f]) if several else np.nan, float(both.high[f]) if several else np.nan,
                words=int(np.isfinite(shown.value[words, f]).sum()),
            )  # fmt: skip
            rows.append(row if figures is not None else _over_floor(measured.bias, row, f))
    return rows


def word_rows(measured: Measured, figures: WordFigures | None = None, only: str | None = None) -> list[Row]:
    """Figures of each word.

    Args:
        measured: which words and groups.
        figures: a change of them; None for the figures themselves.
        only: name of a figure; None for all of them.
    """
    shown = measured.bias if figures is None else figures
    rows = []
    for w, (category, word) in enumerate(measured.words.keys):
        for f, (figure, k) in enumerate(shown.names):
            if only in (None, figure):
                row = Row(
                    measured.set, measured.mode, measured.attribute, category, word, figure, k,
                    float(shown.value[w, f]), float(shown.low[w, f]), float(shown.high[w, f]),
                )  # fmt: skip
                rows.append(row if figures is not None else _over_floor(measured.bias, row, f))
    return rows


def _over_floor(bias: WordBias, row: Row, f: int) -> Row:
    floor = bias.floor
    return replace(
        row, floor=float(floor.mean[f]), floor_low=float(floor.low[f]), floor_high=float(floor.high[f])
    )  # fmt: skip


def cells(measured: Measured, options: SocialOptions) -> list[Cell]:
    """Words by groups, with p-values corrected over all of them."""
    bias, labels = measured.bias, measured.grouping.labels
    corrected = adjusted(bias.p, options.adjust)
    pool = bias.counts / bias.counts.sum()
    found = []
    for w, (category, word) in enumerate(measured.words.keys):
        for g, group in enumerate(labels):
            found.append(
                Cell(
                    measured.set, measured.mode, measured.attribute, category, word, group,
                    float(bias.association[w, g]), float(bias.association_low[w, g]),
                    float(bias.association_high[w, g]), float(bias.p[w, g]), float(corrected[w, g]),
                    float(bias.share[w, 0, g]), float(pool[g]),
                )
            )  # fmt: skip
    return found


def adjusted(p: Floats, method: str) -> Floats:
    """[W, G] p-values corrected as one family; as they are for "none"."""
    if method == "none":
        return p
    correct = {"bh": benjamini_hochberg, "holm": holm}[method]
    return correct(p.ravel()).reshape(p.shape)


def headline(measured: Measured, rows: list[Row], found: list[Cell], options: SocialOptions) -> Headline:
    """What leads for one attribute.

    Args:
        measured: what was measured.
        rows: its means over words.
        found: its cells.
        options: the choices.
    """
    leading = next(row for row in rows if (row.category, row.name, row.k) == ("", HEADLINE, options.ks[0]))
    defined = [cell for cell in found if math.isfinite(cell.association)]
    labels, bias = measured.grouping.labels, measured.bias
    return Headline(
        measured.set,
        measured.mode,
        measured.attribute,
        dict(zip(labels, bias.counts.tolist(), strict=True)),
        dict(zip(labels, bias.target.tolist(), strict=True)),
        leading,
        sum(cell.p_adjusted <= options.alpha for cell in found),
        sum(math.isfinite(cell.p) for cell in found),
        max(defined, key=lambda cell: cell.association, default=None),
        min(defined, key=lambda cell: cell.association, default=None),
    )
