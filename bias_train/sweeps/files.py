"""The files of a run folder, which other processes may be reading or writing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from bias_train.sweeps.claim import LOCK


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON mapping; an absent or unreadable file counts as empty, since readers only look on."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def last_lines(path: Path, count: int) -> list[str]:
    """Return a log's last non-empty lines, without reading all of a long file; [] if there is none.

    A progress bar redraws its line after carriage returns; only what stood there last is kept.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 64 * 1024))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n"))
    return [line for line in lines if line][-count:]


def empty(folder: Path) -> None:
    """Remove a failed attempt, so that nothing of it is taken for a result of the next."""
    for item in folder.iterdir():
        if item.name == LOCK:  # another process may be claiming the folder
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()
