"""The object audit's tables for a terminal: what leads, each direction, categories, pairs and ordinary retrieval."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bias_train.audit.object.outcome import DEFINITION, ObjectOutcome
from bias_train.audit.social.table import written, written_ends
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.object.relevance import VARIANTS

SHOWN_CATEGORIES = 10
FEWEST_CATEGORIES = 5  # a mean over fewer is that of these objects, and of no others

ASKING = {"i2t": "pictures among captions", "t2i": "captions among pictures"}
_FIRST = {"i2t": "captions for a picture", "t2i": "pictures for a caption"}
_HELD = {"i2t": "mention an object", "t2i": "show an object"}

# Name and spelling of the lines of a direction's table; signed ones are differences.
LINES: tuple[tuple[str, str, bool], ...] = (
    ("H_original", "share with the object: unedited", False),
    ("H_control", "background edited", False),
    ("H_removed", "object taken out", False),
    ("H_floor", "random retriever", False),
    ("DG", "gap, unedited minus taken out", True),
    ("DG_control", "what the edit of the background does", True),
    ("DG_net", "gap net of it", True),
    *(
        line
        for variant in VARIANTS
        for line in (
            (f"ODmAP_{variant}", f"ODmAP {variant}", False),
            (f"ODmAP_{variant}_floor", "random retriever", False),
            (f"ODmAP_{variant}_net", "net of the edited background", True),
        )
    ),
)


def lines_of(outcome: ObjectOutcome, direction: str) -> list[tuple[str, str, bool]]:
    """The lines that a direction has figures for: name, spelling, whether a sign is written."""
    return [line for line in LINES if outcome.find(f"{direction}_{line[0]}", outcome.k) is not None]


def leading(outcome: ObjectOutcome, direction: str, name: str) -> Figure | None:
    """A figure at the leading cut-off: the mean over categories, or over queries where that rests on too few."""
    enough = outcome.conventions["categories in the mean"][direction] >= FEWEST_CATEGORIES
    return outcome.find(f"{direction}_{name}" if enough else f"{direction}_{name}_micro", outcome.k)


def percent(figure: Figure | None, *, ends: bool = True) -> str:
    """Write a share as a percentage with its interval."""
    if figure is None:
        return "–"
    told = f"{100 * figure.value:.1f} %".replace("-", "−")
    if ends and not math.isnan(figure.low):
        told += f" [{100 * figure.low:.1f}, {100 * figure.high:.1f}]".replace("-", "−")
    return told


def sentence(outcome: ObjectOutcome, direction: str) -> str:
    """Say what leads in one direction; no more than the figures carry."""
    shares = {name: leading(outcome, direction, name) for name in ("H_original", "H_control", "H_removed", "H_floor")}
    told = (
        f"Of the first {outcome.k} {_FIRST[direction]}, {percent(shares['H_original'])} {_HELD[direction]} while it "
        f"is there, and {percent(shares['H_removed'])} once it is taken out"
    )
    if shares["H_control"] is not None:
        told += f" ({percent(shares['H_control'], ends=False)} after an edit of the background)"
    told += f"; a random retriever's would in {percent(shares['H_floor'], ends=False)}."
    figure, floor = (leading(outcome, direction, f"ODmAP_V2{suffix}") for suffix in ("", "_floor"))
    if figure is not None and floor is not None:
        told += f" ODmAP V2@{outcome.k} is {number(figure)}, a random retriever's {written(floor.value)}."
    return told


def number(figure: Figure, *, signed: bool = False) -> str:
    """Write a figure with its interval on one line."""
    ends = written_ends(figure.low, figure.high, signed=signed)
    return written(figure.value, signed=signed) + (f" [{ends}]" if ends else "")


def terminal(outcome: ObjectOutcome) -> RenderableType:
    """Lay out the audit for ``rich.console.Console().print``."""
    parts: list[RenderableType] = [Text(outcome.title, style="bold")]
    parts += [Text(sentence(outcome, direction)) for direction in outcome.directions]
    for direction in outcome.directions:
        parts.append(_direction(outcome, direction, change=False))
        if outcome.changes:
            parts.append(_direction(outcome, direction, change=True))
        for pairs in (True, False):
            if outcome.labels(direction, pairs=pairs):
                parts.append(_parts(outcome, direction, pairs=pairs))
    parts.append(_clean(outcome))
    parts += [Text(f"warning: {warning.text}", style="yellow") for warning in outcome.warnings]
    return Group(*parts)


def _cell(figure: Figure | None, signed: bool) -> Text:
    if figure is None:
        return Text("")
    text = Text(written(figure.value, signed=signed))
    ends = written_ends(figure.low, figure.high, signed=signed)
    if ends:
        text.append(f"\n[{ends}]", style="dim")
    return text


def _direction(outcome: ObjectOutcome, direction: str, *, change: bool) -> Table:
    caption = f"{DEFINITION}; mean over categories, then over queries (micro)"
    title = f"change, {ASKING[direction]}" if change else ASKING[direction]
    if change:
        caption = "this retriever minus the other one, on the same resamples"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("figure", overflow="fold")
    for k in outcome.options["ks"]:
        table.add_column(f"@{k}", justify="right")
    table.add_column(f"micro @{outcome.k}", justify="right")
    for name, spelt, signed in lines_of(outcome, direction):
        if change and name.endswith("floor"):
            continue
        found = [
            outcome.find(f"{direction}_{name}", k, change=change) for k in outcome.options["ks"]
        ] + [outcome.find(f"{direction}_{name}_micro", outcome.k, change=change)]  # fmt: skip
        table.add_row(spelt, *(_cell(figure, signed or change) for figure in found))
    return table


def _parts(outcome: ObjectOutcome, direction: str, *, pairs: bool) -> Table:
    labels = outcome.labels(direction, pairs=pairs)
    caption = None if pairs or len(labels) <= SHOWN_CATEGORIES else f"the {SHOWN_CATEGORIES} of {len(labels)} with most"
    title = "spurious pairs: the first taken out of pictures with the second" if pairs else "categories"
    table = Table(title=f"{title}, {ASKING[direction]}", title_justify="left", caption=caption,
                  caption_justify="left")  # fmt: skip
    table.add_column("pair" if pairs else "object", overflow="fold")
    names = ("H_original", "H_removed", "H_floor", "DG", "ODmAP_V2", "ODmAP_V2_floor")
    for heading in ("unedited", "taken out", "random", "gap", "ODmAP V2", "random"):
        table.add_column(f"{heading} @{outcome.k}", justify="right")
    table.add_column("queries", justify="right")
    for label in labels if pairs else labels[:SHOWN_CATEGORIES]:
        found = [outcome.find(f"{direction}_{name}", outcome.k, label=label) for name in names]
        count = found[0].count if found[0] is not None else 0
        table.add_row(label, *(_cell(figure, figure is found[3]) for figure in found), f"{count:,}")
    return table


def _clean(outcome: ObjectOutcome) -> Table:
    table = Table(title="ordinary retrieval on the same gallery", title_justify="left")
    table.add_column("figure")
    for k in outcome.options["clean_ks"]:
        table.add_column(f"R@{k}", justify="right")
    for direction, spelt in (("t2i", "caption finds picture"), ("i2t", "picture finds caption")):
        for change in (False, True) if outcome.changes else (False,):
            found = [outcome.find(f"clean_{direction}_R", k, change=change) for k in outcome.options["clean_ks"]]
            table.add_row(f"{spelt}, change" if change else spelt, *(_cell(figure, change) for figure in found))
    return table
