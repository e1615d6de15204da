"""The text audit's tables, for the terminal and for the page: which figures stand where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bias_train.audit.object.table import number
from bias_train.audit.social.table import written, written_ends
from bias_train.audit.text.outcome import TextOutcome
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.text.relative_scores import ABOVE, QUANTILES

DIRECTIONS = (("t2i", "caption finds picture"), ("i2t", "picture finds caption"))

_Key = tuple[str, int | None, str | None] | None  # of a cell: name, cut-off and label of a figure


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        spelt: what it is, for readers.
        cells: figures, None where there is none.
        signed: whether the cells are differences.
    """

    spelt: str
    cells: tuple[Figure | None, ...]
    signed: bool = False


@dataclass(frozen=True)
class Section:
    """A table.

    Attributes:
        key: short name.
        title: for readers.
        headings: of the columns.
        lines: those that have a figure.
        note: below it.
    """

    key: str
    title: str
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    note: str


def sections(outcome: TextOutcome, *, change: bool = False) -> list[Section]:
    """Every table that has figures.

    Args:
        outcome: of the audit.
        change: the changes instead of the figures.
    """
    ks = outcome.ks
    at = tuple(f"@{k}" for k in ks)
    styles: tuple[str | None, ...] = (None, *outcome.styles)
    found = [
        _section(
            outcome, change, "words", "Rendered words", ("mean over styles", *outcome.styles),
            [(spelt, [(name, k, label) for label in styles], False) for name, k, spelt in _WORDS],
            "R@1 of a rendering among the words as text, and of a word among renderings of its style. NS divides the "
            "gap of matched and mismatched words by that of ordinary pairs.",
        ),
        _section(
            outcome, change, "wins", "Does the written word win?",
            ("written", "not written", "net", "another word", "read", "random"),
            [(
                "query for the word above the caption",
                [(f"win_share{name}", None, None) for name in ("", "_clean", "_net", "_other", "_read", "_floor")],
                False,
            )],
            "Share of captions that score below the query for a word that none of them says. Another word: one that "
            "stands on another picture; read: the written one less that.",
        ),
        _section(
            outcome, change, "overlay", "Retrieval with a wrong word on every picture", at,
            [
                (f"{spelt}: {told}", [(name.format(way), k, None) for k in ks], name.endswith("drop"))
                for way, spelt in DIRECTIONS
                for name, told in _OVERLAY
            ],
            "R@k of the same pictures and captions.",
        ),
        _section(
            outcome, change, "attack", "Labelled pictures with a wrong word",
            ("with the word", "without", "what the word does", "random"),
            [
                ("recognised as what it shows", _columns("attack_accuracy", "_clean", "_drop"), False),
                ("recognised as the written word", _columns("attack_success", "_clean", "_net"), False),
            ],
            "Accuracy: without less with the word. Success: with less without. Where not all pictures come without the "
            "word too, the second and third column are over those that do.",
        ),
        *(
            _section(
                outcome, change, name, f"{name}: {told}", ("text removed", "other places removed", "net"),
                [
                    (
                        spelt,
                        [(f"{name}{part}_{what}", None, None) for part in ("", "_control", "_net")],
                        not what.startswith("above"),
                    )
                    for what, spelt in _SPREAD
                ],
                "Score of picture and caption before less after removal, over captions; net: after removal of other "
                "places less after removal of the text.",
            )
            for name, told in (("RSA", "what all text carries"), ("RSC", "what the caption's words carry"))
        ),
        _section(
            outcome, change, "retrieval", "Beside it: reading where it is asked for, and ordinary retrieval", at,
            [
                (f"{what}: {told}", [(f"{name}_{way}_R{suffix}", k, None) for k in ks], False)
                for name, what in (("reading", "captions about the text"), ("clean", "ordinary pairs"))
                for way, spelt in DIRECTIONS
                for suffix, told in (("", spelt), ("_floor", f"{spelt}, random"))
            ],
            "A retriever that is blind to text has no reading bias, and finds no sign by what it says.",
        ),
    ]  # fmt: skip
    return [section for section in found if section.lines]


