"""Puts a study into one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bias_train.files import write_text
from bias_train.reports import figures
from bias_train.reports.collect import Metric, Run, load_run
from bias_train.reports.configs import differing, short_keys
from bias_train.reports.drawing import Plot, swatch
from bias_train.reports.examples import comparisons
from bias_train.reports.options import ReportOptions
from bias_train.reports.spelling import interval, is_share, metric_meaning, metric_name, number, percent, unit
from bias_train.reports.study import Estimate, Row, Study
from bias_train.reports.text_axis import change_of, ends, spelt, text_findings


@dataclass(frozen=True)
class Tile:
    """A figure that stands on its own at the top: a short label, the number, a line below."""

    label: str
    value: str
    below: str
    arm: int | None = None


@dataclass(frozen=True)
class Convention:
    """What stands behind a figure: its meaning and the conditions that the records state."""

    name: str
    recorded: str
    meaning: str
    conditions: tuple[str, ...]


def write_report(
    folders: Sequence[str | Path],
    output: str | Path,
    options: ReportOptions | None = None,
    *,
    default_title: str | None = None,
    missing: Sequence[str] = (),
) -> Study:
    """Write the report on some run folders.

    Args:
        folders: run folders, see :func:`bias_train.reports.collect.find_runs`.
        output: the HTML file; written atomically.
        options: the reader's choices.
        default_title: heading where the options have none.
        missing: names of runs that should be there and have not been started; noted on the page.

    Returns:
        What the page says, for :func:`bias_train.reports.table.headline_table`.

    Raises:
        ReportError: without runs, or for a choice that the runs do not allow.
    """
    study = Study([load_run(folder) for folder in folders], options)
    if missing:
        study.notes.insert(0, f"{len(missing)} cells have not been started: {', '.join(missing)}.")
    title = study.options.title or default_title or _title(study.runs)
    write_text(Path(output), render(study, title))
    return study


def render(study: Study, title: str) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals.update(
        number=number, interval=interval, percent=percent, points=_points, times=_times, svg=Markup, isnan=math.isnan,
        spelt=spelt, ends=ends, change_of=change_of,
    )  # fmt: skip
    template = environment.from_string(resource("template.html.j2"))
    plots = [figures.bias_by_share(study), figures.pareto(study), figures.retrieval_by_share(study)]
    plots.append(figures.exposure(study))
    breakdown = [figures.groups(study, "class"), figures.groups(study, "generator")]
    return template.render(
        style=page_style(),
        title=title,
        study=study,
        summary=_summary(study),
        tiles=_tiles(study),
        rows=_by_share(study.rows()),
        bias_name=metric_name(study.bias),
        retrieval_name=metric_name(study.retrieval),
        arms=[arm.label for arm in study.arms],
        arm_index={arm.label: index for index, arm in enumerate(study.arms)},
        swatches=[swatch(index) for index in range(len(study.arms))],
        several_seeds=any(row.seeds > 1 for row in study.rows()),
        plots=_present(plots),
        gaps=_gaps(study, plots),
        breakdown=_present(breakdown),
        comparisons=comparisons(study),
        training=figures.training(study),
        runs=_runs_in_order(study),
        differences=_differences(study),
        text=text_findings(study),
        conventions=_conventions(study),
        environments=_environments(study.runs),
        bars=figures.bars(study),
    )


def page_style() -> Markup:
    """The style of every page: colours for light and dark, cards, tables, plots."""
    return Markup(resource("style.css"))  # our own file, which has nothing to escape


def resource(name: str) -> str:
    """Read a file that lies beside this module."""
    return resources.files("bias_train.reports").joinpath(name).read_text(encoding="utf-8")


def _title(runs: Sequence[Run]) -> str:
    sweeps = {str(run.cell["sweep"]) for run in runs if run.cell.get("sweep")}
    if len(sweeps) == 1:
        return sweeps.pop()
    return runs[0].name if len(runs) == 1 else f"{len(runs)} runs"


def _present(plots: Sequence[Plot | None]) -> list[Plot]:
    return [plot for plot in plots if plot is not None]


def _by_share(rows: Sequence[Row]) -> list[tuple[float | None, list[Row]]]:
    grouped: dict[float | None, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.share, []).append(row)
    return list(grouped.items())


def _points(change: float | None, metric: Metric | None) -> str:
    """Write a difference of two retrieval figures, in percentage points where they are shares."""
    if change is None:
        return ""
    return number(change, metric, signed=True).removesuffix(unit(metric)) + (" points" if is_share(metric) else "")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} ×"


def _summary(study: Study) -> str:
    """Say in two sentences what was found; no more than the figures carry."""
    share = study.focus_share
    if study.bias is None or share is None:
        return ""
    first = study.arms[0]
    start = study.bias_of(first.at(share))
    if start is None or math.isnan(start.value):
        return ""
    name = metric_name(study.bias)
    told = (
        f"Trained with {percent(share)} generated pictures, “{first.label}” {_verdict(start)} ({name} {_told(start)})."
    )
    best = study.best_arm()
    row = next((row for row in study.rows() if best is not None and (row.share, row.arm) == (share, best.label)), None)
    if row is None or row.bias is None or study.reference is None:
        return told
    told += f" With “{row.arm}” it is {_told(row.bias)}"
    if row.taken_back is not None:
        told += f": {percent(round(row.taken_back, 2))} of the fall since a share of 0 is taken back"
    if row.retrieval_change is not None:
        change = _points(row.retrieval_change, study.retrieval)
        told += f". The retrieval of photos ({metric_name(study.retrieval)}) changes by {change}"
    return told + "."


def _verdict(estimate: Estimate) -> str:
    if not math.isnan(estimate.low) and estimate.low <= 0 <= estimate.high:
        return "favours neither source beyond the interval"
    return "favours generated pictures" if estimate.value < 0 else "favours photos"


def _told(estimate: Estimate) -> str:
    return number(estimate.value) + (f", 95 % interval {interval(estimate)}" if interval(estimate) else "")


def _tiles(study: Study) -> list[Tile]:
    share = study.focus_share
    if share is None or study.bias is None:
        return []
    best = study.best_arm()
    shown = [study.arms[0]] + ([best] if best is not None and best is not study.arms[0] else [])
    tiles = []
    for arm in shown:
        estimate = study.bias_of(arm.at(share))
        if estimate is not None:
            below = f"{metric_name(study.bias)} at {percent(share)}"
            tiles.append(Tile(arm.label, number(estimate.value), below, study.arms.index(arm)))
    row = next((row for row in study.rows() if best is not None and (row.share, row.arm) == (share, best.label)), None)
    if row is not None and row.taken_back is not None:
        tiles.append(Tile("taken back", f"{100 * row.taken_back:.0f} %", "of the fall since a share of 0"))
    if row is not None and row.retrieval_change is not None:
        change = _points(row.retrieval_change, study.retrieval)
        tiles.append(
            Tile("photos", change.removesuffix(" points"), f"change of {metric_name(study.retrieval)}, points")
        )
    return tiles


def _gaps(study: Study, plots: Sequence[Plot | None]) -> list[str]:
    """Say what the comparison cannot show, and why."""
    bias, front, _, exposed = plots
    gaps = []
    if bias is None:
        gaps.append("No bias curve: no run has both a known training share and a finite bias figure.")
    elif len(study.shares) < 2:
        gaps.append("One training share only, so the bias curve is a point; a sweep over data.share draws it.")
    if front is None:
        gaps.append("No plot of retrieval against bias: it needs both figures from one run.")
    if exposed is None:
        gaps.append("No exposure plot: it needs the generated share of the top at two gallery ratios or more.")
    return gaps


def _runs_in_order(study: Study) -> list[tuple[str, int, Run]]:
    listed = [(index, run) for index, arm in enumerate(study.arms) for run in arm.runs]
    listed.sort(key=lambda item: (item[0], item[1].share if item[1].share is not None else 2.0, str(item[1].seed)))
    return [(study.arms[index].label, index, run) for index, run in listed]


def _differences(study: Study) -> dict[str, Any]:
    runs = [run for _, _, run in _runs_in_order(study)]
    table = differing(runs)
    short = short_keys(list(table))
    return {
        "keys": [(short[key], key) for key in table],
        "values": [[values[place] for values in table.values()] for place in range(len(runs))],
    }


def _conventions(study: Study) -> list[Convention]:
    chosen: list[tuple[str, Metric | None, float]] = [
        ("source", study.bias, study.gallery_ratio),
        ("retrieval", study.retrieval, 0.0),
    ]
    listed = []
    for axis, metric, ratio in chosen:
        if metric is None:
            continue
        entries = [entry for run in study.runs if (entry := run.find(axis, metric, ratio)) is not None]
        gallery = f"gallery with {percent(ratio)} generated pictures" if ratio else "gallery of photos alone"
        conditions = [
            gallery,
            "counts: " + _range([entry.count for entry in entries]),
            "measured at step " + _range([entry.step for entry in entries]),
        ]
        if metric.k is not None:
            conditions.append(f"k = {metric.k}")
        if axis == "source":
            conditions.append("mode: " + ", ".join(sorted({entry.mode for entry in entries})))
        if not any(math.isfinite(entry.low) for entry in entries):
            conditions.append("no interval was computed")
        conditions += list(dict.fromkeys(part for entry in entries for part in entry.note.split("; ") if part))
        listed.append(Convention(metric_name(metric), str(metric), metric_meaning(metric), tuple(conditions)))
    return listed


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _environments(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Group runs by the environment that they ran in, with each environment's entries."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        if run.environment:
            entries = tuple((key, _spell(value)) for key, value in run.environment.items() if key != "command")
            found.setdefault(entries, []).append(run.name)
    return [
        ("all runs" if len(names) == len(runs) else ", ".join(names), list(entries)) for entries, names in found.items()
    ]


def _spell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
