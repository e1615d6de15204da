"""Who trains a cell: a lock that ends with the process that holds it, however that process ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from bias_train.sweeps.errors import SweepError

LOCK = ".lock"
_ATTEMPTS = 5
_HELD = (errno.EACCES, errno.EAGAIN)


class Claim:
    """An exclusive claim on a run folder, held until :meth:`release` or the end of the process.

    A POSIX record lock rather than a file that must be removed: kill -9 leaves nothing behind, NFS forwards it, and
    forked loader workers do not inherit it (a ``flock`` they would keep).
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path) -> Claim | None:
        """Claim the folder (made if need be), or return None if a living process has it.

        Raises:
            SweepError: where the file system has no locks.
        """
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(descriptor)
            except OSError as error:
                if error.errno not in _HELD:
                    os.close(descriptor)
                    raise SweepError(
                        f"{folder}: its file system has no locks ({error.strerror}), so nothing would keep two jobs "
                        "from training one cell; set the sweep's root to one that has them (Lustre: mounted with flock)"
                    ) from error
                # Another process may only be looking (see is_claimed), which takes it microseconds.
                if attempt + 1 < _ATTEMPTS:
                    time.sleep(0.02)
        os.close(descriptor)
        return None

    def release(self) -> None:
        """Give the folder back."""
        os.close(self._descriptor)


def is_claimed(folder: Path) -> bool:
    """Tell whether another living process trains in this folder.

    Never for a folder that this process has claimed: closing any descriptor of a file drops a process's record locks.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _HELD
    else:
        return False
    finally:
        os.close(descriptor)
