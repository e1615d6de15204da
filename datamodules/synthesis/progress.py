"""How far a job is that makes pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class Progress:
    """How far a job is.

    Attributes:
        total: pictures of this part.
        done: of them, finished.
        made: of them, by this process.
        failed: of these, what could not be drawn.
        blanked: of these, blanked.
        seconds: since this process drew its first.
    """

    total: int = 0
    done: int = 0
    made: int = 0
    failed: int = 0
    blanked: int = 0
    begun: float | None = None

    @property
    def seconds(self) -> float:
        """Time since this process began to draw."""
        return time.monotonic() - self.begun if self.begun is not None else 0.0
