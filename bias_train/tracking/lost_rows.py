"""What W&B's files of a run lack, because its own process was killed before it had written everything.

A signal that a cluster sends to every process of a job ends W&B's process too, with whatever it had not written yet;
``metrics.csv`` is on disk before each checkpoint. So a start that goes on from a checkpoint logs the difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from bias_train.tracking.wandb_file import records

STEP = "trainer/global_step"  # under which Lightning logs the step


def logged_steps(wandb_dir: Path) -> dict[str, set[int]]:
    """Read at which steps each scalar was logged, over all starts of a run.

    Args:
        wandb_dir: the folder ``wandb`` of a run folder.
    """
    found: dict[str, set[int]] = defaultdict(set)
    for file in sorted(wandb_dir.glob("*run-*/*.wandb")):
        for record in records(file):
            if not record.HasField("history"):
                continue
            items = {(item.key or "/".join(item.nested_key)): item.value_json for item in record.history.item}
            if STEP in items:
                step = int(float(items.pop(STEP)))
                for name in items:
                    found[name].add(step)
    return found


def lost_rows(wandb_dir: Path, rows: Iterable[tuple[int, Mapping[str, float]]]) -> list[tuple[int, dict[str, float]]]:
    """Find what was measured and is in none of W&B's files.

    Args:
        wandb_dir: the folder ``wandb`` of a run folder.
        rows: step and scalars, as ``metrics.csv`` holds them.

    Returns:
        Those of the scalars that no file has at their step, in the order of ``rows``.
    """
    there = logged_steps(wandb_dir)
    lacking = ((step, {n: v for n, v in scalars.items() if step not in there.get(n, ())}) for step, scalars in rows)
    return [(step, scalars) for step, scalars in lacking if scalars]
