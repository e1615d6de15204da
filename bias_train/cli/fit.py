"""``bias-train fit``: one training run, described by composed YAML files and overrides."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import ArgumentError
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from bias_train.callbacks.last_step import LastStep
from bias_train.callbacks.plan_record import PlanRecord
from bias_train.callbacks.run_folder import RunFolder, resume_point
from bias_train.callbacks.step_profile import StepProfile
from bias_train.callbacks.step_seed import StepSeed
from bias_train.callbacks.stop_at_step import StopAtStep
from bias_train.callbacks.stream_monitor import StreamMonitor
from bias_train.checkpoints import AsyncCheckpointIO, AtomicCheckpointIO
from bias_train.cli.includes import expand_includes
from bias_train.csv_metrics import CSVMetrics
from bias_train.errors import RunError
from bias_train.files import write_text_once
from bias_train.paths import find_config
from bias_train.preemption import Preempted, requests
from bias_train.slurm import requeue
from bias_train.tracking.coordinates import coordinates
from bias_train.tracking.wandb_logger import TolerantWandbLogger
from models.module import RetrieverModule


@dataclass
class LoggingConfig:
    """Where scalars go; every destination gets the same names.

    Attributes:
        csv: ``metrics.csv`` in the run folder.
        tensorboard: event files in the run folder.
        wandb: Weights & Biases.
        wandb_mode: "offline" keeps the run in the run folder, to be sent later with ``bias-train wandb sync``; "online"
            sends it as it goes, and keeps it where the server does not answer.
        wandb_timeout_s: longest wait for W&B's server, when training starts and when it ends.
        project: W&B project.
        group: W&B group; null takes the sweep's name, where the run is a cell of one.
        tags: W&B tags; none given takes ``axis=value`` for each axis of the sweep.
    """

    csv: bool = True
    tensorboard: bool = True
    wandb: bool = True
    wandb_mode: str = "offline"
    wandb_timeout_s: float = 30.0
    project: str = "bias-train"
    group: str | None = None
    tags: list[str] = field(default_factory=list)


class FitCLI(LightningCLI):
    """LightningCLI with a run folder, composed configurations and our loggers."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run."""
        parser.add_argument(
            "--run_dir", type=str, default="runs/fit", help="folder that receives everything of the run"
        )
        parser.add_argument(
            "--resume", type=str, default="none", help="none, auto (the run folder's newest checkpoint) or a checkpoint"
        )
        parser.add_argument(
            "--checkpoint_every", type=int | None, default=None, help="steps between checkpoints; null: each validation"
        )
        parser.add_argument(
            "--checkpoint_async", type=bool, default=False, help="write checkpoints while training goes on"
        )
        parser.add_argument(
            "--profile", type=int, nargs="?", const=5, default=0, help="look where the time of so many steps goes"
        )
        parser.add_argument("--include", type=list[str], default=[], help="configurations to build on (read before)")
        parser.add_class_arguments(LoggingConfig, "logging")
        # So that a configuration may set an option of the data before another names the data's class.
        parser.set_defaults({"data": {"class_path": "datamodules.mixed_source.MixedSourceDataModule"}})

    def before_instantiate_classes(self) -> None:
        """Let a model's JSON configuration be named as the project ships it, from any folder."""
        retriever = self.config.model.retriever.init_args
        retriever = getattr(getattr(retriever, "base", None), "init_args", retriever)
        if getattr(retriever, "config", None):
            retriever.config = str(find_config(retriever.config))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the run folder, checkpoints, loggers and the progress bar to the configured trainer."""
        config = self.config_init
        folder = Path(config.run_dir)
        options = config.trainer
        if options.max_steps < 1:
            raise RunError("trainer.max_steps must be set: the training stream has no end")
        if options.val_check_interval is None and options.max_steps > 0:
            # The training stream has no end, so without an interval there would be no evaluation at all.
            options.val_check_interval = options.max_steps
        if isinstance(options.val_check_interval, int):
            options.check_val_every_n_epoch = None
        options.use_distributed_sampler = False
        if options.strategy == "ddp":
            # Gradients lie where they are summed over the ranks: two copies of them less a step.
            options.strategy = DDPStrategy(gradient_as_bucket_view=True)
        callbacks = [
            *(options.callbacks or []),
            RunFolder(folder, self.parser.dump(self.config, skip_none=False)),
            PlanRecord(folder),
            StreamMonitor(),
            StepSeed(),
            StopAtStep(folder, requests),
            LastStep(),
            ModelCheckpoint(
                folder / "checkpoints",
                filename="step={step}",
                auto_insert_metric_name=False,
                every_n_train_steps=config.checkpoint_every or _interval(options),
                save_top_k=-1,  # removing older ones is the writer's part, which knows when the new one is on disk
                enable_version_counter=False,
            ),
        ]
        if config.profile:
            callbacks.append(StepProfile(folder, config.profile))
        if options.enable_progress_bar is not False:
            # A bar that redraws itself is for a terminal; a log file gets a line now and then.
            # What it shows it reads off the device.
            callbacks.append(
                RichProgressBar(refresh_rate=10, leave=True)
                if sys.stderr.isatty()
                else TQDMProgressBar(refresh_rate=50)
            )
        return super().instantiate_trainer(
            callbacks=callbacks,
            logger=_loggers(folder, config.logging, self.parser.dump(self.config, skip_none=False)),
            plugins=[
                *(options.plugins or []),
                AsyncCheckpointIO() if config.checkpoint_async else AtomicCheckpointIO(),
                # Lightning's own way saves in the handler, and puts what array tasks save into one folder.
                *([SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []),
            ],
            default_root_dir=str(folder),
            **kwargs,
        )


def _interval(options: Any) -> int:
    if isinstance(options.val_check_interval, int):
        return options.val_check_interval
    return max(int(options.max_steps), 1)


def _loggers(folder: Path, options: Any, resolved: str) -> list[Logger]:
    loggers: list[Logger] = []
    if options.csv:
        loggers.append(CSVMetrics(folder))
    if options.tensorboard:
        loggers.append(TensorBoardLogger(str(folder), name="tensorboard", version=""))
    if options.wandb:
        loggers.append(_wandb(folder, options, resolved))
    return loggers


def _wandb(folder: Path, options: Any, resolved: str) -> TolerantWandbLogger:
    if options.wandb_mode not in ("offline", "online"):
        raise RunError(f"logging.wandb_mode must be offline or online, got {options.wandb_mode!r}")
    if options.wandb_timeout_s <= 0:
        raise RunError(f"logging.wandb_timeout_s takes seconds above 0, got {options.wandb_timeout_s:g}")
    # One id per run folder, written before training starts: every restart is the same W&B run.
    file = folder / "wandb_id.txt"
    write_text_once(file, secrets.token_hex(4) + "\n")
    os.environ.setdefault("WANDB_SILENT", "true")
    place = coordinates(folder)
    return TolerantWandbLogger(
        mode=options.wandb_mode,
        timeout_s=options.wandb_timeout_s,
        name=place.name,
        save_dir=str(folder.absolute()),  # W&B's own process may stand in another folder
        project=options.project,
        id=file.read_text().strip(),
        group=options.group or place.group,
        tags=list(options.tags or place.tags),
        config={**yaml.safe_load(resolved), **place.config},
    )


def fit(argv: Sequence[str]) -> Path:
    """Run one training.

    Args:
        argv: arguments as on the command line after ``bias-train fit``.

    Returns:
        The run folder.

    Raises:
        RunError, DataError, ModelError, LossError, FileNotFoundError: for what the user can mend.
        Preempted: after SIGTERM or SIGUSR1, with a checkpoint; a Slurm job that got SIGUSR1 is in the queue again.
    """
    _quiet()
    with requests:
        cli = _cli(argv)
        folder = Path(cli.config.run_dir)
        checkpoint = resume_point(folder, cli.config.resume)
        preempted: Preempted | None = None
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=False)
        except Preempted as stop:
            preempted = stop
        finally:
            # One process may train several retrievers in turn; W&B would add the next to this one's run.
            for logger in cli.trainer.loggers:
                if isinstance(logger, TolerantWandbLogger):
                    logger.finish(preempted=preempted is not None)
        if preempted is not None:
            # Last of all, since Slurm ends what is left of the job at once. What sends SIGTERM puts it back itself, or
            # wants it gone.
            if preempted.signum == signal.SIGUSR1 and cli.trainer.is_global_zero:
                requeue()
            raise preempted
    if cli.trainer.interrupted:
        raise KeyboardInterrupt
    return folder


def _cli(argv: Sequence[str]) -> FitCLI:
    try:
        return FitCLI(
            RetrieverModule,
            pl.LightningDataModule,
            subclass_mode_data=True,
            run=False,
            args=expand_includes(argv),
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={
                "parser_mode": "omegaconf+",
                "description": "Train one retriever.",
                "exit_on_error": False,  # the parser's own way prints two pages of usage above the message
            },
        )
    except ArgumentError as error:
        raise RunError(f"{' '.join(str(error).split())} (`bias-train fit --help` lists all options)") from error


def main(argv: list[str]) -> int:
    """Run ``bias-train fit``; returns the exit code."""
    folder = fit(argv)
    print(f"run folder: {folder}")
    return 0


def _quiet() -> None:
    # Figures are computed on one rank and sent to all: there is nothing to average.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*IterableDataset.*__len__.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")

    class NoAdvertisements(logging.Filter):
        def filter(self, entry: logging.LogRecord) -> bool:
            return "litlogger" not in entry.getMessage()

    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(NoAdvertisements())
