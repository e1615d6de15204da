"""Plots as inline SVG that follows the page's colours, in light and dark alike."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

ARM_COLOURS = 8
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), "-", (0, (5, 2)))

# Matplotlib knows no CSS variables. It draws with these placeholders, no two of which occur by chance, and the SVG's
# text is changed afterwards, so that one drawing serves both colour schemes.
INK, MUTED, RULE, PAPER = "#010203", "#010204", "#010205", "#010206"
_PLACEHOLDERS = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    f"#0a0b{index:02x}": f"--arm-{index}" for index in range(ARM_COLOURS)
}
POINTS = 350.0  # width of a plot in its own units; text of 10.5 is then readable on a phone and not huge on a desk
TEXT = 10.5


def arm_colour(index: int) -> str:
    """Return the placeholder of an arm's colour."""
    return f"#0a0b{index % ARM_COLOURS:02x}"


def arm_marker(index: int) -> str:
    """Return an arm's marker: colour alone does not tell arms apart for everybody."""
    return MARKERS[index % len(MARKERS)]


@dataclass(frozen=True)
class Plot:
    """A finished plot.

    Attributes:
        svg: the drawing, ready to stand in a page.
        title: short heading.
        caption: what is shown and how to read it, as plain text.
        legend: indices of the arms that it shows.
        wide: it needs the page's whole width.
    """

    svg: str
    title: str
    caption: str
    legend: tuple[int, ...] = ()
    wide: bool = False


@contextmanager
def style() -> Iterator[None]:
    """Set the look of every plot."""
    look: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "bias-train",
        "font.size": TEXT,
        "axes.edgecolor": RULE,
        "axes.labelcolor": INK,
        "axes.labelsize": TEXT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": RULE,
        "grid.linewidth": 0.7,
        "text.color": INK,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.labelsize": TEXT - 0.5,
        "ytick.labelsize": TEXT - 0.5,
        "lines.linewidth": 1.8,
        "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
    }
    with mpl.rc_context(look):
        yield


def draw(name: str, summary: str, paint: Callable[[Axes], None], *, height: float = 255.0) -> str:
    """Draw one plot.

    Args:
        name: unique on the page; keeps the drawings' ids apart.
        summary: what a reader who cannot see it is told.
        paint: draws on the axes.
        height: in the units of :data:`POINTS`.

    Returns:
        An ``<svg>`` element without fixed size.
    """
    with style():
        canvas = Canvas(figsize=(POINTS / 72, height / 72), layout="constrained")
        axes = canvas.add_subplot()
        paint(axes)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), name, summary)


def swatch(index: int) -> str:
    """Return an arm's key for a legend, a piece of its line with its marker, as an SVG symbol ``swatch-<index>``.

    A symbol, because legends repeat it and its ids must be in the page once.
    """

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.plot([0, 1], [0, 0], color=arm_colour(index), linestyle=DASHES[index % len(DASHES)])
        axes.plot([0.5], [0], color=arm_colour(index), marker=arm_marker(index), markersize=6)
        axes.set_xlim(-0.05, 1.05)

    with style():
        canvas = Canvas(figsize=(30 / 72, 12 / 72))
        axes = canvas.add_axes((0.0, 0.0, 1.0, 1.0))
        paint(axes)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = _inline(buffer.getvalue(), f"key-{index}", "")
    inner = drawing[drawing.index(">") + 1 : drawing.rindex("</svg>")]
    return f'<symbol id="swatch-{index}" viewBox="0 0 30 12">{inner}</symbol>'


def _inline(svg: str, name: str, summary: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Ids are the page's, not the drawing's: two drawings with an equal clip path would share it.
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    for placeholder, variable in _PLACEHOLDERS.items():
        svg = svg.replace(placeholder, f"var({variable})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font: \1px var(--font)", svg)
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box is not None
    label = summary.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box.group()}'
    return f'{opening} role="img" aria-label="{label}"{svg[svg.index(">") :]}'
