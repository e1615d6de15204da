"""Tables for people: Markdown that also reads well in a terminal."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table, its columns aligned: the first to the left, the others to the right.

    >>> print(markdown(["what", "n"], [["a", "1"], ["bcd", "23"]]))
    | what |  n |
    |:-----|---:|
    | a    |  1 |
    | bcd  | 23 |
    """
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    cells = [
        [cell.rjust(widths[column]) if column else cell.ljust(widths[column]) for column, cell in enumerate(row)]
        for row in [head, *rows]
    ]
    rule = [f"{'-' * (width + 1)}:" if column else f":{'-' * (width + 1)}" for column, width in enumerate(widths)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where figures go."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the printed table")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")


def put_out(options: argparse.Namespace, result: Any, text: str, targets: Sequence[Any]) -> int:
    """Print and write a benchmark's figures; return its exit code."""
    print(text)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(text + "\n")
    return int(options.check and not all(target["met"] for target in targets))
