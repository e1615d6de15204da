"""What the commands print on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def wide_console(width: int = 160) -> Console:
    """Make a console for tables.

    Args:
        width: columns of a pipe, which has no width of its own: a table cut at the usual 80 would lose figures.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, highlight=False)
