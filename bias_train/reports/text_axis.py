"""What a report says of text spotting: a table of the cells, and reading bias against the task of reading.

A retriever that has gone blind to text has no reading bias, so that no figure of it stands without the reading task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from rich.table import Table
from rich.text import Text

from bias_train.records import TEXT
from bias_train.reports.collect import Metric, Run
from bias_train.reports.drawing import Plot, arm_colour, arm_marker, draw
from bias_train.reports.spelling import is_share, number, percent
from bias_train.reports.study import Estimate, Study

# Name of a figure, its heading, and whether more of it is reading bias.
_COLUMNS: tuple[tuple[str, str, bool], ...] = (
    ("NS", "NS", True),
    ("rendered_t2i_R", "Rendered words found", True),
    ("win_share", "Written word wins", True),
    ("win_share_read", "Wins by being read", True),
    ("overlay_t2i_drop", "Drop under wrong words", True),
    ("attack_success", "Attack success", True),
    ("attack_accuracy", "Attacked accuracy", False),
    ("clean_t2i_R", "Ordinary captions", False),
    ("reading_t2i_R", "Captions about text", False),
)


@dataclass(frozen=True)
class Column:
    """A figure that the runs recorded.

    Attributes:
        metric: of it; at the least cut-off that was recorded.
        heading: for readers.
        bias: whether it is reading bias, of which less is wanted.
    """

    metric: Metric
    heading: str
    bias: bool


@dataclass(frozen=True)
class Cell:
    """A figure of one arm at one training share.

    Attributes:
        estimate: the figure; None where no run recorded it.
        change: from the reference at the same share, with the two intervals in quadrature; None without a reference.
        remaining: the figure over the reference's, for reading bias; None where that is not above zero.
    """

    estimate: Estimate | None
    change: Estimate | None = None
    remaining: float | None = None


@dataclass(frozen=True)
class TextRow:
    """A line of the table.

    Attributes:
        share: training share; None if unknown.
        arm: the arm's label.
        seeds: how many runs stand behind it.
        cells: one a column.
    """

    share: float | None
    arm: str
    seeds: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class TextFindings:
    """What the runs recorded of text spotting.

    Attributes:
        columns: figures that some run recorded.
        rows: by training share, the reference first.
        plots: reading bias against the reading task.
    """

    columns: tuple[Column, ...]
    rows: tuple[TextRow, ...]
    plots: tuple[Plot, ...]


def text_findings(study: Study) -> TextFindings | None:
    """Gather what a study's runs recorded of text spotting; None where they recorded nothing."""
    columns = _columns(study)
    if not columns:
        return None
    rows = []
    shares: list[float | None] = [*study.shares]
    if any(run.share is None for run in study.runs):
        shares.append(None)
    for share in shares:
        reference = None
        if study.reference is not None:
            chosen = _runs(study.reference.runs, share)
            reference = [study.figure_of(chosen, TEXT, column.metric, 0.0) for column in columns]
        for arm in study.arms:
            runs = _runs(arm.runs, share)
            if not runs:
                continue
            found = [study.figure_of(runs, TEXT, column.metric, 0.0) for column in columns]
            others = [None] * len(columns) if reference is None or arm is study.reference else reference
            cells = tuple(map(_cell, columns, found, others))
            rows.append(TextRow(share, arm.label, len(runs), cells))
    found_rows = tuple(rows)
    return TextFindings(columns, found_rows, _plots(study, columns, found_rows))


def _runs(runs: Sequence[Run], share: float | None) -> list[Run]:
    """The runs at a training share: those that are done, or else all."""
    here = [run for run in runs if run.share == share]
    return [run for run in here if run.done] or here


def _columns(study: Study) -> tuple[Column, ...]:
    known: dict[str, list[int | None]] = {}
    for run in study.runs:
        for entry in run.last.values():
            if entry.axis == TEXT and not entry.label:
                known.setdefault(entry.name, []).append(entry.k)
    found = []
    for name, heading, bias in _COLUMNS:
        if name in known:
            ks = [k for k in known[name] if k is not None]
            k = min(ks) if ks else None
            found.append(Column(Metric(name, k), heading + ("" if k is None else f", R@{k}"), bias))
    return tuple(found)


def _cell(column: Column, found: Estimate | None, reference: Estimate | None) -> Cell:
    if found is None or reference is None or not math.isfinite(found.value - reference.value):
        return Cell(found)
    value = found.value - reference.value
    below = math.hypot(found.value - found.low, reference.high - reference.value)
    above = math.hypot(found.high - found.value, reference.value - reference.low)
    change = Estimate(value, value - below, value + above, ())
    remaining = found.value / reference.value if column.bias and reference.value > 0 else None
    return Cell(found, change, remaining)


def spelt(value: float, metric: Metric, *, signed: bool = False) -> str:
    r"""Write a figure: shares in percent, scores with three decimals.

    Example:
        >>> spelt(0.5, Metric("win_share", None)), spelt(-0.0312, Metric("NS", None), signed=True)
        ('50.0\xa0%', '−0.031')
    """
    if is_share(metric) or metric.name.endswith("_drop"):
        return number(value, Metric("share", None), signed=signed)
    if not math.isfinite(value):
        return number(value)
    return f"{round(value, 3) + 0.0:{'+' if signed else ''}.3f}".replace("-", "−")


