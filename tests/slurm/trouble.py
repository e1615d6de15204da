"""Makes trouble for single cells of a real sweep, when and as long as a test wants it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from bias_train.preemption import requests


class Trouble(pl.Callback):
    """After two steps, a cell named by a file in ``folder/fail`` fails, one in ``folder/hold`` waits for a signal.

    Each start notes the step that it goes on from, in ``folder/begun/<cell>``; a cell that waits leaves
    ``folder/waits/<cell>``, and waits once only.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (self.folder / "begun").mkdir(exist_ok=True)
        with (self.folder / "begun" / self._cell(trainer)).open("a") as file:
            file.write(f"{trainer.global_step}\n")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        cell = self._cell(trainer)
        if trainer.global_step != 2:
            return
        if (self.folder / "fail" / cell).exists():
            raise ValueError("this cell was told to fail")
        if (self.folder / "hold" / cell).exists():
            (self.folder / "hold" / cell).unlink()
            (self.folder / "waits").mkdir(exist_ok=True)
            (self.folder / "waits" / cell).touch()
            while not requests.level:
                time.sleep(0.05)

    @staticmethod
    def _cell(trainer: pl.Trainer) -> str:
        return Path(trainer.default_root_dir).name
