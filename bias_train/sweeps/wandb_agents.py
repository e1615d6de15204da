"""A sweep for those who prefer W&B's agents: its server deals our cells out, and says no more than which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bias_train.sweeps.cells import Cell
from bias_train.sweeps.spec import Sweep


def agents_sweep(sweep: Sweep, cells: Sequence[Cell]) -> dict[str, Any]:
    """Describe cells as a sweep of W&B.

    Each agent runs ``bias-train sweep run FILE --only=CELL``, in the folder in which the file is found: cells keep
    their ids, folders and claims, so that agents, arrays and a ``sweep run`` may work on one sweep at once.

    Args:
        sweep: whose file agents read.
        cells: what they may be dealt.

    Returns:
        The document for ``wandb sweep``.
    """
    return {
        "name": sweep.name,
        "method": "grid",
        "program": "bias-train",
        # W&B puts a parameter's name and value together: --only=CELL.
        "command": ["bias-train", "sweep", "run", str(sweep.file), "${args}"],
        "parameters": {"only": {"values": [cell.id for cell in cells]}},
    }
