"""What an audit of social bias has found, and its machine-readable forms."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bias_train.audit.outcome import Guardrail
from bias_train.files import json_value, write_text
from bias_train.table_file import table_file

PEOPLE = "people"  # the audited pictures; the other set is that to which figures are to carry over
TRANSFER = "transfer"
LISTED = 50  # cells of a set, wording and attribute that the JSON lists


@dataclass(frozen=True)
class Row:
    """One figure of one word, or its mean over words.

    Attributes:
        set: whose pictures were searched: "people", or "transfer" for the second set.
        mode: wording of the prompts.
        attribute: what the people are grouped by.
        category: of the words; empty for all of them.
        word: the word; empty for a mean over words.
        name: of the figure.
        k: cut-off, None where it has none.
        value: the figure.
        low: lower end of its interval over pictures, the words being these; NaN where there is none.
        high: upper end.
        low_words: lower end of the interval over pictures and words, the words being a sample; NaN for one word.
        high_words: upper end.
        floor: what a random retriever gives on average; NaN where that is not known.
        floor_low: 5th percentile of a random retriever, one word at a time.
        floor_high: 95th percentile.
        words: how many stand behind it.
        note: conventions and flags.
    """

    set: str
    mode: str
    attribute: str
    category: str
    word: str
    name: str
    k: int | None
    value: float
    low: float = math.nan
    high: float = math.nan
    low_words: float = math.nan
    high_words: float = math.nan
    floor: float = math.nan
    floor_low: float = math.nan
    floor_high: float = math.nan
    words: int = 1
    note: str = ""

    @property
    def key(self) -> str:
        """The figure's name with its cut-off."""
        return self.name if self.k is None else f"{self.name}@{self.k}"

    @property
    def excess(self) -> float:
        """The figure less what a random retriever gives."""
        return self.value - self.floor


@dataclass(frozen=True)
class Cell:
    """How a word and a group are tied.

    Attributes:
        set: as in :class:`Row`.
        mode: likewise.
        attribute: likewise.
        category: of the word.
        word: the word.
        group: of people.
        association: C-ASC: mean score of the group's pictures less that of all others, in standard deviations.
        low: lower end of its interval over pictures.
        high: upper end.
        p: of the permutation test, NaN where the association is undefined.
        p_adjusted: corrected over all words and groups of the attribute, in this set and mode.
        share: of the group in the first k.
        pool: its share of all pictures.
        mentions: captions of the corpus that hold the word and name the group, -1 where none was read.
        log_odds: of the group in captions with the word against those without, NaN where no corpus was read.
        z: the same in standard errors.
    """

    set: str
    mode: str
    attribute: str
    category: str
    word: str
    group: str
    association: float
    low: float
    high: float
    p: float
    p_adjusted: float
    share: float
    pool: float
    mentions: int = -1
    log_odds: float = math.nan
    z: float = math.nan


@dataclass(frozen=True)
class Effect:
    """A side effect, or what stands beside a bias.

    Attributes:
        kind: "retention", "leakage", "utility", "transfer" or "corpus".
        attribute: that it is about; empty for utility.
        name: of the figure.
        k: cut-off, None where it has none.
        label: what the figure is about within the attribute; empty for all of it.
        value: the figure.
        low: lower end of its interval, NaN where there is none.
        high: upper end.
        count: what stands behind it: prompts, pictures, queries or words.
        note: conventions and flags.
        before: the same figure of the other retriever, NaN without one.
    """

    kind: str
    attribute: str
    name: str
    k: int | None
    label: str
    value: float
    low: float
    high: float
    count: int
    note: str
    before: float = math.nan

    @property
    def key(self) -> str:
        """The figure's name with its cut-off."""
        return self.name if self.k is None else f"{self.name}@{self.k}"


@dataclass(frozen=True)
class Headline:
    """What leads for one attribute.

    Attributes:
        set: as in :class:`Row`.
        mode: likewise.
        attribute: likewise.
        groups: its groups with their pictures, in the order of the labels.
        target: wanted share of each group.
        excess: MaxSkew at the first cut-off, mean over words, less that of a random retriever; a :class:`Row` whose
            ``floor`` is still to be subtracted.
        significant: cells whose corrected p-value is at most alpha.
        cells: that were tested.
        highest: the greatest C-ASC of all cells.
        lowest: the least.
    """

    set: str
    mode: str
    attribute: str
    groups: dict[str, int]
    target: dict[str, float]
    excess: Row
    significant: int
    cells: int
    highest: Cell | None
    lowest: Cell | None


