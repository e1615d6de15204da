"""The record in which every metric reports."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One number with its interval and its conventions.

    Attributes:
        name: what was measured, such as ``"relative_delta_R"``.
        k: cut-off of the ranking, as it was asked for; None where the figure has none.
        value: the figure; NaN where it is undefined (``note`` says why), infinite where odds are.
        low: lower end of the interval, NaN without a bootstrap.
        high: upper end of the interval, NaN without a bootstrap.
        count: how many queries stand behind the figure (pictures for a class accuracy, kept pairs for a rank
            difference).
        note: conventions and flags that a reader of this number needs, joined by ``"; "``.
        label: the class that the figure is about; None for a figure over all of them.
    """

    name: str
    k: int | None
    value: float
    low: float = math.nan
    high: float = math.nan
    count: int = 0
    note: str = ""
    label: str | None = None

    @property
    def key(self) -> str:
        """The name with its cut-off.

        >>> Figure("R_real", 5, 0.5).key, Figure("pair_win_rate", None, 0.5).key
        ('R_real@5', 'pair_win_rate')
        """
        return self.name if self.k is None else f"{self.name}@{self.k}"
