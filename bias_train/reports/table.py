"""The headline table for a terminal: the same rows as on the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bias_train.reports.collect import Metric, load_runs
from bias_train.reports.options import ReportOptions
from bias_train.reports.spelling import interval, metric_name, number, percent
from bias_train.reports.study import Estimate, Study


def headline_table(runs: Study | Sequence[str | Path], options: ReportOptions | None = None) -> Table:
    """Make the table of bias and retrieval by training share and arm.

    Args:
        runs: a study (such as :func:`bias_train.reports.page.write_report` returns), or run folders.
        options: the reader's choices, where ``runs`` are folders.

    Returns:
        A table for ``rich.console.Console().print``.

    Raises:
        ReportError: without runs, or for a choice that the runs do not allow.
    """
    study = runs if isinstance(runs, Study) else Study(load_runs(runs), options)
    compared = study.reference is not None
    rows = study.rows()
    seeds = sorted({row.seeds for row in rows})
    caption = "in brackets 95 % intervals; negative: generated pictures are ranked above photos"
    if seeds[-1] > 1:
        caption = f"means of {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds, {caption}"
    table = Table(caption=caption, caption_justify="left")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("loss", overflow="fold")
    table.add_column(metric_name(study.bias), justify="right", min_width=14)
    table.add_column(f"{metric_name(study.retrieval)}, photos", justify="right", min_width=12)
    if compared:
        table.add_column("taken\nback", justify="right")
    last = None
    for row in rows:
        if row.share != last and last is not None:
            table.add_section()
        taken_back = "" if row.taken_back is None else f"{100 * row.taken_back:.0f} %"
        table.add_row(
            "" if row.share == last and last is not None else percent(row.share),
            row.arm,
            _cell(row.bias, None),
            _cell(row.retrieval, study.retrieval),
            *([taken_back] if compared else []),
        )
        last = row.share
    return table


def _cell(estimate: Estimate | None, metric: Metric | None) -> Text:
    if estimate is None:
        return Text("–")
    text = Text(number(estimate.value, metric))
    if interval(estimate, metric):
        text.append(f" [{interval(estimate, metric).replace(' to ', ', ')}]", style="dim")
    if estimate.unfinished:
        text.append(" †", style="yellow")
    return text
