"""``bias-train sweep plan|run|status|report FILE``."""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bias_train.sweeps.cells import Cell, expand, label, select
from bias_train.sweeps.errors import SweepError
from bias_train.sweeps.spec import Sweep, load_sweep
from bias_train.sweeps.status import CellStatus, read_statuses

if TYPE_CHECKING:
    from bias_train.sweeps.runner import Runner

LONGEST_REMARK = 160  # characters
COLOURS = {"done": "green", "failed": "red", "running": "cyan", "interrupted": "yellow", "pending": "dim"}


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: arguments after ``bias-train sweep``.

    Returns:
        0 when all went well; 1 if a cell failed; 130 or 143 after SIGINT or SIGTERM.

    Raises:
        SweepError, ReportError: for a wrong file or option.
    """
    options = _parser().parse_args(argv)
    sweep = load_sweep(options.file)
    cells = expand(sweep)
    if options.only:
        cells = select(cells, options.only)
    code: int = options.action(sweep, cells, options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bias-train sweep", description="A grid of trainings: a folder for each cell."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("file", help="sweep file (YAML), here or among the shipped configs")
    shared.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CELL",
        help="only these cells: an id, its hash, or coordinates such as loss=hinge,share=0.5; may be repeated",
    )

    plan = commands.add_parser("plan", parents=[shared], help="list the cells and the command of each")
    plan.add_argument("--json", action="store_true", help="print as JSON")
    plan.set_defaults(action=_plan)

    run = commands.add_parser("run", parents=[shared], help="train the cells that are missing")
    run.add_argument("-j", "--jobs", type=int, default=1, metavar="K", help="cells that train at once (default 1)")
    run.add_argument("--retry-failed", action="store_true", help="start failed cells anew")
    run.set_defaults(action=_run)

    status = commands.add_parser("status", parents=[shared], help="tell what became of each cell")
    status.add_argument("--json", action="store_true", help="print as JSON")
    status.set_defaults(action=_status)

    report = commands.add_parser("report", parents=[shared], help="write the page that compares the cells")
    report.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in the sweep's folder")
    report.set_defaults(action=_report)
    return parser


def _plan(sweep: Sweep, cells: list[Cell], options: argparse.Namespace) -> int:
    if options.json:
        print(
            json.dumps([{**cell.document(), "folder": str(cell.folder), "command": cell.command()} for cell in cells])
        )
        return 0
    console = Console()
    table = _cell_table(f"{sweep.name}: {len(cells)} cells in {sweep.root}", cells)
    table.add_column("id")
    for cell in cells:
        table.add_row(*(label(value) for value in cell.axes.values()), cell.id)
    console.print(table)
    for step in sweep.setup:
        _print_whole(console, " ".join(["bias-train", *step.command]))
    for cell in cells:
        _print_whole(console, cell.command())
    return 0


def _run(sweep: Sweep, cells: list[Cell], options: argparse.Namespace) -> int:
    from bias_train.sweeps.runner import Runner

    return run_cells(sweep, cells, Runner(jobs=options.jobs, retry_failed=options.retry_failed))


def run_cells(sweep: Sweep, cells: list[Cell], runner: Runner) -> int:
    """Run the setup and the cells, say what came of it, and return the exit code."""
    from bias_train.sweeps.runner import Interrupted

    console = runner.console
    try:
        runner.prepare(sweep.setup, sweep.root)
        outcomes = runner.run(cells)
    except Interrupted as interruption:
        name = signal.Signals(interruption.signum).name
        console.print(f"ended by {name}; what is done is kept, and `bias-train sweep run {sweep.file}` goes on")
        return 128 + interruption.signum
    failed = [outcome for outcome in outcomes if outcome.result == "failed"]
    done = sum(outcome.result == "done" for outcome in outcomes)
    console.print(f"{sweep.name}: {done} of {len(outcomes)} cells done, {len(failed)} failed", highlight=False)
    for outcome in failed:
        console.print(Text(f"  {outcome.cell.id}: {outcome.error}"), style="red")
    return 1 if failed else 0


def _status(sweep: Sweep, cells: list[Cell], options: argparse.Namespace) -> int:
    statuses = read_statuses(cells)
    if options.json:
        document = [
            {"id": cell.id, "folder": str(cell.folder), "axes": cell.document()["axes"], **status.as_dict()}
            for cell, status in zip(cells, statuses, strict=True)
        ]
        print(json.dumps(document))
        return 0
    console = Console()
    table = _cell_table(f"{sweep.name} in {sweep.root}", cells)
    for name in ("state", "step", "rate"):
        table.add_column(name)
    table.add_column("said last", overflow="fold")
    for cell, status in zip(cells, statuses, strict=True):
        table.add_row(
            *(label(value) for value in cell.axes.values()),
            Text(status.state, style=COLOURS[status.state]),
            _steps(status),
            f"{status.rate:.2f}/s" if status.rate else "",
            Text(_short(status.error or status.last_line)),
        )
    console.print(table)
    counts = {state: sum(status.state == state for status in statuses) for state in COLOURS}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items() if count), highlight=False)
    return 0


def _report(sweep: Sweep, cells: list[Cell], options: argparse.Namespace) -> int:
    # Drawing libraries are loaded for drawing only.
    from bias_train.reports.page import write_report
    from bias_train.reports.table import headline_table

    started = [cell.folder for cell in cells if cell.folder.is_dir()]
    if not started:
        raise SweepError(f"no cell of {sweep.file} has been started; run `bias-train sweep run {sweep.file}` first")
    missing = [cell.id for cell in cells if not cell.folder.is_dir()]
    output = options.output or sweep.root / "report.html"
    study = write_report(started, output, sweep.report, default_title=sweep.name, missing=missing)
    console = Console()
    console.print(headline_table(study))
    for note in study.notes:
        _print_whole(console, f"note: {note}")
    _print_whole(console, f"report: {output}")
    return 0


def _cell_table(title: str, cells: list[Cell]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in cells[0].axes:
        table.add_column(name, no_wrap=True)
    return table


def _steps(status: CellStatus) -> str:
    if status.step is None:
        return ""
    return f"{status.step}/{status.max_steps}" if status.max_steps else str(status.step)


def _short(text: str) -> str:
    """Cut what a library's error says at length; the log and --json have it whole."""
    return text if len(text) <= LONGEST_REMARK else text[: LONGEST_REMARK - 1] + "…"


def _print_whole(console: Console, line: str) -> None:
    """Print a command on one line however long it is, so that it can be copied."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
