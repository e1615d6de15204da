"""``include:`` in a configuration: files that it builds on, read before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from bias_train.errors import RunError
from bias_train.paths import find_config


def expand_includes(argv: Sequence[str]) -> list[str]:
    """Put every included file in front of the one that includes it, as ``--config`` arguments of their own.

    Later files win over earlier ones, so a file wins over what it includes.

    Args:
        argv: command-line arguments; ``--config FILE`` and ``--config=FILE`` are looked at.

    Raises:
        FileNotFoundError: for a configuration that does not exist.
        RunError: for files that include each other, or that hold no mapping.
    """
    out: list[str] = []
    rest = iter(argv)
    for argument in rest:
        if argument in ("--config", "-c"):
            name = next(rest, None)
            if name is None:
                raise RunError("--config needs a file")
        elif argument.startswith("--config="):
            name = argument.removeprefix("--config=")
        else:
            out.append(argument)
            continue
        for path in _with_includes(find_config(name), ()):
            out += ["--config", str(path)]
    return out


def _with_includes(path: Path, stack: tuple[Path, ...]) -> list[Path]:
    if path.resolve() in stack:
        raise RunError(f"{path} includes itself, by way of {stack[-1]}")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise RunError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise RunError(f"{path}: a configuration must be a mapping of keys to values")
    included = document.get("include") or []
    if isinstance(included, str):
        included = [included]
    found: list[Path] = []
    for name in included:
        found += _with_includes(find_config(name), (*stack, path.resolve()))
    return [*found, path]