@dataclass(frozen=True)
class SocialOutcome:
    """An audit of social bias.

    Attributes:
        title: heading of the outputs.
        inputs: what was audited, by name.
        options: the choices, by name.
        conventions: what a reader needs to compare a figure: normalisation, ties, zero rule, floor, words, seed.
        counts: pictures and words, by name.
        headlines: one for every set, wording and attribute; the audited pictures' first wording comes first.
        rows: means over words, of each category and of all.
        words: figures of each word.
        cells: words by groups.
        effects: side effects and what stands beside the bias.
        changes: means over words of this retriever minus the other one, on the same resamples; else empty.
        word_changes: likewise of each word, of the leading figure.
        warnings: guardrails that spoke up.
    """

    title: str
    inputs: dict[str, Any]
    options: dict[str, Any]
    conventions: dict[str, Any]
    counts: dict[str, Any]
    headlines: tuple[Headline, ...]
    rows: tuple[Row, ...]
    words: tuple[Row, ...]
    cells: tuple[Cell, ...]
    effects: tuple[Effect, ...]
    changes: tuple[Row, ...]
    word_changes: tuple[Row, ...]
    warnings: tuple[Guardrail, ...]

    @property
    def k(self) -> int:
        """The cut-off that leads."""
        return int(self.options["ks"][0])

    def find(
        self, name: str, k: int | None = None, *, attribute: str, category: str = "", set: str = PEOPLE,
        mode: str | None = None, change: bool = False,
    ) -> Row | None:  # fmt: skip
        """Look a mean over words up; the first wording's where none is named."""
        wanted = (name, k, attribute, category, set)
        for row in self.changes if change else self.rows:
            if (row.name, row.k, row.attribute, row.category, row.set) == wanted and mode in (None, row.mode):
                return row
        return None

    def document(self) -> dict[str, Any]:
        """The audit as plain values, without the figures and cells of single words, which the tables beside it hold.

        What is undefined is null, and its note says so. Of the cells, the strongest significant ones are listed.
        """
        return {
            "audit": "social",
            "title": self.title,
            "inputs": self.inputs,
            "options": json_value(self.options),
            "conventions": json_value(self.conventions),
            "counts": self.counts,
            "warnings": [asdict(warning) for warning in self.warnings],
            "headline": [_headline(headline) for headline in self.headlines],
            "figures": [_row(row) for row in self.rows],
            "changes": [json_value(row) for row in self.changes],
            "effects": [json_value(effect) for effect in self.effects],
            "strongest_cells": [json_value(cell) for headline in self.headlines for cell in self.strongest(headline)],
        }

    def strongest(self, headline: Headline) -> list[Cell]:
        """Significant cells of one set, wording and attribute with the largest C-ASC by size, at most 50."""
        place = (headline.set, headline.mode, headline.attribute)
        found = [
            cell
            for cell in self.cells
            if (cell.set, cell.mode, cell.attribute) == place and cell.p_adjusted <= self.options["alpha"]
        ]
        return sorted(found, key=lambda cell: -abs(cell.association))[:LISTED]


def _row(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = json_value(row)
    return found | {"excess": json_value(row.excess)}


def _headline(headline: Headline) -> dict[str, Any]:
    found: dict[str, Any] = json_value(headline)
    return found | {"excess": _row(headline.excess)}


def write_social(outcome: SocialOutcome, folder: Path) -> None:
    """Write ``audit.json``, ``figures.parquet`` and ``cells.parquet`` into a folder, each whole or not at all.

    Raises:
        RunError: where a file cannot be written.
    """
    write_text(folder / "audit.json", json.dumps(outcome.document(), indent=1, allow_nan=False) + "\n")
    with table_file(folder / "figures.parquet", _FIGURES) as add:
        for rows, change in (
            (outcome.rows, False), (outcome.words, False), (outcome.changes, True), (outcome.word_changes, True),
        ):  # fmt: skip
            add(_table([{"change": change, "excess": row.excess} | vars(row) for row in rows], _FIGURES))
    with table_file(folder / "cells.parquet", _CELLS) as add:
        add(_table([vars(cell) for cell in outcome.cells], _CELLS))


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


_FIGURES = pa.schema(
    [
        ("change", pa.bool_()),
        *((name, pa.string()) for name in ("set", "mode", "attribute", "category", "word", "name", "note")),
        *((name, pa.int64()) for name in ("k", "words")),
        *(
            (name, pa.float64())
            for name in ("value", "low", "high", "low_words", "high_words", "floor", "floor_low", "floor_high",
                         "excess")
        ),
    ]
)  # fmt: skip
_CELLS = pa.schema(
    [
        *((name, pa.string()) for name in ("set", "mode", "attribute", "category", "word", "group")),
        ("mentions", pa.int64()),
        *(
            (name, pa.float64())
            for name in ("association", "low", "high", "p", "p_adjusted", "share", "pool", "log_odds", "z")
        ),
    ]
)  # fmt: skip
