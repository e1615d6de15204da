"""From a table to a selection: filters, soft weights, and edited captions."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datamodules.curation.caption_edit import edit_caption
from datamodules.curation.examine import NOT_SAID
from datamodules.curation.relative import masked_weight
from datamodules.curation.table import CurationTable
from datamodules.errors import DataError
from datamodules.selection import Selection
from datamodules.strings import Strings

Over = Literal["mean", "max", "min"]
_OVER = ("mean", "max", "min")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Range:
    """Values from ``low`` to ``high``, both included; None is open.

    >>> Range.parse("0:0.3"), Range.parse(":0.1"), Range.parse("0.5")
    (Range(low=0.0, high=0.3), Range(low=None, high=0.1), Range(low=0.5, high=0.5))
    """

    low: float | None = None
    high: float | None = None

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read ``LOW:HIGH``, either of which may be left out, or one value.

        Raises:
            DataError: if it is no range, or an empty one.
        """
        match = re.fullmatch(rf"\s*({_NUMBER})?\s*(:)?\s*({_NUMBER})?\s*", text)
        if match is None or (match[1] is None and match[3] is None) or (match[2] is None and match[3] is not None):
            raise DataError(f"range {text!r}: write LOW:HIGH, such as 0:0.3 or :0.1, or one value")
        low = float(match[1]) if match[1] is not None else None
        high = float(match[3]) if match[3] is not None else (low if match[2] is None else None)
        if low is not None and high is not None and low > high:
            raise DataError(f"range {text!r}: {low:g} is above {high:g}")
        return cls(low, high)

    def holds(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which values lie in it; NaN does not."""
        inside = ~np.isnan(values)
        if self.low is not None:
            inside &= values >= self.low
        if self.high is not None:
            inside &= values <= self.high
        return np.asarray(inside)


@dataclass(frozen=True)
class Choice:
    """What to select. A sample stays where every filter that is set lets it.

    Attributes:
        no_text: keep pictures in which nothing is written.
        only_text: keep pictures in which something is.
        area: range of the share of the picture under text.
        cotr: range of CoTR, and so on for the next ones; a sample without the figure (no caption, no score) goes.
        fuzzy_cotr: likewise.
        rsa: likewise, of RSA; :attr:`net_of_control` takes it net of its random control.
        rsc: likewise, of RSC.
        score: likewise, of the raw score.
        masked_score: likewise, of the score of the masked picture.
        masked_score_top: share of the samples with the highest masked scores to keep, in (0, 1], counted before any
            other filter.
        net_of_control: see ``rsa``.
        weight: "masked": weight samples by sigmoid((S(M(x), t) - centre) / temperature).
        centre: of the weight; None takes the median masked score of the samples that stay.
        temperature: of the weight, in units of the score.
        edit_captions: drop from captions the words that are written in the picture.
        over: how a sample's figure is made of its captions'.
        unreadable: whether samples whose text is not known stay ("keep") or go ("drop").

    Raises:
        DataError: for options that contradict each other.
    """

    no_text: bool = False
    only_text: bool = False
    area: Range | None = None
    cotr: Range | None = None
    fuzzy_cotr: Range | None = None
    rsa: Range | None = None
    rsc: Range | None = None
    score: Range | None = None
    masked_score: Range | None = None
    masked_score_top: float | None = None
    net_of_control: bool = False
    weight: Literal["masked"] | None = None
    centre: float | None = None
    temperature: float = 0.02
    edit_captions: bool = False
    over: Over = "mean"
    unreadable: Literal["keep", "drop"] = "drop"

    def __post_init__(self) -> None:
        if self.no_text and self.only_text:
            raise DataError("--no-text and --only-text exclude each other")
        if self.masked_score_top is not None and not 0 < self.masked_score_top <= 1:
            raise DataError(f"--masked-score-top {self.masked_score_top:g}: give a share in (0, 1]")
        if not self.temperature > 0:
            raise DataError(f"--temperature {self.temperature:g}: must be above 0")
        if self.centre is not None and self.weight is None:
            raise DataError("--centre: is of a weight; give --weight masked too")
        if self.over not in _OVER:
            raise DataError(f"--over {self.over}: choose {', '.join(_OVER)}")


@dataclass
class Chosen:
    """A selection, and how it came about.

    Attributes:
        selection: to be saved.
        samples: in the table.
        kept: with a weight above 0.
        dropped: by each filter alone, whether or not another drops the sample too.
        effective: (sum w)^2 / sum w^2, the number of samples that equal weights would need to vary as little.
        edited: captions that lost words.
        would_be_empty: captions that were left as they are, since nothing would be left.
    """

    selection: Selection
    samples: int
    kept: int
    dropped: Counter[str]
    effective: float
    edited: int = 0
    would_be_empty: int = 0


def choose(table: CurationTable, choice: Choice) -> Chosen:
    """Make a selection.

    Args:
        table: of the shards.
        choice: what to select.

    Raises:
        DataError: naming the option, where the table lacks its figure, or nothing is left.
    """
    first = table.first
    keys = Strings(table.table["key"].take(first).combine_chunks())
    dropped: Counter[str] = Counter()
    kept = np.ones(len(first), dtype=bool)
    for name, stays in _filters(table, choice):
        dropped[name] = int((~stays).sum())
        kept &= stays
    if not kept.any():
        told = ", ".join(f"{name} drops {count:,}" for name, count in dropped.items())
        raise DataError(f"nothing is left of {len(first):,} samples ({told}); widen a filter")
    weight = kept.astype(np.float64)
    centre = choice.centre
    if choice.weight == "masked":
        masked = _figure(table, choice, "score_masked", "--weight masked")
        kept &= ~np.isnan(masked)
        dropped["no masked score"] = int(np.isnan(masked).sum())
        if not kept.any():
            raise DataError("nothing is left: not one sample that stays has a masked score")
        centre = float(np.median(masked[kept])) if centre is None else centre
        weight = np.where(kept, masked_weight(np.nan_to_num(masked), centre, choice.temperature), 0.0)
    row, number, text, empty = _edits(table) if choice.edit_captions else ([], [], [], 0)
    about = {"choice": asdict(choice) | {"centre": centre}, "table": dict(table.settings)}
    selection = Selection(
        shards=tuple(shard["sha256"] for shard in table.shards),
        keys=keys,
        shard=table.column("shard")[first].astype(np.int32),
        weight=weight.astype(np.float32),
        row=np.array(row, dtype=np.int64),
        number=np.array(number, dtype=np.int32),
        text=Strings(text),
        about=about,
    )
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    return Chosen(selection, len(first), int((selection.weight > 0).sum()), dropped, effective, len(text), empty)


def _filters(table: CurationTable, choice: Choice) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Each filter that is set, and which samples it lets stay."""
    first = table.first
    found: list[tuple[str, npt.NDArray[np.bool_]]] = []
    problem = table.table["problem"].take(first).to_pylist()
    known = np.array([one in (None, NOT_SAID) for one in problem], dtype=bool)
    if choice.unreadable == "drop":
        found.append(("unreadable", known))
    written = table.column("spans")[first] > 0
    if choice.no_text:
        found.append(("--no-text", ~written))
    if choice.only_text:
        found.append(("--only-text", written))
    if choice.area is not None:
        found.append(("--area", choice.area.holds(table.column("area")[first])))
    suffix = "_net" if choice.net_of_control else ""
    for name, column in (
        ("cotr", "cotr"), ("fuzzy_cotr", "fuzzy_cotr"), ("rsa", f"rsa{suffix}"), ("rsc", f"rsc{suffix}"),
        ("score", "score_raw"), ("masked_score", "score_masked"),
    ):  # fmt: skip
        wanted: Range | None = getattr(choice, name)
        if wanted is not None:
            option = f"--{name.replace('_', '-')}"
            found.append((option, wanted.holds(_figure(table, choice, column, option))))
    if choice.masked_score_top is not None:
        masked = _figure(table, choice, "score_masked", "--masked-score-top")
        # Ties at the threshold go by the order of the samples, so that the share is exact.
        best = np.argsort(-np.nan_to_num(masked, nan=-np.inf), kind="stable")[
            : round(choice.masked_score_top * len(masked))
        ]
        stays = np.zeros(len(masked), dtype=bool)
        stays[best] = True
        found.append(("--masked-score-top", stays & ~np.isnan(masked)))
    return found


def _figure(table: CurationTable, choice: Choice, column: str, option: str) -> npt.NDArray[np.float64]:
    """A figure of each sample over its captions: [S], NaN where no caption has it.

    Raises:
        DataError: where the table has none of it.
    """
    values = table.column(column).astype(np.float64)
    if table.table[column].null_count == len(values):
        need = "--fuzzy THRESHOLD" if column == "fuzzy_cotr" else "a retriever, such as --model NAME --pretrained TAG"
        raise DataError(f"{option}: the table has no {column}; make it by `bias-train curate text` with {need}")
    if choice.over == "mean":
        held = ~np.isnan(values)
        sample = table.sample
        count = np.bincount(sample[held], minlength=len(table.first))
        total = np.bincount(sample[held], values[held], minlength=len(table.first))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return np.asarray((np.fmax if choice.over == "max" else np.fmin).reduceat(values, table.first))


def _edits(table: CurationTable) -> tuple[list[int], list[int], list[str], int]:
    """Captions that lose words: their samples, numbers and new texts; and how many would lose all."""
    rows: list[int] = []
    numbers: list[int] = []
    texts: list[str] = []
    empty = 0
    columns = [table.table[name] for name in ("caption", "text", "written")]
    # Only captions that share a word with the picture can lose one. Compared as edits compare, not as the table did.
    wanted = np.flatnonzero((table.column("spans") > 0) & (table.column("caption") >= 0))
    sample = table.sample
    for at, number, text, words in zip(
        wanted.tolist(), *(column.take(wanted).to_pylist() for column in columns), strict=True
    ):
        edited = edit_caption(text, words)
        if edited is None:
            empty += 1
        elif edited != text:
            rows.append(int(sample[at]))
            numbers.append(number)
            texts.append(edited)
    return rows, numbers, texts, empty
