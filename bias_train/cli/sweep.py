"""``bias-train sweep plan|run|submit|status|cancel|report FILE``."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bias_train.cli.terminal import wide_console
from bias_train.files import write_text
from bias_train.paths import find_script
from bias_train.sweeps.cells import Cell, expand, label, select
from bias_train.sweeps.errors import SweepError
from bias_train.sweeps.manifest import Manifest
from bias_train.sweeps.queue import DEFAULT_MAX_ARRAY, CellJobs, ask, cell_jobs, has_slurm, max_array_size
from bias_train.sweeps.spec import Sweep, load_sweep
from bias_train.sweeps.status import LOG, CellStatus, read_statuses

if TYPE_CHECKING:
    from bias_train.sweeps.runner import Runner

LONGEST_REMARK = 160  # characters
COLOURS = {
    "done": "green",
    "failed": "red",
    "running": "cyan",
    "interrupted": "yellow",
    "preempted": "yellow",
    "lost": "yellow",
    "pending": "dim",
}


def main(argv: list[str]) -> int:
    """Run the command.

    Args:
        argv: arguments after ``bias-train sweep``.

    Returns:
        0 when all went well; 1 if a cell failed; 130 or 143 after SIGINT or SIGTERM.

    Raises:
        SweepError, ReportError: for a wrong file or option.
    """
    # What stands after `--` is another program's: sbatch's options, or the launcher of an array task.
    mark = argv.index("--") if "--" in argv else len(argv)
    options = _parser().parse_args(argv[:mark])
    options.others = argv[mark + 1 :]
    if options.others and options.action not in (_submit, _cell):
        raise SweepError(f"{argv[0]} takes nothing after --, got {' '.join(options.others)}")
    if options.action is _cell:
        return _cell(options)
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
    plan.add_argument(
        "--wandb", type=Path, metavar="FILE", help="write a sweep for W&B's agents, which run these cells"
    )
    plan.set_defaults(action=_plan)

    run = commands.add_parser("run", parents=[shared], help="train the cells that are missing")
    run.add_argument("-j", "--jobs", type=int, default=1, metavar="K", help="cells that train at once (default 1)")
    run.add_argument("--retry-failed", action="store_true", help="start failed cells anew")
    run.set_defaults(action=_run)

    submit = commands.add_parser(
        "submit",
        parents=[shared],
        help="send the cells that are missing to Slurm, as job arrays",
        usage="%(prog)s FILE [OPTIONS] [-- SBATCH_OPTIONS]",
        epilog="What stands after -- goes to sbatch and wins over what the job script says, such as "
        "-- --partition=gpu --time=4:00:00",
    )
    submit.add_argument("--limit", type=int, metavar="K", help="cells that may train at once (default: no limit)")
    submit.add_argument("--retry-failed", action="store_true", help="start failed cells anew")
    submit.add_argument("--no-setup", action="store_true", help="leave out the sweep's setup, which runs here first")
    submit.add_argument(
        "--max-array", type=int, metavar="N", help="tasks an array may have (default: what the cluster allows)"
    )
    submit.add_argument(
        "--script",
        default="sweep.sbatch",
        metavar="FILE",
        help="job script: a path, or a name in slurm/ here or among the shipped ones (default: %(default)s)",
    )
    submit.add_argument("--dry-run", action="store_true", help="print the exact commands; write and submit nothing")
    submit.set_defaults(action=_submit)

    cancel = commands.add_parser("cancel", parents=[shared], help="take cells out of Slurm's queue, end those that run")
    cancel.set_defaults(action=_cancel)

    # Not for people: what the job script runs.
    cell = commands.add_parser("cell", usage="%(prog)s MANIFEST [OPTIONS] -- LAUNCHER")
    cell.add_argument("manifest", type=Path, help="what `sweep submit` has written")
    cell.add_argument("--index", type=int, help="the cell's number (default: $SLURM_ARRAY_TASK_ID)")
    cell.add_argument("--max-restarts", type=int, default=10, help="restarts after kills (default: %(default)s)")
    cell.set_defaults(action=_cell)

    status = commands.add_parser("status", parents=[shared], help="tell what became of each cell")
    status.add_argument("--json", action="store_true", help="print as JSON")
    status.set_defaults(action=_status)

    report = commands.add_parser("report", parents=[shared], help="write the page that compares the cells")
    report.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in the sweep's folder")
    report.set_defaults(action=_report)
    return parser


def _plan(sweep: Sweep, cells: list[Cell], options: argparse.Namespace) -> int:
    if options.wandb is not None:
        import yaml

        from bias_train.sweeps.wandb_agents import agents_sweep

        write_text(options.wandb, yaml.safe_dump(agents_sweep(sweep, cells), sort_keys=False))
        print(f"wrote {options.wandb}: `wandb sweep {options.wandb}` registers it, `wandb agent ID` runs cells")
        return 0
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
        _print_whole(console, step.spell())
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


def _submit(sweep: Sweep, cells: list[Cell], options: argparse.Namespace) -> int:
    from bias_train.sweeps.submit import SubmissionLock, missing, plan_arrays, submit_array

    console = Console(stderr=True)
    try:
        script = find_script(options.script)
    except FileNotFoundError as error:
        raise SweepError(f"--script {options.script}: {error}") from error
    if options.dry_run:
        from bias_train.sweeps.runner import unprepared

        for step in [] if options.no_setup else unprepared(sweep.setup, sweep.root):
            print(step.spell())
        jobs = cell_jobs(sweep.root) if has_slurm() else {}
        chosen = missing(cells, read_statuses(cells, jobs), jobs, retry_failed=options.retry_failed)
        limits = {"max_array": _max_array(options), "limit": options.limit}
        for array in plan_arrays(
            sweep, chosen, script=script, retry_failed=options.retry_failed, sbatch=options.others, **limits
        ):
            print(array.spell())
        _tell_rest(console, cells, chosen)
        return 0

    max_array = _max_array(options)
    if not options.no_setup:
        from bias_train.sweeps.runner import Interrupted, Runner

        try:
            Runner(console=console, preload=()).prepare(sweep.setup, sweep.root)
        except Interrupted as interruption:
            console.print("the setup was ended by a signal; nothing was submitted")
            return 128 + interruption.signum
    with SubmissionLock(sweep):
        jobs = cell_jobs(sweep.root)
        chosen = missing(cells, read_statuses(cells, jobs), jobs, retry_failed=options.retry_failed)
        for array in plan_arrays(
            sweep, chosen, script=script, max_array=max_array, limit=options.limit,
            retry_failed=options.retry_failed, sbatch=options.others,
        ):  # fmt: skip
            job = submit_array(array)
            _print_whole(console, f"job {job}: {len(array.manifest.entries)} cells, {array.manifest.file}")
    _tell_rest(console, cells, chosen)
    if chosen:
        _print_whole(console, f"`bias-train sweep status {options.file}` tells how far they are")
    return 0


def _max_array(options: argparse.Namespace) -> int:
    if options.max_array is not None:
        return int(options.max_array)
    # Elsewhere than on the cluster a dry run still shows how it would go.
    return max_array_size() if has_slurm() or not options.dry_run else DEFAULT_MAX_ARRAY


def _tell_rest(console: Console, cells: list[Cell], chosen: list[Cell]) -> None:
    rest = len(cells) - len(chosen)
    if rest:
        console.print(
            f"{rest} of {len(cells)} cells are done, running, in the queue, or failed (--retry-failed starts those "
            "anew): not submitted",
            highlight=False,
        )


def _cancel(sweep: Sweep, cells: list[Cell], options: argparse.Namespace) -> int:
    from bias_train.sweeps.submit import cancel_commands

    jobs = cell_jobs(sweep.root)
    live = [task for cell in cells for task in jobs.get(cell.id, CellJobs()).live]
    console = Console()
    for command in cancel_commands(cells, jobs):
        ask(command)
        _print_whole(console, " ".join(command))
    running = sum(task.running for task in live)
    console.print(
        f"{len(live)} tasks cancelled: {running} running (they end with a checkpoint), {len(live) - running} waiting"
        if live
        else "none of these cells is in the queue",
        highlight=False,
    )
    return 0


def _cell(options: argparse.Namespace) -> int:
    from bias_train.sweeps.array_task import run_task

    index = options.index if options.index is not None else os.environ.get("SLURM_ARRAY_TASK_ID")
    if index is None:
        raise SweepError("which cell? give --index, or run in a task of a Slurm array")
    launcher = options.others or ["bias-train"]
    return run_task(Manifest.load(options.manifest), int(index), launcher, max_restarts=options.max_restarts)


def _status(sweep: Sweep, cells: list[Cell], options: argparse.Namespace) -> int:
    jobs: dict[str, CellJobs] = {}
    if has_slurm():
        try:
            jobs = cell_jobs(sweep.root)
        except SweepError as error:  # the folders alone still tell much
            Console(stderr=True).print(f"without Slurm's word: {error}", style="yellow", highlight=False)
    statuses = read_statuses(cells, jobs)
    if options.json:
        document = [
            {"id": cell.id, "folder": str(cell.folder), "axes": cell.document()["axes"], **status.as_dict()}
            for cell, status in zip(cells, statuses, strict=True)
        ]
        print(json.dumps(document))
        return 0
    console = Console()
    table = _cell_table(f"{sweep.name} in {sweep.root}", cells)
    for name in ("state", "step", "rate", *(["job"] if jobs else [])):
        table.add_column(name)
    table.add_column("said last", overflow="fold")
    for cell, status in zip(cells, statuses, strict=True):
        table.add_row(
            *(label(value) for value in cell.axes.values()),
            Text(status.state, style=COLOURS[status.state]),
            _steps(status),
            f"{status.rate:.2f}/s" if status.rate else "",
            *([Text(_job(status))] if jobs else []),
            Text(_short(status.error or status.last_line)),
        )
    console.print(table)
    for cell, status in zip(cells, statuses, strict=True):
        if status.log:
            _print_whole(console, f"the end of {cell.folder / LOG}:")
            for line in status.log:
                _print_whole(console, f"    {line}")
    counts = {state: sum(status.state == state for status in statuses) for state in COLOURS}
    told = [f"{count} {state}" for state, count in counts.items() if count]
    waiting = sum(bool(status.reason) for status in statuses)
    console.print(", ".join(told) + (f"; {waiting} of them wait in the queue" if waiting else ""), highlight=False)
    return 0


def _report(sweep: Sweep, cells: list[Cell], options: argparse.Namespace) -> int:
    # Drawing libraries are loaded for drawing only.
    from bias_train.reports.page import write_report
    from bias_train.reports.table import headline_table
    from bias_train.reports.text_axis import text_table

    started = [cell.folder for cell in cells if cell.folder.is_dir()]
    if not started:
        raise SweepError(
            f"no cell of {sweep.file} has been started; `bias-train sweep run {sweep.file}` does, or submit it"
        )
    missing = [cell.id for cell in cells if not cell.folder.is_dir()]
    output = options.output or sweep.root / "report.html"
    study = write_report(started, output, sweep.report, default_title=sweep.name, missing=missing)
    console = Console()
    console.print(headline_table(study))
    spotting = text_table(study)
    if spotting is not None:
        wide_console().print(spotting)
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


def _job(status: CellStatus) -> str:
    if status.state == "lost":
        return f"{status.job} has gone"
    if not status.job:
        return ""
    return f"{status.job} {f'on {status.nodes}' if status.nodes else f'waits: {status.reason}'}"


def _short(text: str) -> str:
    """Cut what a library's error says at length; the log and --json have it whole."""
    return text if len(text) <= LONGEST_REMARK else text[: LONGEST_REMARK - 1] + "…"


def _print_whole(console: Console, line: str) -> None:
    """Print a command on one line however long it is, so that it can be copied."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
