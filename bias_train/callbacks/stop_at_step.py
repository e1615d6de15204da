"""Stops training at a step's end when any rank was asked to, with a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from bias_train.preemption import Preempted, StopRequests


class StopAtStep(pl.Callback):
    """Agrees across ranks that somebody asked to stop, writes a checkpoint of this step and raises :class:`Preempted`.

    Signals reach ranks at different moments, some nodes not at all. So each rank says at every step what it was asked,
    and all hear the most urgent answer at the next step: the exchange of a byte over gloo goes on while the step is
    computed, and needs no device. An evaluation is cut short where its step has a checkpoint already (a resumed run
    makes up for it), and otherwise completed first.

    Args:
        folder: the run folder.
        requests: what this process was asked.
    """

    def __init__(self, folder: Path, requests: StopRequests) -> None:
        self.folder, self.requests = folder, requests
        self._group: Any = None
        self._asked = torch.zeros((), dtype=torch.uint8)
        self._exchange: Any = None
        self._level = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the ranks' own channel."""
        if trainer.world_size > 1 and dist.is_initialized():
            self._group = dist.new_group(backend="gloo")

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning, which would talk to other ranks and launch signals in the handler."""
        self._listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise, where there is no sanity check."""
        self._listen(trainer)

    def _listen(self, trainer: pl.Trainer) -> None:
        self.requests.listen()
        trainer._signal_connector.received_sigterm = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if that was agreed, between two optimiser steps."""
        level = self._agreed()
        if level and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            checkpoint = self._checkpoint(trainer)
            if not trainer.strategy.broadcast(checkpoint.exists()):
                trainer.save_checkpoint(checkpoint)
            self._stop(trainer, level)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Stop if that was agreed and nothing but this evaluation would be lost."""
        if trainer.sanity_checking:
            return
        level = self._agreed()
        if level and trainer.strategy.broadcast(self._checkpoint(trainer).exists()):
            self._stop(trainer, level)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hear the last answer, so that no rank leaves the channel early."""
        self._agreed(last=True)

    def _agreed(self, *, last: bool = False) -> int:
        """The most urgent request that any rank had one call ago; with one process, that of now."""
        if self._group is None:
            return self.requests.level
        if self._exchange is not None:
            self._exchange.wait()
            self._level = int(self._asked)
            self._exchange = None
        if not last and not self._level:
            self._asked = torch.tensor(self.requests.level, dtype=torch.uint8)
            self._exchange = dist.all_reduce(self._asked, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return self._level

    def _checkpoint(self, trainer: pl.Trainer) -> Path:
        return self.folder / "checkpoints" / f"step={trainer.global_step}.ckpt"

    def _stop(self, trainer: pl.Trainer, level: int) -> None:
        wait = getattr(trainer.strategy.checkpoint_io, "wait", None)
        if wait is not None:
            wait()
        # Nobody leaves, and has the others killed by the launcher, before the checkpoint is on disk.
        trainer.strategy.barrier("preempted")
        raise Preempted(self.requests.signal_of(level), trainer.global_step)
