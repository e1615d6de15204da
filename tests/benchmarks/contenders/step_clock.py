"""When each training step of a run ended, for the benchmarks of whole trainings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl


class StepClock(pl.Callback):
    """Writes the times at which steps ended, on rank 0.

    Args:
        path: gets a JSON list of seconds.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._ends: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """Note the time; what runs on a device has to be done by then."""
        if trainer.strategy.root_device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        self._ends.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them."""
        if trainer.is_global_zero:
            self._path.write_text(json.dumps(self._ends))
