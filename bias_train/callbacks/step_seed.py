"""Random numbers of a step that depend on the step alone: dropout goes on after a restart as if there had been none."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from datamodules.hashing import mix
from datamodules.mixed_source import run_seed

_STEP = 201


class StepSeed(pl.Callback):
    """Seeds torch's generators before every batch with (seed, optimiser step, batch within it, rank).

    A checkpoint does not hold the generators' states, and those of another world size would be of no use. Ranks draw
    numbers of their own: with one seed for all, rows of different ranks would get the same dropout mask.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed."""
        within = batch_idx % trainer.accumulate_grad_batches
        seed = mix(run_seed(), _STEP, trainer.global_step, within, trainer.global_rank)
        torch.manual_seed(int(seed) & (2**63 - 1))
