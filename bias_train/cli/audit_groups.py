"""``bias-train audit groups``: accuracy by class and spurious attribute, and in the worst of them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bias_train.cli.terminal import wide_console
from bias_train.errors import RunError


def add_groups(commands: Any) -> None:
    """Add the subcommand to the parsers of ``bias-train audit``."""
    audit = commands.add_parser(
        "groups",
        help="how accurate is it in the worst group of labelled pictures?",
        description="How accurate is a classifier in each class and group (a bird on the wrong background), and in the "
        "worst of them? Reads predictions, or vectors of pictures and of class prompts. Writes audit.json and "
        "figures.parquet, and a table on the terminal.",
        epilog="Example: bias-train audit groups waterbirds.npz",
    )
    audit.add_argument(
        "file", type=Path, metavar="FILE",
        help=".csv with columns label, group, prediction; or .npz with image, label, group, text, text_label",
    )  # fmt: skip
    audit.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap resamples (default: 2000)")
    audit.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    audit.add_argument("--seed", type=int, default=0)
    audit.add_argument("--output", type=Path, metavar="DIR", help="default: audits/<name of FILE>-groups")
    audit.add_argument("--json", metavar="-", choices=("-",), help="print the JSON and nothing else")
    audit.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Raises:
        RunError: for a file that cannot be read, naming what it lacks.
    """
    from rich.table import Table

    from bias_train.audit.labelled_groups import read_groups
    from bias_train.audit.object.figure_file import write_figures
    from bias_train.files import json_value, write_text
    from bias_train.metrics.functional.worst_group import worst_group_accuracy
    from bias_train.stats import Bootstrap

    try:
        bootstrap = Bootstrap(options.resamples, options.level, "percentile", options.seed)
    except ValueError as error:
        raise RunError(f"{error}") from error
    items = read_groups(options.file)
    figures = worst_group_accuracy(
        items.correct, items.label, items.group, labels=items.labels, groups=items.groups, bootstrap=bootstrap
    )
    document = {
        "audit": "groups",
        "inputs": {"file": str(options.file)},
        "conventions": {
            "worst": "least accuracy of a class and group that has items (Sagawa et al. 2020)",
            "intervals": f"percentile bootstrap within class and group, {options.resamples} resamples, seed "
            f"{options.seed}",
        },
        "figures": [json_value(figure) for figure in figures],
    }
    folder = options.output or Path("audits") / f"{options.file.stem}-groups"
    write_text(folder / "audit.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    write_figures(folder / "figures.parquet", figures)
    if options.json:
        print(json.dumps(document, indent=1, allow_nan=False))
        return 0
    table = Table(title="accuracy", title_justify="left")
    for heading in ("class | group", "accuracy", "interval", "items"):
        table.add_column(heading, justify="left" if heading.startswith("class") else "right")
    for figure in figures:
        name = figure.label or {"accuracy": "all", "worst_group_accuracy": f"worst: {figure.note}"}.get(
            figure.name, figure.name
        )
        table.add_row(
            name, f"{figure.value:.3f}", f"{figure.low:.3f} to {figure.high:.3f}", f"{figure.count:,}"
        )  # fmt: skip
    console = wide_console()
    console.print(table)
    console.print(f"figures: {folder / 'audit.json'}", markup=False, soft_wrap=True)
    return 0
