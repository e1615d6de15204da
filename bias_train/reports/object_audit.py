"""Puts an audit of object bias into one HTML page that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes

from bias_train.audit.object.outcome import DEFINITION, ObjectOutcome
from bias_train.audit.object.table import ASKING, leading, lines_of, percent, sentence
from bias_train.audit.social.table import written, written_ends
from bias_train.files import write_text
from bias_train.metrics.figure import Figure
from bias_train.reports.drawing import Plot, arm_colour, arm_marker, draw
from bias_train.reports.page import Tile, page_style, resource
from bias_train.reports.recorded import exact, listed

_FORMS = (("H_original", "unedited"), ("H_control", "background edited"), ("H_removed", "object taken out"),
          ("H_floor", "random retriever"))  # fmt: skip
_OF_PARTS = (("H_original", "unedited"), ("H_control", "background edited"), ("H_removed", "taken out"),
             ("H_floor", "random"), ("DG_net", "net gap"), ("DG", "gap"), ("ODmAP_V2", "ODmAP V2"),
             ("ODmAP_V2_floor", "random"))  # fmt: skip

MEANINGS = {
    "Share with the object": "Share of the first k that mention (or show) the object: high while it is in the picture, "
    "low once it is taken out, unchanged by an edit of the background.",
    "Gap": "Share before minus share after the object is taken out; 0 for a random retriever. Net of the edit as such: "
    "share after an edit of the background minus share after the object is taken out.",
    "ODmAP V1": "Mean average precision of what lacks the object. Nearly every caption lacks any given object, so that "
    "a random retriever scores nearly 1: read it beside its floor.",
    "ODmAP V2": "The same of what lacks the object and has another object of the query.",
    "ODmAP V3": "The same of what has no object besides that the query lacks; very strict among pictures.",
    "Random retriever": "The same figure of a random order of the gallery, computed exactly.",
}


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        name: of the figure, or of the object or pair.
        spelt: for readers.
        cells: figures, None where there is none.
        signed: whether the cells are differences.
    """

    name: str
    spelt: str
    cells: tuple[Figure | None, ...]
    signed: bool = False


@dataclass(frozen=True)
class Part:
    """Single objects, or single pairs.

    Attributes:
        pairs: which of the two.
        headings: of the columns.
        lines: one an object or pair, those with most queries first.
    """

    pairs: bool
    headings: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Section:
    """What the page says of one direction.

    Attributes:
        direction: "i2t" or "t2i".
        title: for readers.
        sentence: what leads.
        lines: figures by cut-off.
        changes: likewise, of the change.
        parts: pairs and objects.
        plot: shares by cut-off.
    """

    direction: str
    title: str
    sentence: str
    lines: tuple[Line, ...]
    changes: tuple[Line, ...]
    parts: tuple[Part, ...]
    plot: Plot


def write_object_report(outcome: ObjectOutcome, path: Path) -> None:
    """Write the page; the file appears when it is whole."""
    write_text(path, render_object(outcome))


def render_object(outcome: ObjectOutcome) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals.update(svg=Markup, written=written, written_ends=written_ends, exact=exact)
    level = None if outcome.options["bootstrap"] is None else 100 * outcome.options["bootstrap"]["level"]
    return environment.from_string(resource("object_audit.html.j2")).render(
        style=page_style(),
        outcome=outcome,
        definition=DEFINITION,
        tiles=_tiles(outcome),
        sections=[_section(outcome, direction) for direction in outcome.directions],
        clean=_clean(outcome),
        level=level,
        meanings=MEANINGS,
        counts=[(name, f"{count:,}") for name, count in outcome.counts.items()],
        inputs=listed(outcome.inputs),
        conventions=listed(outcome.conventions),
        options=listed(outcome.options),
    )


def _tiles(outcome: ObjectOutcome) -> list[Tile]:
    tiles = []
    for direction in outcome.directions:
        for name, label in (("H_removed", "recalled though taken out"), ("DG", "gap")):
            figure = leading(outcome, direction, name)
            if figure is not None:
                ends = percent(figure).partition(" [")[2].rstrip("]")
                below = f"@{outcome.k}, {ASKING[direction]}" + (f" [{ends}]" if ends else "")
                tiles.append(Tile(label, percent(figure, ends=False), below))
    return tiles


