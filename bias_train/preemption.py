"""Requests to stop: by a scheduler that wants its nodes back, a time limit that comes near, or a user's ``kill``.

A handler only notes the signal. Training stops at the next step's end, with a checkpoint to go on from: a checkpoint
written in a handler would be one of a half-done step, and on one rank alone.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

# Slurm's `--signal=USR1@300` warns before the time limit; SIGTERM is what preemption, `scancel` and a requeue send.
_LEVELS = {signal.SIGTERM: 1, signal.SIGUSR1: 2}


class Preempted(BaseException):
    """Training stopped because it was asked to, with a checkpoint; no failure.

    Attributes:
        signum: the signal that asked.
    """

    def __init__(self, signum: signal.Signals, step: int) -> None:
        super().__init__(f"stopped by {signum.name} after step {step}, with a checkpoint to go on from")
        self.signum = signum


class StopRequests:
    """Notes SIGTERM and SIGUSR1 for as long as it is entered.

    Attributes:
        level: 0 nothing was asked; 1 stop (SIGTERM); 2 stop, and come back later (SIGUSR1).
    """

    def __init__(self) -> None:
        self.level = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        self.level = 0
        # Python takes signals in its main thread alone; a training in another one cannot be asked this way.
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.getsignal(signum) for signum in _LEVELS}
            self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def listen(self) -> None:
        """Take the signals, also from whoever has taken them since."""
        for signum in self._before:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.level = max(self.level, _LEVELS[signal.Signals(signum)])

    @staticmethod
    def signal_of(level: int) -> signal.Signals:
        """The signal of a level above 0."""
        return next(signum for signum, its in _LEVELS.items() if its == level)


# One for the process, since signals are the process's.
requests = StopRequests()
