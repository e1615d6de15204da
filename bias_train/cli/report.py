"""``bias-train report RUNS...``: one HTML page on some runs, or on a sweep."""

from __future__ import annotations

import argparse
from pathlib import Path

from bias_train.cli.terminal import wide_console


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        ReportError: without runs, or for a choice that the runs do not allow.
    """
    parser = argparse.ArgumentParser(
        prog="bias-train report", description="One self-contained HTML page on some runs, and a table on the terminal."
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders that hold some, such as a sweep's")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in the first folder given")
    parser.add_argument("--title", help="heading of the page")
    parser.add_argument("--metric", metavar="NAME@K", help="figure of the bias, such as relative_delta_R@5")
    parser.add_argument("--retrieval", metavar="NAME@K", help="figure of the retrieval of photos, such as t2i_R@1")
    parser.add_argument("--gallery-ratio", type=float, default=0.5, help="generated share of the gallery (default 0.5)")
    parser.add_argument("--reference", metavar="ARM", help="the arm that the others are compared with")
    parser.add_argument("--focus-share", type=float, help="training share of the class plots and example rankings")
    options = parser.parse_args(argv)

    # Drawing libraries are loaded for drawing only.
    from rich.console import Console

    from bias_train.reports.collect import find_runs
    from bias_train.reports.options import ReportOptions
    from bias_train.reports.page import write_report
    from bias_train.reports.table import headline_table
    from bias_train.reports.text_axis import text_table

    choices = ReportOptions(
        title=options.title,
        metric=options.metric,
        retrieval=options.retrieval,
        gallery_ratio=options.gallery_ratio,
        reference=options.reference,
        focus_share=options.focus_share,
    )
    output = options.output or options.runs[0] / "report.html"
    study = write_report(find_runs(options.runs), output, choices)
    console = Console()
    console.print(headline_table(study))
    spotting = text_table(study)
    if spotting is not None:
        wide_console().print(spotting)
    for note in study.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    console.print(f"report: {output}", markup=False, highlight=False, soft_wrap=True)
    return 0
