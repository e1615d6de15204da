"""Small files written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place beside a file to write it to, with its ending; it takes the file's name when the block ends well.

    Whatever ends the block otherwise, nothing is left there, and a file of that name stays as it was.
    """
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


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


def json_value(value: Any) -> Any:
    """Turn dataclasses, mappings and sequences into what JSON knows; a number that is not finite becomes None.

    >>> json_value({"low": float("nan"), "ks": (1, 5)})
    {'low': None, 'ks': [1, 5]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order in which they come: that of a sweep's axes has a meaning."""
    write_text(path, json.dumps(value, indent=1) + "\n")
