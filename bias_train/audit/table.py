"""The audit's table for a terminal: the headline first, then what it is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bias_train.audit.outcome import Outcome, Row

GROUPS = {
    "headline": "evenly mixed gallery",
    "ratio": "other galleries",
    "generator": "one generator each, evenly mixed",
    "caption_length": "caption length",
    "similarity": "similarity of photo and twin",
}


def columns_of(outcome: Outcome) -> list[tuple[str, str, int | None]]:
    """Heading, name and cut-off of the figures that a table shows for every cell."""
    name, k = outcome.headline
    measure = name.removeprefix("relative_delta_")
    shown: list[tuple[str, str, int | None]] = [(f"Δ {measure}@{k}", name, k)]
    names = {(row.name, row.k) for row in outcome.rows}
    first = min((k for name, k in names if name == "delta_ndsr" and k is not None), default=1)
    ndsr = next((k for k in (5, 3, 10) if ("delta_ndsr", k) in names), first)
    for heading, name, cutoff in (
        (f"Δ_norm {measure}@{k}", f"normalised_delta_{measure}", k),
        (f"Δ NDCG@{ndsr}", "relative_delta_NDCG", ndsr),
        ("pair win rate", "pair_win_rate", None),
        ("win rate", "win_rate", None),
        (f"Δ-NDSR@{ndsr}", "delta_ndsr", ndsr),
        (f"amplification@{ndsr}", "amplification", ndsr),
    ):
        if (name, cutoff) in names:
            shown.append((heading, name, cutoff))
    return shown


def written(value: float, name: str) -> str:
    """Write a figure: points of a Relative Delta with one decimal, everything else with three.

    >>> written(-12.345, "relative_delta_R"), written(0.5, "pair_win_rate"), written(float("nan"), "delta_ndsr")
    ('−12.3', '0.500', '–')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    digits = 1 if "delta_R" in name or "delta_NDCG" in name or "delta_P" in name or name == "rank_difference" else 3
    digits = 1 if "inverse" in name or "_R1_" in name else digits
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def written_interval(row: Row) -> str:
    """Write a figure's interval without unit, '' where it has none."""
    if math.isnan(row.low) or math.isnan(row.high):
        return ""
    return f"{written(row.low, row.name)}, {written(row.high, row.name)}"


def written_p(p: float | None) -> str:
    """Write a p-value.

    >>> written_p(0.0314), written_p(1e-4), written_p(None)
    ('0.031', '<0.001', '')
    """
    if p is None or math.isnan(p):
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def terminal(outcome: Outcome) -> RenderableType:
    """Lay out the audit for ``rich.console.Console().print``."""
    parts: list[RenderableType] = [_headline(outcome), _cells(outcome, change=False)]
    if outcome.changes:
        parts.append(_cells(outcome, change=True))
    for row in outcome.equivalences:
        test = row.test
        verdict = "equivalent" if test.equivalent else "not shown to be equivalent"
        parts.append(
            Text(
                f"{row.cell}: {row.question}: {test.value:+.2f} points [{test.low:.2f}, {test.high:.2f}], {verdict} "
                f"within {test.margin:g} (p {written_p(test.p)})"
            )
        )
    parts += [Text(f"warning: {warning.text}", style="yellow") for warning in outcome.warnings]
    return Group(*parts)


def _headline(outcome: Outcome) -> Text:
    row = outcome.find(*outcome.headline)
    if row is None or math.isnan(row.value):
        return Text(f"{outcome.title}: no Relative Delta in the evenly mixed gallery", style="bold")
    text = Text(f"{outcome.title}: {verdict(row)}. ", style="bold")
    text.append(f"Relative Δ of {row.key.removeprefix('relative_delta_')} {written(row.value, row.name)}")
    if written_interval(row):
        text.append(f" [{written_interval(row)}]")
    if row.p is not None:
        text.append(f", label-swap p {written_p(row.p)}")
    return text


def verdict(row: Row) -> str:
    """Say what a Relative Delta says."""
    if not math.isnan(row.low) and row.low <= 0 <= row.high:
        return "favours neither source beyond the interval"
    return "favours generated pictures" if row.value < 0 else "favours photos"


def _cells(outcome: Outcome, *, change: bool) -> Table:
    shown = columns_of(outcome)
    level = 100 * outcome.options["bootstrap"]["level"]
    caption = f"in brackets {level:g} % intervals; negative Δ: generated pictures are ranked above photos"
    if change:
        caption = "change against the other retriever, on the same resamples"
    table = Table(caption=caption, caption_justify="left")
    table.add_column("gallery or queries", overflow="fold")
    table.add_column("mode")
    for heading, _, _ in shown:
        table.add_column(heading, justify="right")
    adjust = outcome.options["adjust"]
    if outcome.tests and not change:
        table.add_column("p" if adjust == "none" else f"p ({adjust})", justify="right")
    table.add_column("queries", justify="right")
    last = None
    for group, cell, mode in outcome.cells():
        if group != last:
            if last is not None:
                table.add_section()
            table.add_row(Text(GROUPS[group], style="bold"))
            last = group
        found = {(row.name, row.k): row for row in _of_cell(outcome, group, cell, mode, change)}
        lead = found.get(outcome.headline)
        p = [] if not outcome.tests or change else [written_p(_p(lead))]
        count = "" if lead is None else f"{lead.count:,}"
        table.add_row(cell, mode, *(_figure(found.get((name, k))) for _, name, k in shown), *p, count)
    return table


def _p(row: Row | None) -> float | None:
    if row is None:
        return None
    return row.p if row.p_adjusted is None else row.p_adjusted


def _of_cell(outcome: Outcome, group: str, cell: str, mode: str, change: bool) -> Iterator[Row]:
    for row in outcome.changes if change else outcome.rows:
        if (row.group, row.cell, row.mode, row.label) == (group, cell, mode, ""):
            yield row


def _figure(row: Row | None) -> Text:
    if row is None:
        return Text("–")
    text = Text(written(row.value, row.name))
    if written_interval(row):
        text.append(f"\n[{written_interval(row)}]", style="dim")
    return text
