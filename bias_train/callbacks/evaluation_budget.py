"""Evaluations that may take no more than a share of the time."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

import lightning.pytorch as pl

from bias_train.callbacks.run_folder import evaluation_due
from bias_train.errors import RunError

log = logging.getLogger(__name__)


class EvaluationBudget(pl.Callback):
    """Leaves out scheduled evaluations that would take too large a share of the time spent on training.

    An evaluation is left out where those so far and one more, as long as the last one, would take more than
    ``max_share`` of the training time up to here. The first of a start is always made (nobody knows yet what it
    costs), and so is that at the last step, which may therefore end up to one evaluation above the share. Rank 0's
    clock decides for all ranks. Times are of this start: a run that resumes begins anew.

    Which steps are evaluated then depends on the clock, so two runs of one seed may record figures at other steps (the
    weights are the same). Without this callback, as by default, every scheduled evaluation is made. ``throughput.csv``
    has the share in any case (see :class:`bias_train.callbacks.stream_monitor.StreamMonitor`).

    Args:
        max_share: evaluation time over training time, above 0.
    """

    def __init__(self, max_share: float = 0.1) -> None:
        if not max_share > 0:
            raise RunError(f"EvaluationBudget: max_share is {max_share:g}; give a share above 0, such as 0.1")
        self.max_share = max_share
        self._start = self._begun = 0.0
        self._spent = self._last = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start, self._spent, self._last = perf_counter(), 0.0, 0.0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when an evaluation begins."""
        self._begun = perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add what it took."""
        if not trainer.sanity_checking:
            self._last = perf_counter() - self._begun
            self._spent += self._last

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Where an evaluation is due and may not be afforded, have the trainer leave it out."""
        if not evaluation_due(trainer) or trainer.global_step >= trainer.max_steps or trainer.should_stop:
            return
        trained = perf_counter() - self._start - self._spent
        if trainer.strategy.broadcast(self._last > 0 and self._spent + self._last > self.max_share * trained):
            # What the trainer itself sets after a restart, to leave out the one evaluation that is due now.
            trainer.fit_loop.epoch_loop._skip_next_val = True
            log.info(
                "step %d: no evaluation, since %.0f s of %.0f s have gone into them", trainer.global_step, self._spent,
                trained + self._spent,
            )  # fmt: skip
