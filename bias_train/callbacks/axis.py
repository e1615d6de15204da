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


class ScheduledFigures(pl.Callback, ABC):
    """Measures something after every validation.

    Figures are computed once, on rank 0; other ranks get the values, so that checkpoint monitors agree. They go to
    every logger under one name and to ``records.csv`` with their intervals.
    """

    @abstractmethod
    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Sequence[Record]:
        """Compute the figures of one evaluation: called on every rank, and those of rank 0 are taken."""

    def keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule, folder: Path | None) -> None:
        """Write what is no scalar (tables, pictures); rank 0 only."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate, log, record; also the starting retriever, where ``trainer.num_sanity_val_steps`` is -1."""
        if trainer.sanity_checking and not math.isinf(trainer.num_sanity_val_steps):
            return
        records = list(self.measure(trainer, pl_module))
        if trainer.world_size > 1:
            records = trainer.strategy.broadcast(records)
        scalars = {entry.key: entry.value for entry in records if entry.is_scalar}
        if trainer.sanity_checking:  # the starting retriever: Lightning's log() is deaf here
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=trainer.global_step)
        else:
            pl_module.log_dict(scalars, rank_zero_only=False, sync_dist=False)
        if trainer.is_global_zero:
            folder = run_folder(trainer)
            if folder is not None:
                RecordsFile(folder / "records.csv").append(records)
            self.keep(trainer, pl_module, folder)


class AxisCallback(ScheduledFigures):
    """Evaluates one axis after every validation, from the embeddings of the validation that all callbacks share."""

    @abstractmethod
    def evaluate(self, embedded: EmbeddedSet, step: int) -> Sequence[Record]:
        """Compute the figures of one evaluation."""

    def show(self, embedded: EmbeddedSet, step: int, folder: Path | None, trainer: pl.Trainer) -> None:
        """Write what is no scalar (tables, pictures); rank 0 only."""

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Sequence[Record]:
        """Compute the figures on rank 0; putting the embeddings together takes all ranks."""
        embedded = _embedded(pl_module)
        return self.evaluate(embedded, trainer.global_step) if trainer.is_global_zero else []

    def keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule, folder: Path | None) -> None:
        """Show what the same embeddings have to show."""
        self.show(_embedded(pl_module), trainer.global_step, folder, trainer)


def _embedded(pl_module: pl.LightningModule) -> EmbeddedSet:
    found: EmbeddedSet = pl_module.embedded_set()  # type: ignore[operator]
    return found


def run_folder(trainer: pl.Trainer) -> Path | None:
    """Return the folder of the run, None where training runs without one (a notebook, a test)."""
    folder: Any = getattr(trainer, "run_folder", None)
    return Path(folder) if folder is not None else None
