"""Tensors with a record of what they are, in one ``.safetensors``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.errors import ModelError


def write_tensors(path: Path, tensors: Mapping[str, Tensor], kind: str, record: Mapping[str, Any]) -> None:
    """Write a file that appears when it is whole.

    Args:
        path: its folder is made.
        tensors: contiguous, by name.
        kind: what the file holds: the name that its record stands under.
        record: whatever JSON holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file(dict(tensors), str(partial), metadata={kind: json.dumps(record, sort_keys=True)})
    partial.replace(path)


def read_tensors(path: Path, kind: str, command: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote.

    Args:
        path: the file.
        kind: what it must hold.
        command: that writes such files, for the errors.

    Returns:
        The tensors by name, and the record.

    Raises:
        ModelError: where the file is missing, or holds something else.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such {kind}; `{command}` writes one") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as safetensors ({error})") from error
    if kind not in metadata:
        raise ModelError(f"{path}: holds no {kind}; give a file that `{command}` wrote")
    return tensors, json.loads(metadata[kind])
