"""Remedies by name, as a YAML file lists them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from bias_train.errors import RunError
from bias_train.paths import find_config
from models.errors import ModelError
from models.remedies import Remedy


def load_remedies(path: str | Path, only: Sequence[str] | None = None) -> dict[str, Remedy]:
    """Make the remedies of a file.

    ::

        remedies:
          leace: {class_path: models.remedies.Leace, init_args: {rounds: 3}}

    Args:
        path: here, or as the project ships it.
        only: names to make; None for all.

    Returns:
        Remedies by name, in the file's order.

    Raises:
        RunError: naming file and remedy, for what is not of this form or cannot be made.
    """
    file = find_config(path)
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"{file}: cannot be read as YAML ({error})") from error
    listed = document.get("remedies") if isinstance(document, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise RunError(f"{file}: must hold `remedies:` with a class_path for each name")
    missing = next((name for name in only or () if name not in listed), None)
    if missing is not None:
        raise RunError(f"{file}: has no remedy {missing!r}; it has {', '.join(map(str, listed))}")
    return {str(name): _made(file, name, spec) for name, spec in listed.items() if only is None or name in only}


def _made(file: Path, name: str, spec: Any) -> Remedy:
    if not isinstance(spec, dict) or "class_path" not in spec or set(spec) - {"class_path", "init_args"}:
        raise RunError(f"{file}: remedy {name!r} must have a class_path and may have init_args, nothing else")
    module, _, kind = str(spec["class_path"]).rpartition(".")
    try:
        found = getattr(import_module(module), kind)
    except (ValueError, ImportError, AttributeError) as error:
        raise RunError(f"{file}: remedy {name!r}: there is no class {spec['class_path']} ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Remedy)):
        raise RunError(f"{file}: remedy {name!r}: {spec['class_path']} is no remedy")
    try:
        return found(**(spec.get("init_args") or {}))
    except (TypeError, ModelError) as error:
        raise RunError(f"{file}: remedy {name!r}: {error}") from error
