"""Naming what differs between two mixing plans."""

from __future__ import annotations

from collections.abc import Mapping


def plan_differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say what changed between two plans' ``fingerprint_parts``.

    Args:
        then: the recorded plan's.
        now: this plan's.

    Returns:
        Changes for people, in one line; empty where the plans are equal.

    >>> plan_differences({"share": "0.5", "plan": "a"}, {"share": "0.25", "plan": "b"})
    'share was 0.5, is 0.25'
    """
    # The plan's own hash follows from the rest.
    names = [name for name in {**now, **then} if name != "plan" and then.get(name) != now.get(name)]
    return "; ".join(f"{name} was {then.get(name, 'not set')}, is {now.get(name, 'not set')}" for name in names)
