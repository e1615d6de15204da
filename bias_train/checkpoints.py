"""Checkpoints that are whole or absent: written beside, flushed to disk, then renamed into place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from bias_train.errors import RunError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a partial file first, so that a full disk or a kill leaves the last one as it was."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write one checkpoint.

        Raises:
            RunError: naming the file, where the disk is full or cannot be written.
        """
        final = Path(path)
        partial = final.with_name(final.name + ".partial")
        try:
            super().save_checkpoint(checkpoint, partial, storage_options)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(final)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
            partial.unlink(missing_ok=True)
            raise RunError(
                f"cannot write the checkpoint {final}: {error}. Free some space (or point --run_dir at another disk) "
                "and start again with --resume auto; earlier checkpoints are as they were"
            ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run folder by modification time, None where there is none."""
    found = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
