"""Puts an audit of source bias into one HTML page that needs nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from bias_train.audit.outcome import Outcome, Row
from bias_train.audit.table import GROUPS, columns_of, verdict, written, written_interval, written_p
from bias_train.files import write_text
from bias_train.reports.drawing import INK, MUTED, PAPER, Plot, arm_colour, draw
from bias_train.reports.page import Tile, page_style, resource

# What the conventions explain, by the beginning of a figure's name; the first that fits is taken.
MEANINGS = {
    "relative_delta": "200 × (M_real − M_generated) / (M_real + M_generated), in [−200, 200]: M counts one source's "
    "relevant pictures in the mixed gallery, whose other pictures keep their places. Negative: generated pictures are "
    "ranked above photos that answer as well.",
    "normalised_delta": "The mixed gallery's Relative Δ minus the location-corrected one: what is left after one "
    "source being easier on its own.",
    "location_delta": "Relative Δ of the two sources' own rankings, interleaved in both orders and averaged before the "
    "ratio: the bias that would come from one source being easier on its own.",
    "alone": "The measure in a gallery of that source's pictures alone.",
    "parity": "R@k of photos alone minus that of generated pictures alone.",
    "R_both": "Share of queries with photo and twin both in the top k.",
    "NDCG_both": "NDCG@k with photo and twin as the two right answers.",
    "class_accuracy": "Share of pictures whose own class prompt scores highest among all classes' prompts: over all of "
    "the gallery's pictures, over photos, over generated ones.",
    "pair_win_rate": "Share of queries that score the generated twin above its photo; a tie is half a win, 0.5 is "
    "neutral.",
    "win_rate": "Chance that a random generated picture of a class scores above a random photo of it; 0.5 is neutral.",
    "rank_difference": "Mean rank of the photo minus that of its twin; positive: the twin stands higher.",
    "source_share": "Share of generated pictures in the top k, relevant or not; neutral where it equals the gallery's.",
    "amplification": "Odds of the generated share in the top k over its odds in the gallery; 1 is neutral.",
    "delta_ndsr": "Discounted share of photos minus that of generated pictures in the top k, relevant or not; its null "
    "value is the gallery's own balance.",
}


@dataclass(frozen=True)
class Line:
    """A row of the cells' table: a cell with the figures that the table shows."""

    group: str
    cell: str
    mode: str
    figures: tuple[Row | None, ...]
    p: str
    count: int | None


def write_audit_report(outcome: Outcome, path: Path) -> None:
    """Write the page; the file appears when it is whole."""
    write_text(path, render_audit(outcome))


def render_audit(outcome: Outcome) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals.update(
        svg=Markup, written=written, written_interval=written_interval, written_p=written_p, exact=_exact
    )
    columns = columns_of(outcome)
    plots = [plot for plot in (_forest(outcome), _exposure(outcome)) if plot is not None]
    return environment.from_string(resource("audit.html.j2")).render(
        style=page_style(),
        outcome=outcome,
        summary=_summary(outcome),
        tiles=_tiles(outcome),
        headings=[heading for heading, _, _ in columns],
        lines=_lines(outcome, change=False),
        changes=_lines(outcome, change=True),
        groups=GROUPS,
        plots=plots,
        level=100 * outcome.options["bootstrap"]["level"],
        meanings=_meanings(outcome),
        inputs=[(name, _spelt(value)) for name, value in outcome.inputs.items()],
        options=[(name, _spelt(value)) for name, value in outcome.options.items()],
    )


def _exact(value: float | None) -> str:
    """A number as the JSON has it, '' where it is undefined or infinite."""
    return "" if value is None or not math.isfinite(value) else repr(value)


