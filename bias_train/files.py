"""Small files written whole or not at all."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: beside it, to disk, then renamed into place."""
    _write_beside(path, text).replace(path)


def write_text_once(path: Path, text: str) -> None:
    """Write a text file atomically unless it exists; of processes that try at once, the first one's text stays."""
    if path.exists():
        return
    partial = _write_beside(path, text)
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links, where only the check above keeps an older text
        partial.replace(path)
        return
    partial.unlink()


def _write_beside(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{threading.get_native_id()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return partial


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order in which they come: that of a sweep's axes has a meaning."""
    write_text(path, json.dumps(value, indent=1) + "\n")