_WORDS = (
    ("NS", None, "NS"), ("NS_numerator", None, "matched less mismatched words"),
    ("NS_denominator", None, "matched less mismatched pairs"), ("sync", None, "Sync score"),
    ("sync_std", None, "standard deviation over words"), ("rendered_i2t_R", 1, "rendering finds word, R@1"),
    ("rendered_t2i_R", 1, "word finds rendering, R@1"), ("rendered_R_floor", 1, "random"),
)  # fmt: skip
_OVERLAY = (
    ("overlay_clean_{}_R", "not written"), ("overlay_{}_R", "written"), ("overlay_{}_drop", "drop"),
    ("overlay_{}_R_floor", "random"),
)  # fmt: skip
_SPREAD = (
    ("mean", "mean"),
    *((f"q{100 * level:02.0f}", f"{100 * level:g} % of captions are below") for level in QUANTILES),
    *((f"above_{threshold:g}", f"share above {threshold:g}") for threshold in ABOVE),
)


def _columns(name: str, clean: str, difference: str) -> list[_Key]:
    names = (name, f"{name}{clean}", f"{name}{difference}", "attack_floor")
    return [(full, None, None) for full in names]


def _section(
    outcome: TextOutcome,
    change: bool,
    key: str,
    title: str,
    headings: tuple[str, ...],
    lines: Iterable[tuple[str, Sequence[_Key], bool]],
    note: str,
) -> Section:
    kept = []
    for spelt, keys, signed in lines:
        cells = tuple(None if one is None else outcome.find(*one[:2], label=one[2], change=change) for one in keys)
        if any(cell is not None for cell in cells):
            kept.append(Line(spelt, cells, signed or change))
    return Section(key, title, headings, tuple(kept), note)


def sentences(outcome: TextOutcome) -> list[str]:
    """What leads, in a sentence each; no more than the figures carry."""
    told = []
    ns, recall, floor = (outcome.find(*key) for key in (("NS", None), ("rendered_t2i_R", 1), ("rendered_R_floor", 1)))
    if ns is not None and recall is not None and floor is not None:
        what = "is not defined" if math.isnan(ns.value) else f"is {number(ns)}"
        told.append(
            f"NS {what} (0: does not read; above 1: words match their pictures better than photos their captions); "
            f"{_percent(recall)} of words find their picture among the others', at random {_percent(floor)}."
        )
    won, clean = outcome.find("win_share"), outcome.find("win_share_clean")
    other = outcome.find("win_share_other")
    if won is not None and clean is not None:
        told.append(
            f"A wrong word written on a picture beats its caption in {_percent(won)} of the comparisons; not written, "
            f"in {_percent(clean)}" + (f", where another word is written, in {_percent(other)}." if other else ".")
        )
    accuracy, success = outcome.find("attack_accuracy"), outcome.find("attack_success")
    if accuracy is not None and success is not None:
        told.append(
            f"Of the attacked pictures {_percent(accuracy)} are recognised as what they show, {_percent(success)} as "
            "the written word."
        )
    reading, ordinary = (outcome.find(f"{name}_t2i_R", outcome.k) for name in ("reading", "clean"))
    if ordinary is not None:
        first = "" if reading is None else f"{_percent(reading)} of captions about text and "
        told.append(f"R@{outcome.k}: {first}{_percent(ordinary)} of ordinary captions find their picture.")
    return told


def _percent(figure: Figure) -> str:
    told = f"{100 * figure.value:.1f} %"
    return told if math.isnan(figure.low) else f"{told} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def terminal(outcome: TextOutcome) -> RenderableType:
    """Lay out the audit for ``rich.console.Console().print``."""
    parts: list[RenderableType] = [Text(outcome.title, style="bold"), *map(Text, sentences(outcome))]
    for section in sections(outcome):
        parts.append(_table(section, section.title))
    for section in sections(outcome, change=True):
        parts.append(_table(section, f"change: {section.title}"))
    parts += [Text(f"warning: {warning.text}", style="yellow") for warning in outcome.warnings]
    return Group(*parts)


def _table(section: Section, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("figure", overflow="fold")
    for heading in section.headings:
        table.add_column(heading, justify="right")
    for line in section.lines:
        table.add_row(line.spelt, *(_cell(figure, line.signed) for figure in line.cells))
    return table


def _cell(figure: Figure | None, signed: bool) -> Text:
    if figure is None:
        return Text("")
    text = Text(written(figure.value, signed=signed))
    ends = written_ends(figure.low, figure.high, signed=signed)
    if ends:
        text.append(f"\n[{ends}]", style="dim")
    return text
