"""What every axis's callback shares: when to evaluate, and where figures go."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from bias_train.records import Record, RecordsFile
from models.embedded import EmbeddedSet


class AxisCallback(pl.Callback, ABC):
    """Evaluates one axis after every validation.

    Figures are computed once, on rank 0, from embeddings that all callbacks share; other ranks get the values, so that
    checkpoint monitors agree. They go to every logger under one name and to ``records.csv`` with their intervals.
    """

    @abstractmethod
    def evaluate(self, embedded: EmbeddedSet, step: int) -> Sequence[Record]:
        """Compute the figures of one evaluation."""

    def show(self, embedded: EmbeddedSet, step: int, folder: Path | None, trainer: pl.Trainer) -> None:
        """Write what is no scalar (tables, pictures); rank 0 only."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate, log, record; also the starting retriever, where ``trainer.num_sanity_val_steps`` is -1."""
        if trainer.sanity_checking and not math.isinf(trainer.num_sanity_val_steps):
            return
        embedded: EmbeddedSet = pl_module.embedded_set()  # type: ignore[operator]
        step = trainer.global_step
        records = list(self.evaluate(embedded, step)) if trainer.is_global_zero else []
        if trainer.world_size > 1:
            records = trainer.strategy.broadcast(records)
        scalars = {entry.key: entry.value for entry in records if not entry.label}
        if trainer.sanity_checking:  # the starting retriever: Lightning's log() is deaf here
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=step)
        else:
            pl_module.log_dict(scalars, rank_zero_only=False, sync_dist=False)
        if trainer.is_global_zero:
            folder = run_folder(trainer)
            if folder is not None:
                RecordsFile(folder / "records.csv").append(records)
            self.show(embedded, step, folder, trainer)


def run_folder(trainer: pl.Trainer) -> Path | None:
    """Return the folder of the run, None where training runs without one (a notebook, a test)."""
    folder: Any = getattr(trainer, "run_folder", None)
    return Path(folder) if folder is not None else None