def _section(outcome: ObjectOutcome, direction: str) -> Section:
    return Section(
        direction,
        ASKING[direction].capitalize(),
        sentence(outcome, direction),
        _lines(outcome, direction, change=False),
        _lines(outcome, direction, change=True) if outcome.changes else (),
        tuple(
            _part(outcome, direction, pairs=pairs) for pairs in (True, False) if outcome.labels(direction, pairs=pairs)
        ),
        _plot(outcome, direction),
    )


def _lines(outcome: ObjectOutcome, direction: str, *, change: bool) -> tuple[Line, ...]:
    found = []
    for name, spelt, signed in lines_of(outcome, direction):
        if change and name.endswith("floor"):
            continue
        spelt_names = [(f"{direction}_{name}", k) for k in outcome.options["ks"]]
        spelt_names += [
            (f"{direction}_{name}{suffix}", outcome.k) for suffix in ("_micro", "_pairs")
            if suffix == "_micro" or outcome.labels(direction, pairs=True)
        ]  # fmt: skip
        cells = tuple(outcome.find(full, k, change=change) for full, k in spelt_names)
        found.append(Line(name, spelt, cells, signed or change))
    return tuple(found)


def _part(outcome: ObjectOutcome, direction: str, *, pairs: bool) -> Part:
    shown = [entry for entry in _OF_PARTS if outcome.find(f"{direction}_{entry[0]}", outcome.k) is not None]
    lines = []
    for label in outcome.labels(direction, pairs=pairs):
        cells = tuple(outcome.find(f"{direction}_{name}", outcome.k, label=label) for name, _ in shown)
        lines.append(Line(label, label, cells))
    return Part(pairs, tuple(heading for _, heading in shown), tuple(lines))


def _clean(outcome: ObjectOutcome) -> list[Line]:
    lines = []
    for direction, spelt in (("t2i", "caption finds picture"), ("i2t", "picture finds caption")):
        for change in (False, True) if outcome.changes else (False,):
            name = f"clean_{direction}_R"
            cells = tuple(outcome.find(name, k, change=change) for k in outcome.options["clean_ks"])
            lines.append(Line(name, f"{spelt}, change" if change else spelt, cells, change))
    return lines


def _plot(outcome: ObjectOutcome, direction: str) -> Plot:
    """Shares with the object by cut-off, over all queries: every form of the query and a random retriever."""
    ks = sorted(outcome.options["ks"])
    curves = []
    for name, spelt in _FORMS:
        found = [outcome.find(f"{direction}_{name}_micro", k) for k in ks]
        if any(figure is not None for figure in found):
            curves.append((name, spelt, [figure for figure in found if figure is not None]))

    def paint(axes: Axes) -> None:
        for arm, (name, spelt, figures) in enumerate(curves):
            below, above = [f.value - f.low for f in figures], [f.high - f.value for f in figures]
            beside = 0.08 * (arm - (len(curves) - 1) / 2)  # bars of one cut-off would cover each other
            axes.errorbar(
                [place + beside for place in range(len(ks))], [f.value for f in figures], yerr=[below, above],
                color=arm_colour(arm), marker=arm_marker(arm), label=spelt,
                linestyle="--" if name == "H_floor" else "-", elinewidth=1.2, markersize=5,
            )  # fmt: skip
        axes.set_xticks(range(len(ks)), [str(k) for k in ks])
        axes.set_xlabel("k")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=9)

    title = "Share of the first k with the object"
    told = "; ".join(f"{spelt} {', '.join(written(f.value) for f in figures)}" for _, spelt, figures in curves)
    caption = f"At k = {', '.join(map(str, ks))}, over all queries, with intervals over pictures."
    return Plot(draw(f"shares-{direction}", f"{title}. {told}", paint), title, caption)
