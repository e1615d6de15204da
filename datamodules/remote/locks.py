"""File locks that end with their process, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

# Locks belong to open files, which a forked child shares: it would hold on to what its parent had locked at that time.
_held: set[int] = set()


def _let_go_in_child() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


def take(descriptor: int, *, wait: bool = True) -> bool:
    """Lock an open file for this descriptor alone.

    Args:
        descriptor: of the file; give it to :func:`release`, or to :func:`share` first.
        wait: until others let go; if not, return False at once where somebody holds a lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    _held.add(descriptor)
    return True


def share(descriptor: int) -> None:
    """Lock an open file together with others, until the descriptor and all its copies in children are closed."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    _held.discard(descriptor)


def release(descriptor: int) -> None:
    """Unlock and close."""
    _held.discard(descriptor)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for a child that was forked in between
    os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, keep: bool = False) -> Iterator[bool]:
    """Hold a lock file for the time of a block.

    Args:
        path: of the lock file, made if it is missing.
        wait: until others let go; if not, the block runs with False where another holds it.
        keep: leave the file behind; otherwise it is removed with the lock.
    """
    descriptor = _take_file(path, wait)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            if not keep:
                path.unlink(missing_ok=True)
            release(descriptor)


def _take_file(path: Path, wait: bool) -> int | None:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # somebody may tidy up a folder for temporary files
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not take(descriptor, wait=wait):
                os.close(descriptor)
                return None
            # The one before may have removed the file that we waited for: others would now lock a new one.
            if is_named(descriptor, path):
                return descriptor
        except BaseException:
            release(descriptor)
            raise
        release(descriptor)


def is_named(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        there, here = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
