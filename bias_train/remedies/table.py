"""The comparison's table for a terminal."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bias_train.remedies.outcome import NONE, Comparison, Row


def terminal(comparison: Comparison, tolerance: float = 1.0) -> RenderableType:
    """Lay the comparison out for ``rich.console.Console().print``.

    Args:
        comparison: what was found.
        tolerance: points of recall that the best remedy may cost.
    """
    parts: list[RenderableType] = [_table(comparison), Text(verdict(comparison, tolerance), style="bold")]
    parts += [Text(f"{name} was not fitted: {why}", style="yellow") for name, why in comparison.skipped.items()]
    return Group(*parts)


def verdict(comparison: Comparison, tolerance: float = 1.0) -> str:
    """Say in a sentence which remedy takes away most at little cost."""
    best = comparison.best(tolerance)
    if best is None:
        return f"no remedy keeps recall at 1 and 5 of ordinary pictures within {tolerance:g} points, or none was given"
    return (
        f"{best.remedy} takes {best.value:.0f} % of the excess MaxSkew@{comparison.k} by {comparison.attribute}"
        f"{f' [{best.low:.0f}, {best.high:.0f}]' if not math.isnan(best.low) else ''} at a cost of at most "
        f"{max(comparison.cost(best.remedy), 0.0):.1f} points of recall at 1 and 5 (words {best.words})"
    )


def _table(comparison: Comparison) -> Table:
    k = comparison.k
    words = comparison.measured_words
    others = dict.fromkeys(row.label for row in comparison.rows if row.kind == "off_target")
    splits = comparison.options.get("splits", 1)
    over, of = (f" and {splits} splits", ", of one split") if splits > 1 else ("", "")
    table = Table(
        caption=f"by {comparison.attribute}; means over words {words[0]}{over}; in brackets 95 % intervals over "
        f"pictures{of}. Excess: above a random retriever. In parentheses the change to none. Leakage: accuracy of a "
        "linear classifier",
        caption_justify="left",
    )
    table.add_column("remedy", overflow="fold")
    columns = [
        (f"excess MaxSkew@{k}", "excess_max_skew", k, {"kind": "bias", "words": words[0]}, 3),
        ("cut %", "cut_max_skew", k, {"kind": "bias", "words": words[0]}, 0),
        *((f"cut %, words {part}", "cut_max_skew", k, {"kind": "bias", "words": part}, 0) for part in words[1:]),
        (f"excess NDKL@{k}", "excess_ndkl", k, {"kind": "bias", "words": words[0]}, 3),
        ("|C-ASC|", "abs_association", None, {"kind": "bias", "words": words[0]}, 3),
        ("cells", "significant_cells", None, {"kind": "bias", "words": words[0]}, 0),
        ("t2i R@1", "t2i_R", 1, {"kind": "utility"}, 1),
        ("t2i R@5", "t2i_R", 5, {"kind": "utility"}, 1),
        ("i2t R@1", "i2t_R", 1, {"kind": "utility"}, 1),
        (f"retention@{k}", "retention", k, {"kind": "retention"}, 2),
        ("leakage", "leakage_accuracy", None, {"kind": "leakage"}, 2),
        *((f"excess MaxSkew, {label}", "excess_max_skew", k, {"kind": "off_target", "label": label}, 3)
          for label in others),
    ]  # fmt: skip
    shown = [column for column in columns if any((row.name, row.k) == column[1:3] for row in comparison.rows)]
    for heading, *_ in shown:
        table.add_column(heading, justify="right")
    for remedy in comparison.remedies:
        cells = [_cell(comparison.find(remedy, name, at, **about), digits) for _, name, at, about, digits in shown]
        table.add_row(Text(remedy, style="bold" if remedy == NONE else ""), *cells)
    return table


def _cell(row: Row | None, digits: int) -> Text:
    if row is None:
        return Text("–")
    percent = 100.0 if row.kind == "utility" else 1.0
    text = Text(_written(percent * row.value, digits))
    brackets = row.kind == "bias" and not math.isnan(row.low)
    if brackets:
        text.append(f"\n[{_written(row.low, digits)}, {_written(row.high, digits)}]", style="dim")
    elif row.kind == "utility" and not math.isnan(row.change):
        text.append(f"\n({_signed(percent * row.change, digits)})", style="dim")
    return text


def _written(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")
