"""The scalars of the step at which a training was asked to stop."""

from __future__ import annotations

import lightning.pytorch as pl

from bias_train.csv_metrics import CSVMetrics
from bias_train.preemption import Preempted


class LastStep(pl.Callback):
    """Hands loggers the scalars of the step that :class:`Preempted` ended.

    Lightning does so after the callbacks of a step, which that exception leaves out; the resumed run begins after the
    step. ``metrics.csv`` has them with the checkpoint.
    """

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Log them; an evaluation comes after its step was logged."""
        step, every = trainer.global_step, int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if not isinstance(exception, Preempted) or trainer.validating or not every or step % every:
            return
        scalars = {name: float(v) for name, v in trainer.logged_metrics.items() if name.startswith("train/")}
        for logger in trainer.loggers:
            if not isinstance(logger, CSVMetrics):
                logger.log_metrics({**scalars, "epoch": trainer.current_epoch}, step - 1)
