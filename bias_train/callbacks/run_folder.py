"""Keeps the run folder: configuration, environment, status, checkpoints and the trained retriever."""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ProgressBar

from bias_train.checkpoints import AtomicCheckpointIO, damage_of, newest_checkpoint
from bias_train.csv_metrics import CSVMetrics
from bias_train.errors import RunError
from bias_train.files import write_json, write_text
from bias_train.preemption import Preempted
from bias_train.records import RecordsFile
from bias_train.tracking.lost_rows import lost_rows
from bias_train.tracking.wandb_logger import TolerantWandbLogger

_PACKAGES = (
    "bias-train",
    "torch",
    "torchvision",
    "lightning",
    "open_clip_torch",
    "webdataset",
    "torchmetrics",
    "wandb",
)


class RunFolder(pl.Callback):
    """Writes what a report or a resumed run reads.

    Args:
        folder: the run folder.
        config: the resolved configuration as YAML.
        status_every: steps between two updates of ``status.json``.
    """

    def __init__(self, folder: Path, config: str, status_every: int = 50) -> None:
        self.folder, self.config, self.status_every = Path(folder), config, status_every
        self._started = time.time()
        self._evaluated = -1
        self._first_step = 0
        self._finished = self._trained = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the configuration and the environment."""
        trainer.run_folder = self.folder  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            write_text(self.folder / "config.yaml", self.config)
            write_json(self.folder / "environment.json", environment(trainer))
            before = _status_before(self.folder)
            self._evaluated, self._finished = int(before.get("evaluated", -1)), before.get("state") == "done"
            self._status(trainer, "running")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where no checkpoint is gone on from, drop what a start that was killed before its first one measured."""
        if trainer.is_global_zero and trainer.ckpt_path is None:
            self._evaluated = -1
            self._drop_after(trainer, -1)
            self._status(trainer, "running")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where a checkpoint is gone on from, begin where it stands."""
        self._trained = True
        self._first_step = trainer.global_step
        if trainer.ckpt_path is not None:
            self._go_on(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that this step's evaluation is complete, when it is on disk."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            for logger in _csv(trainer):
                logger.save()
            self._evaluated = trainer.global_step
            self._status(trainer, "running")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have the scalars so far on disk before the checkpoint, which will not produce them again."""
        if not trainer.is_global_zero:
            return
        step, every = trainer.global_step, int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
        for logger in _csv(trainer):
            # Those of the step just taken are handed to loggers after the checkpoint.
            if trainer.training and step and every and step % every == 0:
                scalars = {n: float(v) for n, v in trainer.logged_metrics.items() if n.startswith("train/")}
                logger.expect({**scalars, "epoch": trainer.current_epoch}, step - 1)
            logger.save()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell how far training is."""
        if trainer.is_global_zero and trainer.global_step % self.status_every == 0:
            self._status(trainer, "running")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last step where the schedule of checkpoints missed it, and the retriever alone."""
        name = self.folder / "checkpoints" / f"step={trainer.global_step}.ckpt"
        # Saving is collective, and the first rank alone knows what it has written.
        if trainer.strategy.broadcast(not _is_saved(trainer, name)):
            trainer.save_checkpoint(name)
            _is_saved(trainer, name)
        if trainer.is_global_zero and not trainer.interrupted:
            pl_module.write_retriever(self.folder)  # type: ignore[operator]
            for older in self.folder.glob("checkpoints/step=*.ckpt"):
                if older != name:
                    older.unlink()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say that the run is done; where it was killed after its last step, do before what was left to do."""
        # The trainer leaves out the beginning and the end of training where no step is left.
        if not self._trained and trainer.strategy.broadcast(trainer.ckpt_path is not None and not self._finished):
            self._go_on(trainer)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if not isinstance(callback, ProgressBar):  # it has shown no beginning
                    callback.on_train_end(trainer, pl_module)
        if trainer.is_global_zero:
            self._status(trainer, "stopped" if trainer.interrupted else "done")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say what ended the run."""
        if trainer.is_global_zero:
            if isinstance(exception, Preempted):
                self._status(trainer, "preempted")
                return
            stopped = isinstance(exception, KeyboardInterrupt)
            self._status(trainer, "stopped" if stopped else "failed", f"{type(exception).__name__}: {exception}")

    def _go_on(self, trainer: pl.Trainer) -> None:
        """Drop what an earlier start measured beyond this step, and measure what it missed.

        Raises:
            RunError: if ranks go on from different steps.
        """
        step = trainer.global_step
        first = trainer.strategy.broadcast(step)
        if not trainer.strategy.reduce_boolean_decision(step == first):
            raise RunError(
                f"the processes found different checkpoints: rank {trainer.global_rank} goes on from step {step}, "
                f"rank 0 from step {first}. See that all see the same {self.folder / 'checkpoints'}, and start again"
            )
        # Lightning takes an evaluation that was due after the checkpoint for done, even if the run was killed in it.
        missed = trainer.strategy.broadcast(evaluation_due(trainer) and self._evaluated < step)
        if trainer.is_global_zero:
            self._drop_after(trainer, step, evaluations=step - 1 if missed else step)
            # On disk before the next checkpoint: a start that comes from there must not take for done what an earlier
            # start, which got further from a checkpoint that is broken now, has evaluated and this one has dropped.
            self._evaluated = min(self._evaluated, step)
            self._status(trainer, "running")
            self._log_lost_rows(trainer)
        if missed:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def _drop_after(self, trainer: pl.Trainer, step: int, evaluations: int | None = None) -> None:
        RecordsFile(self.folder / "records.csv").drop_after(step if evaluations is None else evaluations)
        for logger in _csv(trainer):
            logger.drop_after(step)

    def _log_lost_rows(self, trainer: pl.Trainer) -> None:
        """Give W&B what its process did not get to write before the last start was killed."""
        for logger in trainer.loggers:
            if isinstance(logger, TolerantWandbLogger):
                for table in _csv(trainer):
                    for step, scalars in lost_rows(self.folder / "wandb", table.rows()):
                        logger.log_metrics(scalars, step)

    def _status(self, trainer: pl.Trainer, state: str, error: str = "") -> None:
        write_json(
            self.folder / "status.json",
            {
                "state": state,
                "step": trainer.global_step,
                "first_step": self._first_step,  # of this start, to tell its rate
                "max_steps": trainer.max_steps,
                "evaluated": self._evaluated,
                "error": error,
                "started": self._started,
                "ended": None if state == "running" else time.time(),
            },
        )


