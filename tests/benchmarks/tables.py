"""Tables for people: Markdown that also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence


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