def ends(estimate: Estimate, metric: Metric, *, signed: bool = False) -> str:
    """Write an interval, '' where there is none."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    low, high = (spelt(end, metric, signed=signed).partition("\xa0")[0] for end in (estimate.low, estimate.high))
    return f"{low} to {high}"


def change_of(cell: Cell, metric: Metric) -> str:
    """Write how a figure differs from the reference's, '' where it is the reference's."""
    if cell.change is None:
        return ""
    told = spelt(cell.change.value, metric, signed=True).partition("\xa0")[0]
    between = ends(cell.change, metric, signed=True)
    told += f" ({between})" if between else ""
    return told + ("" if cell.remaining is None else f", {cell.remaining:.2f} ×")


def text_table(study: Study) -> Table | None:
    """Make the table for a terminal; None where the runs recorded nothing of text spotting."""
    findings = text_findings(study)
    if findings is None:
        return None
    table = Table(
        title="text spotting", title_justify="left", caption_justify="left",
        caption="in brackets 95 % intervals; below, the change from the reference and what is left of its reading bias",
    )  # fmt: skip
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("arm", overflow="fold")
    for column in findings.columns:
        table.add_column(column.heading, justify="right")
    for row in findings.rows:
        cells = [_written(cell, column.metric) for cell, column in zip(row.cells, findings.columns, strict=True)]
        table.add_row(percent(row.share), row.arm, *cells)
    return table


def _written(cell: Cell, metric: Metric) -> Text:
    if cell.estimate is None:
        return Text("–")
    text = Text(spelt(cell.estimate.value, metric))
    between = ends(cell.estimate, metric)
    text.append(f"\n[{between.replace(' to ', ', ')}]" if between else "", style="dim")
    changed = change_of(cell, metric)
    text.append(f"\n{changed}" if changed else "", style="cyan")
    return text


def _plots(study: Study, columns: Sequence[Column], rows: Sequence[TextRow]) -> tuple[Plot, ...]:
    place = {column.metric.name: number for number, column in enumerate(columns)}
    against = next((name for name in ("reading_t2i_R", "clean_t2i_R") if name in place), None)
    if against is None:
        return ()
    plots = (
        _trade(study, columns[place[name]], columns[place[against]], place[name], place[against], rows)
        for name in ("NS", "win_share")
        if name in place
    )
    return tuple(plot for plot in plots if plot is not None)


def _trade(
    study: Study, bias: Column, task: Column, bias_at: int, task_at: int, rows: Sequence[TextRow]
) -> Plot | None:
    """Reading bias from left to right, and what the retriever still reads (or finds) upwards."""
    number_of = {arm.label: index for index, arm in enumerate(study.arms)}
    points = []
    for row in rows:
        x, y = row.cells[bias_at].estimate, row.cells[task_at].estimate
        if x is not None and y is not None and math.isfinite(x.value) and math.isfinite(y.value):
            points.append((number_of[row.arm], row.share, x, y))
    if not points:
        return None
    wide = 100.0 if is_share(bias.metric) else 1.0

    def paint(axes: Axes) -> None:
        for index, share, x, y in points:
            axes.errorbar(
                wide * x.value, 100 * y.value, xerr=_bars(x, wide), yerr=_bars(y, 100.0), color=arm_colour(index),
                marker=arm_marker(index), markersize=6.5, linewidth=0.9,
            )  # fmt: skip
            if len(study.shares) > 1:
                axes.annotate(percent(share), (wide * x.value, 100 * y.value), xytext=(6, 5),
                              textcoords="offset points", fontsize=9)  # fmt: skip
        axes.set_xlabel(bias.heading + (" (%)" if is_share(bias.metric) else ""))
        axes.set_ylabel(f"{task.heading} (%)")
        axes.margins(0.1, 0.12)

    told = "; ".join(
        f"{study.arms[index].label} at {percent(share)}: {spelt(x.value, bias.metric)}, {spelt(y.value, task.metric)}"
        for index, share, x, y in points
    )
    title = f"{task.heading} against {bias.heading}"
    reading = "Best is high and to the left: little reading bias, and what is written is still found."
    if task.metric.name != "reading_t2i_R":
        reading = "Best is high and to the left. No reading set was given, so that blindness to text looks like a cure."
    name = f"text-{bias.metric.name.lower().replace('_', '-')}"
    return Plot(draw(name, f"{title}. {told}", paint), title, reading, tuple(sorted({index for index, *_ in points})))


def _bars(one: Estimate, factor: float) -> list[list[float]]:
    """Lower and upper bar; where no interval is known, none is drawn."""
    below = max(0.0, factor * (one.value - one.low)) if math.isfinite(one.low) else math.nan
    above = max(0.0, factor * (one.high - one.value)) if math.isfinite(one.high) else math.nan
    return [[below], [above]]
