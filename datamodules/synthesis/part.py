"""Which shards are one process's: those of its part, and of them the ones that nobody else has in hand."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import DataError


class Part(NamedTuple):
    """The ``number``-th of ``total`` parts, counted from 1.

    >>> Part(2, 3).of(["a", "b", "c", "d", "e"])
    ['b', 'e']
    """

    number: int = 1
    total: int = 1

    def of(self, shards: list[str]) -> list[str]:
        """The shards of this part: every ``total``-th."""
        return shards[self.number - 1 :: self.total]

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``2/8``.

        Raises:
            DataError: if it is no part.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise DataError(f"--part {text}: write NUMBER/COUNT, from 1/8 to 8/8")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of_slurm(cls, environment: Mapping[str, str]) -> Part:
        """The part of an array's task; all of the work outside of one.

        Raises:
            DataError: for an array with gaps, whose tasks would leave out some parts.

        >>> Part.of_slurm({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4",
        ...                "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "3", "SLURM_ARRAY_TASK_STEP": "1"})
        Part(number=4, total=4)
        """
        if "SLURM_ARRAY_TASK_ID" not in environment:
            return cls()
        names = ("ID", "COUNT", "MIN", "MAX", "STEP")
        defaults = {"COUNT": "1", "MIN": "0", "MAX": "0", "STEP": "1"}
        its, count, low, high, step = (
            int(environment.get(f"SLURM_ARRAY_TASK_{name}") or defaults[name]) for name in names
        )
        step = max(step, 1)
        if (high - low) // step + 1 != count or (its - low) % step:
            raise DataError(
                f"the array's task numbers have gaps ({count} tasks from {low} to {high}), so parts would be left out; "
                "submit the whole array again (what is done is not done twice), or give --part NUMBER/COUNT"
            )
        return cls((its - low) // step + 1, count)


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Claim a file until the end of the block, or of the process, however it ends; yields whether it is ours.

    A POSIX record lock: a kill leaves nothing behind, and NFS forwards it.

    Args:
        path: of the lock's file; made if need be.
        wait: until another process gives it back.

    Raises:
        DataError: where the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        mine = True
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise DataError(
                    f"{path.parent}: its file system has no locks ({error.strerror}), so nothing would keep two "
                    "processes from making the same pictures; write to one that has them (Lustre: mounted with flock)"
                ) from error
            mine = False
        yield mine
    finally:
        os.close(descriptor)
