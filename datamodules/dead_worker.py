"""Says in one error that a worker process ended by itself, instead of by a traceback of the pool."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.errors import DataError


def dead_worker(at_work: Sequence[str]) -> DataError:
    """Make the error.

    Args:
        at_work: names what the processes had in hand, of which one ended; none where it is not known.

    Example:
        >>> print(dead_worker(["shard-000000.tar, sample 'a'"]))
        a worker process ended, at work on shard-000000.tar, sample 'a'; it was killed, often for want of memory, or \
crashed. What was finished is kept: run the same command again, with fewer workers if memory is short
    """
    where = f", at work on {' or '.join(at_work)}" if at_work else ""
    return DataError(
        f"a worker process ended{where}; it was killed, often for want of memory, or crashed. What was finished is "
        "kept: run the same command again, with fewer workers if memory is short"
    )
