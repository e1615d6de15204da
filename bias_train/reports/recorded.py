"""How the pages of audits write what was recorded: numbers to the last digit, and options of any kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def exact(value: float) -> str:
    """Write a number as the tables beside the page have it, '' where it is undefined.

    Example:
        >>> exact(0.1), exact(math.nan)
        ('0.1', '')
    """
    return repr(value) if math.isfinite(value) else ""


def listed(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write options or inputs by name; those that say nothing are left out.

    Example:
        >>> listed({"ks": [1, 10], "level": 0.95, "limit": None, "sets": {"a": 2}})
        [('ks', '1, 10'), ('level', '0.95'), ('sets', 'a: 2')]
    """
    return [(name, _spelt(value)) for name, value in values.items() if value not in (None, {}, [], ())]


def _spelt(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_spelt(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_spelt, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
