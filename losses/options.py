"""Checks of options that several losses share; each failure names the loss, the option and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from losses.base import LossError


def one_of(owner: object, name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a `LossError` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise LossError(f"{type(owner).__name__}: {name} must be one of {choices}; got {value!r}")


def at_least(owner: object, name: str, value: float, low: float) -> None:
    """Raise a `LossError` unless ``value`` is finite and not below ``low``."""
    if not (math.isfinite(value) and value >= low):
        raise LossError(f"{type(owner).__name__}: {name} must be a finite number of at least {low:g}; got {value!r}")


def above(owner: object, name: str, value: float, low: float) -> None:
    """Raise a `LossError` unless ``value`` is finite and above ``low``."""
    if not (math.isfinite(value) and value > low):
        raise LossError(f"{type(owner).__name__}: {name} must be a finite number above {low:g}; got {value!r}")


def share(owner: object, name: str, value: float) -> None:
    """Raise a `LossError` unless ``value`` lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise LossError(f"{type(owner).__name__}: {name} is a share and must lie in [0, 1]; got {value!r}")
