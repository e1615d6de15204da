"""Holds a training at a step until it is hit by what a test does to it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from bias_train.preemption import requests


class Gate(pl.Callback):
    """In the n-th life of a job (0, 1, ...), waits in the n-th of some steps for a request to stop, or for its end.

    A rank that waits leaves a file ``waits-<life>-<rank>`` with its process id; ``begun-<life>`` holds the step that
    the life goes on from.
    """

    def __init__(self, folder: str, steps: list[int]) -> None:
        self.folder, self.steps = Path(folder), steps
        self.life = int(os.environ.get("SLURM_RESTART_COUNT", "0"))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._note(f"begun-{self.life}", trainer.global_step)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.life < len(self.steps) and trainer.global_step == self.steps[self.life]:
            self._note(f"waits-{self.life}-{trainer.global_rank}", os.getpid())
            asked = self.folder / f"asked-{self.life}"
            while not asked.exists():
                if requests.level:
                    asked.touch()
                time.sleep(0.05)

    def _note(self, name: str, value: int) -> None:
        partial = self.folder / f".{name}"
        partial.write_text(str(value))
        partial.replace(self.folder / name)
