"""``bias-train wandb``: send offline runs to W&B, and set up a project's dashboard there."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bias_train.errors import RunError


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        RunError: for what the user can mend.
    """
    options = _parser().parse_args(argv)
    code: int = options.action(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bias-train wandb", description="Runs and dashboards in Weights & Biases.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sync = commands.add_parser(
        "sync",
        help="send offline runs that have ended",
        description="Send offline runs, from a machine that reaches W&B and sees the run folders. What was sent before "
        "is left out; the parts of a run that was stopped and went on become one run.",
    )
    sync.add_argument(
        "folders", nargs="*", type=Path, default=[Path("runs")], metavar="FOLDER",
        help="run folders, or folders that hold some, such as a sweep's (default: runs)",
    )  # fmt: skip
    sync.add_argument("--watch", type=float, metavar="SECONDS", help="look again so often, until Ctrl-C")
    sync.add_argument("--entity", help="user or team that gets the runs (default: yours)")
    sync.add_argument("--project", help="project that gets the runs (default: the one they were started for)")
    sync.add_argument(
        "--timeout", type=float, default=15.0, metavar="SECONDS", help="wait for W&B so long (default 15)"
    )
    sync.set_defaults(action=_sync)

    dashboard = commands.add_parser(
        "dashboard",
        help="set up a workspace: bias by axis, bias against retrieval, throughput, example rankings",
        description="Set up a workspace in a project, or a report.",
    )
    dashboard.add_argument("project", help="name of the project")
    dashboard.add_argument("--entity", help="user or team that owns the project (default: yours)")
    dashboard.add_argument(
        "--runs", nargs="+", type=Path, default=[], metavar="FOLDER",
        help="run folders, or folders that hold some: the panels show what these have logged "
        "(default: what the recipes for pairs log)",
    )  # fmt: skip
    dashboard.add_argument(
        "--gallery-ratio", type=float, default=0.5, help="generated share of the gallery (default 0.5)"
    )
    dashboard.add_argument("--report", action="store_true", help="a report, to be written in, rather than a workspace")
    dashboard.add_argument("--name", default="Bias", help="heading (default: Bias)")
    dashboard.add_argument("--dry-run", type=Path, metavar="FILE", help="write it as JSON; nothing is sent")
    dashboard.set_defaults(action=_dashboard)
    return parser


def _sync(options: argparse.Namespace) -> int:
    if options.watch is not None and options.watch <= 0:
        raise RunError(f"--watch takes seconds above 0, got {options.watch:g}")
    said: set[str] = set()
    code = _send_all(options, said)
    while options.watch is not None:
        time.sleep(options.watch)
        code = _send_all(options, said)
    return code


def _send_all(options: argparse.Namespace, said: set[str]) -> int:
    """Send what is left, print what is news, and return 1 if anything failed."""
    from bias_train.tracking.offline_runs import Sent, find_parts, send_run, unreachable

    runs = find_parts(options.folders)
    left = [(run, parts) for run in runs if (parts := [part for part in run if not part.synced])]
    if not left:
        _say(f"nothing to send: {len(runs)} offline runs in {', '.join(map(str, options.folders))}, all sent", said)
        return 0
    trouble = unreachable(options.timeout)
    arguments = [f"--{name}={value}" for name in ("entity", "project") if (value := getattr(options, name))]
    failed = False
    for run, parts in left:
        outcomes = [Sent(part, "failed", trouble) for part in parts[:1]] if trouble else send_run(run, arguments)
        for outcome in outcomes:
            part = outcome.part
            place = f", part {run.index(part) + 1} of {len(run)}" if len(run) > 1 and not trouble else ""
            why = f": {outcome.message}" if outcome.message else ""
            _say(f"{outcome.result:<7} {part.run_dir} ({part.id}{place}){why}", said)
            failed |= outcome.result == "failed"
    return int(failed)


def _say(line: str, said: set[str]) -> None:
    """Print a line, unless an earlier round of watching has said the same."""
    if line not in said:
        print(line, flush=True)
        said.add(line)


def _dashboard(options: argparse.Namespace) -> int:
    from bias_train.tracking import dashboard
    from bias_train.tracking.panels import DEFAULT_NAMES, names_of, sections

    names = list(DEFAULT_NAMES)
    if options.runs:
        names = names_of(sorted({file.parent for folder in options.runs for file in folder.rglob("metrics.csv")}))
        if not names:
            raise RunError(f"no metrics.csv in {', '.join(map(str, options.runs))}: name folders of runs")
    found = sections(names, options.gallery_ratio)
    entity = options.entity or ("" if options.dry_run else dashboard.default_entity())
    if options.report:
        thing = dashboard.report(options.project, entity, found, title=options.name, look_up=not options.dry_run)
    else:
        thing = dashboard.workspace(options.project, entity, found, name=options.name)
    if options.dry_run:
        dashboard.write_spec(thing, options.dry_run)
        print(f"{sum(len(section.panels) for section in found)} panels in {options.dry_run}")
    else:
        print(dashboard.publish(thing))
    return 0