def _spelt(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_spelt(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _summary(outcome: Outcome) -> str:
    row = outcome.find(*outcome.headline)
    if row is None or math.isnan(row.value):
        return "No Relative Δ could be formed in the evenly mixed gallery."
    told = f"In the evenly mixed gallery this retriever {verdict(row)}."
    if row.p is not None:
        told += f" Swapping the labels within pairs gives p {written_p(row.p)}."
    return told


def _tiles(outcome: Outcome) -> list[Tile]:
    tiles = []
    for heading, name, k in columns_of(outcome):
        row = outcome.find(name, k)
        if row is not None:
            tiles.append(Tile(heading, written(row.value, name), written_interval(row)))
    return tiles[:4]


def _lines(outcome: Outcome, *, change: bool) -> list[Line]:
    found = {
        (row.group, row.cell, row.mode, row.name, row.k): row
        for row in (outcome.changes if change else outcome.rows)
        if not row.label
    }
    lines = []
    for group, cell, mode in outcome.cells() if found else []:
        figures = tuple(found.get((group, cell, mode, name, k)) for _, name, k in columns_of(outcome))
        lead = found.get((group, cell, mode, *outcome.headline))
        p = None if lead is None else lead.p if lead.p_adjusted is None else lead.p_adjusted
        lines.append(Line(group, cell, mode, figures, written_p(p), None if lead is None else lead.count))
    return lines


def _forest(outcome: Outcome) -> Plot | None:
    """Relative Δ of every cell with its interval, the headline on top."""
    name, k = outcome.headline
    rows = [
        row
        for row in outcome.rows
        if (row.name, row.k, row.mode, row.label) == (name, k, "clean", "") and math.isfinite(row.value)
    ]
    if not rows:
        return None
    kinds = list(dict.fromkeys(row.group for row in rows))

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=1)
        for place, row in enumerate(rows):
            colour = arm_colour(kinds.index(row.group))
            if not math.isnan(row.low):
                axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2.2)
            axes.plot([row.value], [place], "o", color=colour, markersize=7, markeredgecolor=PAPER)
        axes.set_yticks(range(len(rows)), [row.cell for row in rows])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"Relative Δ of {name.removeprefix('relative_delta_')}@{k}")

    title = f"Relative Δ of {name.removeprefix('relative_delta_')}@{k}"
    told = "; ".join(f"{row.cell} {written(row.value, name)}" for row in rows)
    drawing = draw("forest", f"{title}. {told}", paint, height=80.0 + 22.0 * len(rows))
    caption = (
        "Left of 0, generated pictures are ranked above photos. Bars are the bootstrap intervals; colours are the "
    )
    return Plot(drawing, title, caption + "groups of the table: " + ", ".join(GROUPS[kind] for kind in kinds) + ".")


def _exposure(outcome: Outcome) -> Plot | None:
    """Generated share of the top against that of the gallery."""
    cutoffs = sorted({row.k for row in outcome.rows if row.name == "source_share" and row.k is not None})
    rows = [
        row
        for row in outcome.rows
        if row.name == "source_share" and row.group in ("headline", "ratio") and row.mode == "clean" and not row.label
    ]
    if not rows or len({row.ratio for row in rows}) < 2:
        return None

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
        for number, k in enumerate(cutoffs):
            line = sorted((row.ratio, row.value) for row in rows if row.k == k)
            axes.plot(*zip(*line, strict=True), color=arm_colour(number), marker="o", markersize=5, label=f"top {k}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("generated share of the gallery")
        axes.set_ylabel("of the top")
        axes.legend(frameon=False)

    told = "; ".join(f"top {row.k} at {100 * row.ratio:g} %: {100 * row.value:.1f} %" for row in rows)
    title = "Exposure of generated pictures"
    caption = "Above the grey line the top holds a larger share of generated pictures than the gallery does."
    return Plot(draw("exposure", f"{title}. {told}", paint), title, caption)


def _meanings(outcome: Outcome) -> list[tuple[str, str]]:
    names = {row.name for row in outcome.rows}
    return [(prefix, text) for prefix, text in MEANINGS.items() if any(name.startswith(prefix) for name in names)]