def _csv(trainer: pl.Trainer) -> list[CSVMetrics]:
    return [logger for logger in trainer.loggers if isinstance(logger, CSVMetrics)]


def evaluation_due(trainer: pl.Trainer) -> bool:
    """Whether the trainer evaluates after the step that it stands at."""
    every = trainer.val_check_interval
    if not trainer.enable_validation or trainer.check_val_every_n_epoch is not None or not isinstance(every, int):
        return False
    return trainer.global_step * trainer.accumulate_grad_batches % every == 0


def _status_before(folder: Path) -> dict[str, Any]:
    """What the last start wrote into ``status.json``."""
    try:
        status: dict[str, Any] = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return status


def _is_saved(trainer: pl.Trainer, checkpoint: Path) -> bool:
    """Whether this start has written, or come from, a checkpoint; waits for what is being written.

    A file of that name may also be an earlier start's, which went another way.
    """
    writer = trainer.strategy.checkpoint_io
    assert isinstance(writer, AtomicCheckpointIO)
    writer.wait()
    known = [path for path in (writer.last, trainer.ckpt_path) if path is not None]
    return any(Path(path).resolve() == checkpoint.resolve() for path in known)


def environment(trainer: pl.Trainer) -> dict[str, Any]:
    """Describe what a run runs on."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "world_size": trainer.world_size,
        "nodes": trainer.num_nodes,
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "command": sys.argv[1:],
    }


def resume_point(folder: Path, resume: str) -> Path | None:
    """Find the checkpoint to go on from.

    Args:
        folder: run folder.
        resume: "none", "auto" (the folder's newest whole checkpoint, if any) or a checkpoint's path.

    Returns:
        The checkpoint, None to start anew.

    Raises:
        RunError: if the folder holds a run and ``resume`` is "none", the named file is missing or damaged, or every
            checkpoint of the folder is damaged.
    """
    if resume == "none":
        if (folder / "status.json").exists():
            raise RunError(
                f"{folder} holds a run already: go on with --resume auto, choose another --run_dir, or remove it"
            )
        return None
    if resume == "auto":
        return newest_checkpoint(folder)
    path = Path(resume)
    if not path.is_file():
        raise RunError(f"--resume {path}: no such checkpoint; use --resume auto to go on from the run folder's newest")
    damage = damage_of(path)
    if damage is not None:
        raise RunError(
            f"--resume {path}: the checkpoint is damaged ({damage}); use --resume auto to go on from the run folder's "
            "newest whole one"
        )
    return path
