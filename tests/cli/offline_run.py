"""Reading what offline W&B runs hold, as a server would get it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bias_train.tracking.wandb_file import has_ended, records


@dataclass
class OfflineRun:
    """The contents of one ``.wandb`` file."""

    id: str = ""
    name: str = ""
    group: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    commit: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    preempting: bool = False

    def names(self) -> set[str]:
        """Names in the history, W&B's own left out."""
        return {name for row in self.history for name in row if not name.startswith("_")}


def read(file: Path) -> OfflineRun:
    """Read one file."""
    found = OfflineRun()
    for record in records(file):
        if record.HasField("run"):
            run = record.run
            found.id, found.name, found.group, found.project = run.run_id, run.display_name, run.run_group, run.project
            found.tags, found.commit = list(run.tags), run.git.commit
            found.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif record.HasField("config"):
            found.config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
        elif record.HasField("history"):
            found.history.append(_row(record.history.item))
        elif record.HasField("summary"):
            found.summary |= _row(record.summary.update)
        elif record.HasField("exit"):
            found.exit_code = record.exit.exit_code
        elif record.HasField("preempting"):
            found.preempting = True
    return found


def written(file: Path) -> Path:
    """Wait until a file is whole: W&B's own process, which outlives a run, still writes it when the run has ended."""
    for _ in range(600):
        if has_ended(file):
            return file
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


def parts_of(folder: Path) -> list[OfflineRun]:
    """Read the parts of a run folder's run, in order, each with its end."""
    return [read(written(file)) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def _row(items: Any) -> dict[str, Any]:
    """One row; a table comes as one item for each of its properties."""
    row: dict[str, Any] = {}
    for item in items:
        path = list(item.nested_key) or [item.key]
        place = row
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = json.loads(item.value_json)
    return row
