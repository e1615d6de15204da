"""Reading and comparing YAML documents as values, so that formatting and comments never change a cell."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from bias_train.paths import find_config
from bias_train.sweeps.errors import SweepError


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that reads ``1e-4`` as a number.

    YAML 1.1 wants a dot and a sign in an exponent, so PyYAML reads a learning rate of ``1e-4`` as text; the training
    command's parser does not. Both must see the same value, or equal cells would get unequal ids.
    """


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def load_yaml(path: Path) -> Any:
    """Parse a YAML (or JSON) file.

    Raises:
        SweepError: if it cannot be read or parsed; names the file and the line.
    """
    try:
        # _Loader is a SafeLoader: it builds plain values only.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise SweepError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def canonical(value: Any) -> Any:
    """Return the value in one form: whole floats as integers, mappings with text keys, tuples as lists.

    Example:
        >>> canonical({"share": 0.0, "sizes": (1.0, 2.5)})
        {'share': 0, 'sizes': [1, 2.5]}
    """
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)  # dates, the one other thing that YAML makes of plain text


def fingerprint(value: Any) -> str:
    """Hash a document's value to eight hexadecimal digits.

    Order of keys, spelling of numbers and comments do not count.

    Example:
        >>> fingerprint({"a": 1, "b": 2.0}) == fingerprint({"b": 2, "a": 1.0})
        True
    """
    text = json.dumps(canonical(value), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def load_definition(path: Path) -> Any:
    """Parse a config file with the files that it names put in their places.

    A config may ``include`` others, and a value may name another YAML or JSON file. An edit there changes the training
    just as an edit here, so it must change the hash too.
    """
    return _inline(load_yaml(path), path.parent, (path.resolve(),))


def _inline(value: Any, folder: Path, seen: tuple[Path, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _inline(item, folder, seen) for key, item in value.items()}
    if isinstance(value, list):
        return [_inline(item, folder, seen) for item in value]
    if isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")):
        file = folder / value
        if not file.is_file():
            try:
                file = find_config(value)
            except FileNotFoundError:
                return value
        if file.resolve() not in seen:
            return {"file": _inline(load_yaml(file), file.parent, (*seen, file.resolve()))}
    return value
