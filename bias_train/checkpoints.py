"""Checkpoints that are whole or absent, written while training waits or while it goes on.

A checkpoint is written beside its place, flushed to disk, renamed into place, and only then are older ones removed: a
kill at any moment leaves the last whole one. Damage that comes later (a failing disk, a copy cut short) is met by
keeping the one before as well, and by reading a checkpoint's checksums before a run goes on from it.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from bias_train.errors import RunError

log = logging.getLogger(__name__)

_SCHEDULED = re.compile(r"step=(\d+)\.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are whole or absent, and keeps the newest of those named ``step=<n>.ckpt``.

    Lightning's own writer goes through the system's folder for temporary files: on another disk than the run folder the
    last move is a copy, which a kill leaves half done.

    Args:
        keep: checkpoints to keep; with 2 a damaged newest one costs no more than the steps since the one before.

    Attributes:
        last: the checkpoint that this process wrote last.
    """

    def __init__(self, keep: int = 2) -> None:
        super().__init__()
        self.keep = keep
        self.last: Path | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write one checkpoint.

        Raises:
            RunError: naming the file, where the disk is full or cannot be written.
        """
        self._publish(Path(path), lambda file: torch.save(checkpoint, file))

    def wait(self) -> None:
        """Return when every checkpoint that was asked for is on disk: here, at once."""

    def _publish(self, final: Path, write: Callable[[IO[bytes]], object]) -> None:
        partial = final.with_name(final.name + ".partial")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(final)
            _flush_folder(final.parent)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
            partial.unlink(missing_ok=True)
            raise RunError(
                f"cannot write the checkpoint {final}: {error}. Free some space (or point --run_dir at another disk) "
                "and start again with --resume auto; earlier checkpoints are as they were"
            ) from error
        self.last = final
        if _SCHEDULED.fullmatch(final.name):
            self._remove_older(final.parent)

    def _remove_older(self, folder: Path) -> None:
        for older in checkpoints_by_age(folder, "step=*.ckpt")[self.keep :]:
            older.unlink(missing_ok=True)
        for left in folder.glob("step=*.ckpt.partial"):  # of a start that was killed
            left.unlink(missing_ok=True)


class AsyncCheckpointIO(AtomicCheckpointIO):
    """Writes checkpoints in a thread, so that training waits for memory and not for the disk.

    The checkpoint is serialised before the call returns, so the next step cannot change what is written. At most one is
    being written: a disk that is slower than the schedule slows training down rather than filling the memory. What went
    wrong is raised by the next call, and at the latest at the end of training. Older checkpoints are removed by the
    thread, after the rename.

    Lightning's class of the same name is not used: it lets ModelCheckpoint remove the previous checkpoint while the new
    one is still queued, queues without bound, and reports success before the last one is written.
    """

    def __init__(self, keep: int = 2) -> None:
        super().__init__(keep)
        self._executor: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Serialise one checkpoint and hand it to the thread.

        Raises:
            RunError: where the checkpoint before could not be written.
        """
        self.wait()
        snapshot = io.BytesIO()
        torch.save(checkpoint, snapshot)
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        view = snapshot.getbuffer()
        self._writing = self._executor.submit(self._publish, Path(path), lambda file: file.write(view))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, once those that are to replace it are on disk."""
        self.wait()
        super().remove_checkpoint(path)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, once those asked for are on disk."""
        self.wait()
        return super().load_checkpoint(*args, **kwargs)

    def wait(self) -> None:
        """Return when every checkpoint that was asked for is on disk.

        Raises:
            RunError: where one could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def teardown(self) -> None:
        """Wait for the thread and end it."""
        ending = sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1]
        try:
            self.wait()
        except RunError as error:
            if ending is None:
                raise
            log.error("%s", error)  # what ended the run is on its way to the user, and is not to be hidden
        finally:
            if self._executor is not None:
                self._executor.shutdown()
                self._executor = None


def checkpoints_by_age(folder: Path, pattern: str = "*.ckpt") -> list[Path]:
    """List checkpoints, the one written last first; of two written within one tick of the clock, the higher step."""

    def written(path: Path) -> tuple[int, int]:
        scheduled = _SCHEDULED.fullmatch(path.name)
        return path.stat().st_mtime_ns, int(scheduled[1]) if scheduled else -1

    return sorted(folder.glob(pattern), key=written, reverse=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the run folder's newest checkpoint that is whole; says in the log which ones it passes over.

    Args:
        folder: the run folder.

    Returns:
        The checkpoint, None where there is none at all.

    Raises:
        RunError: if there are checkpoints, and every one is damaged.
    """
    found = checkpoints_by_age(folder / "checkpoints")
    for path in found:
        damage = damage_of(path)
        if damage is None:
            return path
        log.warning("the checkpoint %s is damaged (%s): going on from the one before", path, damage)
    if found:
        raise RunError(
            f"every checkpoint in {folder / 'checkpoints'} is damaged, the newest, {found[0].name}: "
            f"{damage_of(found[0])}. Restore one from a copy, or remove them to start from the beginning"
        )
    return None


def damage_of(path: Path) -> str | None:
    """Say what is wrong with a checkpoint file, by the checksums in it; None if nothing is.

    ``torch.load`` does not compare them, and would go on from flipped bits without a word.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
        return str(error) or type(error).__name__
    return None if member is None else f"the checksum of {member} does not match"


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
