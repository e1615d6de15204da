"""The comparison's table for a terminal."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bias_train.text_remedies.outcome import NONE, READING, Row, TextComparison

_COLUMNS = (
    ("word wins %", "win_share", None, 100.0, 1),
    ("net %", "win_share_net", None, 100.0, 1),
    ("read %", "win_share_read", None, 100.0, 1),
    ("NS", "NS", None, 1.0, 3),
    ("rendered i2t R@1", "rendered_i2t_R", 1, 100.0, 1),
    ("clean t2i R@1", "clean_t2i_R", 1, 100.0, 1),
    ("clean i2t R@1", "clean_i2t_R", 1, 100.0, 1),
    ("overlaid i2t R@1", "overlay_i2t_R", 1, 100.0, 1),
    ("attacked acc. %", "attack_accuracy", None, 100.0, 1),
    ("reading t2i R@1", "reading_t2i_R", 1, 100.0, 1),
    ("reading i2t R@1", "reading_i2t_R", 1, 100.0, 1),
)


def terminal(comparison: TextComparison, tolerance: float = 1.0) -> RenderableType:
    """Lay the comparison out for ``rich.console.Console().print``.

    Args:
        comparison: what was found.
        tolerance: points of R@1 that the best remedy may cost.
    """
    parts: list[RenderableType] = [_table(comparison), Text(verdict(comparison, tolerance), style="bold")]
    parts += [Text(f"{name} is left out: {why}", style="yellow") for name, why in comparison.skipped.items()]
    return Group(*parts)


def verdict(comparison: TextComparison, tolerance: float = 1.0) -> str:
    """Say in a sentence which remedy takes away most at little cost, and what it does to reading."""
    best = comparison.best(tolerance)
    if best is None:
        return f"no remedy lowers the net share that the written word wins within {tolerance:g} points of clean R@1"
    sentence = (
        f"{best.remedy} lowers the net share that the written word wins to {100 * best.value:.1f} % "
        f"({_signed(100 * best.change, 1)} points), at a cost of at most {max(comparison.cost(best.remedy), 0.0):.1f} "
        "points of clean R@1"
    )
    moved = [100 * row.change for name in READING if (row := comparison.find(best.remedy, name, 1)) is not None]
    if not moved:
        return f"{sentence}; what it does to reading was not measured (--reading)"
    return f"{sentence}; reading R@1 moves by {' and '.join(_signed(one, 1) for one in moved)} points"


def _table(comparison: TextComparison) -> Table:
    table = Table(
        caption="fitted to one half of the pictures, measured on the other; in brackets 95 % intervals, in parentheses "
        "the change to none. Word wins: captions that score below the query for the word that is written on the "
        "picture; net: less the same on the clean picture",
        caption_justify="left",
    )
    table.add_column("remedy", overflow="fold")
    shown = [column for column in _COLUMNS if comparison.find(NONE, column[1], column[2]) is not None]
    for heading, *_ in shown:
        table.add_column(heading, justify="right")
    for remedy in comparison.remedies:
        cells = [_cell(comparison.find(remedy, name, k), factor, digits) for _, name, k, factor, digits in shown]
        table.add_row(Text(remedy, style="bold" if remedy == NONE else ""), *cells)
    return table


def _cell(row: Row | None, factor: float, digits: int) -> Text:
    if row is None or math.isnan(row.value):
        return Text("–")
    text = Text(_written(factor * row.value, digits))
    if not math.isnan(row.low):
        ends = _written(factor * row.low, digits), _written(factor * row.high, digits)
        text.append(f"\n[{ends[0]}, {ends[1]}]", style="dim")
    if not math.isnan(row.change):
        text.append(f"\n({_signed(factor * row.change, digits)})", style="dim")
    return text


def _written(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")
