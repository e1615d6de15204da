"""Puts an audit of text spotting into one HTML page that needs nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes

from bias_train.audit.object.table import percent
from bias_train.audit.social.table import written, written_ends
from bias_train.audit.text.outcome import TextOutcome
from bias_train.audit.text.table import DIRECTIONS, sections, sentences
from bias_train.files import write_text
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.text.relative_scores import QUANTILES
from bias_train.reports.drawing import Plot, arm_colour, arm_marker, draw
from bias_train.reports.page import Tile, page_style, resource
from bias_train.reports.recorded import exact, listed

MEANINGS = {
    "Sync score": "Mean over words of the cosine of a word's rendering on a blank canvas and the word as text. It "
    "differs between retrievers for reasons that have nothing to do with reading, and falls when blank canvases are "
    "pushed away.",
    "NS": "Mean score of a rendering with its own word less that with other words, divided by the same of ordinary "
    "pictures and captions. About 0: does not read. Above 1: words match their pictures better than photos their "
    "captions. Undefined where ordinary pairs score no higher than others. A definition of our own.",
    "Win share": "Share of a picture's captions that score below the query for a wrong word on it, a tie counting one "
    "half. Net of the same on the picture without the word. A definition of our own.",
    "Attack success": "Share of attacked pictures whose highest class is the written word.",
    "RSA, RSC": "Score of picture and caption less the score after all text, or the caption's words, were removed from "
    "the picture. Removal as such costs a little too, hence the control with other places removed.",
    "Random": "The same figure of a random order of the gallery, computed exactly.",
}


def write_text_report(outcome: TextOutcome, path: Path) -> None:
    """Write the page; the file appears when it is whole."""
    write_text(path, render_text(outcome))


def render_text(outcome: TextOutcome) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals.update(svg=Markup, written=written, written_ends=written_ends, exact=exact)
    level = None if outcome.options["bootstrap"] is None else 100 * outcome.options["bootstrap"]["level"]
    changes = {section.key: section for section in sections(outcome, change=True)}
    return environment.from_string(resource("text_audit.html.j2")).render(
        style=page_style(),
        outcome=outcome,
        sentences=sentences(outcome),
        tiles=_tiles(outcome),
        sections=sections(outcome),
        changes=changes,
        plots=_plots(outcome),
        level=level,
        meanings=MEANINGS,
        counts=[(name, f"{count:,}") for name, count in outcome.counts.items()],
        inputs=listed(outcome.inputs),
        conventions=listed(outcome.conventions),
        options=listed(outcome.options),
    )


def _tiles(outcome: TextOutcome) -> list[Tile]:
    shown = (
        ("NS", None, "NS", False), ("win_share_net", None, "wins by being written", True),
        ("attack_success", None, "attack success", True), ("reading_t2i_R", outcome.k, "captions about text", True),
        ("clean_t2i_R", outcome.k, "ordinary captions", True),
    )  # fmt: skip
    tiles = []
    for name, k, label, share in shown:
        figure = outcome.find(name, k)
        if figure is None:
            continue
        below = "" if k is None else f"R@{k} "
        if share:
            ends = percent(figure).partition(" [")[2].rstrip("]")
            tiles.append(Tile(label, percent(figure, ends=False), below + (f"[{ends}]" if ends else "")))
        else:
            ends = written_ends(figure.low, figure.high)
            tiles.append(Tile(label, written(figure.value), below + (f"[{ends}]" if ends else "")))
    return tiles


def _plots(outcome: TextOutcome) -> dict[str, Plot]:
    """By the section that they stand in."""
    found = {"overlay": _recall(outcome)}
    found |= {name: _spread(outcome, name) for name in ("RSA", "RSC")}
    return {key: plot for key, plot in found.items() if plot is not None}


def _recall(outcome: TextOutcome) -> Plot | None:
    """R@k with and without the word, in both directions."""
    ks = sorted(outcome.ks)
    curves = []
    for way, spelt in DIRECTIONS:
        for name, told in ((f"overlay_clean_{way}_R", "not written"), (f"overlay_{way}_R", "written")):
            curves.append((f"{spelt}, {told}", [outcome.find(name, k) for k in ks]))
    title = "Recall with and without a wrong word on every picture"
    return _curves(curves, [str(k) for k in ks], "k", "recall-overlay", title, "With intervals over pictures.")


def _spread(outcome: TextOutcome, name: str) -> Plot | None:
    """Quantiles of a relative score: text removed, other places removed, net."""
    levels = [f"{100 * level:02.0f}" for level in QUANTILES]
    forms = (("", "text removed"), ("_control", "other places removed"), ("_net", "net"))
    curves = [(spelt, [outcome.find(f"{name}{part}_q{level}") for level in levels]) for part, spelt in forms]
    title = f"Distribution of {name}"
    caption = "Score lost to removal, at quantiles over captions, with intervals over pictures."
    return _curves(curves, [f"{float(level):g} %" for level in levels], "quantile", f"spread-{name}", title, caption)


def _curves(
    curves: list[tuple[str, list[Figure | None]]], ticks: list[str], below: str, name: str, title: str, caption: str
) -> Plot | None:
    drawn = [
        (spelt, [one for one in figures if one is not None and math.isfinite(one.value)]) for spelt, figures in curves
    ]
    drawn = [(spelt, figures) for spelt, figures in drawn if len(figures) == len(ticks)]
    if not drawn:
        return None

    def paint(axes: Axes) -> None:
        for arm, (spelt, figures) in enumerate(drawn):
            beside = 0.08 * (arm - (len(drawn) - 1) / 2)  # bars of one place would cover each other
            values = [one.value for one in figures]
            bars = [[one.value - one.low for one in figures], [one.high - one.value for one in figures]]
            axes.errorbar(
                [place + beside for place in range(len(ticks))], values, yerr=bars, color=arm_colour(arm),
                marker=arm_marker(arm), label=spelt, elinewidth=1.2, markersize=5,
            )  # fmt: skip
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlabel(below)
        axes.legend(frameon=False, fontsize=9)

    told = "; ".join(f"{spelt} {', '.join(written(one.value) for one in figures)}" for spelt, figures in drawn)
    return Plot(draw(name, f"{title}. {told}", paint), title, caption)
