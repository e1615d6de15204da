"""What the data stream delivers while training runs: rate, waiting, mixture, skips, cache."""

from __future__ import annotations

import csv
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from bias_train.csv_metrics import CSVMetrics
from bias_train.records import keep_rows_up_to
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.timed_loader import TimedLoader

# Under this name the totals so far lie in a checkpoint.
_STATE = "stream_monitor"
_TIMED = ("images_per_second", "wait_seconds", "wait_share", "evaluation_share", "cache_hits", "cache_misses")


@dataclass
class _Totals:
    """What one rank, or all of them, has had so far."""

    pictures: int = 0
    batches: int = 0
    waited_s: float = 0.0
    delivered: Counter[str] = field(default_factory=Counter)
    skips: Counter[str] = field(default_factory=Counter)
    store: Counter[str] = field(default_factory=Counter)


class StreamMonitor(pl.Callback):
    """Logs what the data stream delivers.

    Every ``trainer.log_every_n_steps`` optimiser steps, and over all ranks together:

    - ``data/share/<source>``: share of a source among the anchors delivered since the run began,
    - ``data/skipped`` and ``data/skipped/<kind>``: pictures that could not be read since the run began,
    - ``data/images_per_second``: anchors and twins since the last time, evaluations left out,
    - ``data/wait_seconds`` and ``data/wait_share``: how long, a global batch, and which share of that time the trainer
      stood still for data, on the rank that stood longest,
    - ``data/evaluation_share``: time in evaluations over time in training, both since this start,
    - ``data/cache_hits`` and ``data/cache_misses``: of shards that lie elsewhere, since this start.

    The first two are the same in every run of one seed, and go to every logger. The others are not, and
    ``metrics.csv`` must not differ between two runs of one seed: where it is written, they go to ``throughput.csv``
    beside it, and to the other loggers as they are.

    Totals are kept in checkpoints, so a resumed run goes on from what was really delivered. Nothing is counted on the
    device, and ranks only talk where they log or write a checkpoint.

    The progress bar shows ``img/s``, ``wait`` (a share of the time), ``gen`` (generated pictures' share of the anchors)
    and ``skip``.
    """

    def __init__(self) -> None:
        self._before = _Totals()  # up to the checkpoint that training goes on from, over all ranks
        self._offset = _Totals()  # what this rank's data had counted when training started
        self._last = _Totals()
        self._last_time = 0.0
        self._paused_at: float | None = None
        self._start_time = self._evaluated_s = 0.0
        self._logged_step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew; a checkpoint is restored afterwards."""
        if stage == "fit":
            self._before = _Totals()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up the totals of earlier starts."""
        state = checkpoint.get(_STATE, {})
        self._before = _Totals(delivered=Counter(state.get("delivered", {})), skips=Counter(state.get("skips", {})))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the totals so far; every rank takes part in writing a checkpoint, so they may be summed here."""
        if not isinstance(_data(trainer), MixedSourceDataModule):
            return
        totals = self._over_ranks(trainer)
        checkpoint[_STATE] = {"delivered": dict(totals.delivered), "skips": dict(totals.skips)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting."""
        self._offset = _counted(trainer)
        self._last = _Totals()
        self._last_time, self._paused_at, self._logged_step = time.perf_counter(), None, trainer.global_step
        self._start_time, self._evaluated_s = self._last_time, 0.0
        file = _throughput_file(trainer)
        if file is not None and trainer.is_global_zero:
            keep_rows_up_to(file, trainer.global_step - 1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock: evaluation is no part of the stream's rate."""
        self._paused_at = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock go on."""
        if self._paused_at is not None:
            took = time.perf_counter() - self._paused_at
            self._last_time += took
            self._evaluated_s += took
            self._paused_at = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log where the trainer logs."""
        step, every = trainer.global_step, int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
        # Where gradients accumulate, several batches end at one step.
        if not every or step % every or step == self._logged_step:
            return
        self._logged_step = step
        data = _data(trainer)
        if not isinstance(data, MixedSourceDataModule):
            return
        totals, now = self._over_ranks(trainer), time.perf_counter()
        sure = _mixture(data, totals)
        timed = self._since_last(totals, now - self._last_time)
        timed["data/evaluation_share"] = self._evaluated_s / (now - self._start_time - self._evaluated_s)
        self._last, self._last_time = totals, now
        if trainer.is_global_zero:
            self._log(trainer, sure, timed, step - 1)  # Lightning's loggers count steps from 0
        shown = {
            "img/s": timed["data/images_per_second"],
            "wait": timed.get("data/wait_share", 0.0),
            "gen": 1.0 - sure.get("data/share/real", 1.0),
            "skip": sure["data/skipped"],
        }
        # On the processor, so that a bar that is drawn does not wait for the device.
        on_cpu = {name: torch.tensor(value, dtype=torch.float32) for name, value in shown.items()}
        pl_module.log_dict(on_cpu, prog_bar=True, logger=False, batch_size=1)

    def _over_ranks(self, trainer: pl.Trainer) -> _Totals:
        """Totals of all ranks since the run began (a collective call); waiting is that of the rank that waited most."""
        counted = _counted(trainer)
        own = _Totals(
            counted.pictures - self._offset.pictures,
            counted.batches - self._offset.batches,
            counted.waited_s - self._offset.waited_s,
            counted.delivered - self._offset.delivered,
            counted.skips - self._offset.skips,
            counted.store - self._offset.store,
        )
        ranks: list[Any] = [own]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            dist.all_gather_object(ranks, own)
        return _Totals(
            sum(rank.pictures for rank in ranks),
            own.batches,
            max(rank.waited_s for rank in ranks),
            sum((rank.delivered for rank in ranks), self._before.delivered),
            sum((rank.skips for rank in ranks), self._before.skips),
            sum((rank.store for rank in ranks), Counter()),
        )

    def _since_last(self, totals: _Totals, seconds: float) -> dict[str, float]:
        values = {"data/images_per_second": (totals.pictures - self._last.pictures) / seconds}
        batches = totals.batches - self._last.batches
        if batches:  # none from a loader that does not keep time
            waited = totals.waited_s - self._last.waited_s
            values |= {"data/wait_seconds": waited / batches, "data/wait_share": min(waited / seconds, 1.0)}
        return {**values, "data/cache_hits": totals.store["hits"], "data/cache_misses": totals.store["misses"]}

    def _log(self, trainer: pl.Trainer, sure: dict[str, float], timed: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(sure if isinstance(logger, CSVMetrics) else {**sure, **timed}, step=step)
        file = _throughput_file(trainer)
        if file is not None:
            new = not file.exists()
            with file.open("a", newline="", encoding="utf-8") as opened:
                writer = csv.DictWriter(opened, ["step", *_TIMED])
                if new:
                    writer.writeheader()
                writer.writerow({"step": step, **{name.removeprefix("data/"): v for name, v in timed.items()}})


def _data(trainer: pl.Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _counted(trainer: pl.Trainer) -> _Totals:
    """What this rank's data and its loader have counted, ever."""
    data, loader = _data(trainer), trainer.train_dataloader
    if not isinstance(data, MixedSourceDataModule):
        return _Totals()
    batches, waited_s = (loader.batches, loader.waited_s) if isinstance(loader, TimedLoader) else (0, 0.0)
    return _Totals(
        data.seen,
        batches,
        waited_s,
        Counter(data.delivered),
        Counter(data.skips),
        Counter(data.store_counts()),
    )


def _mixture(data: MixedSourceDataModule, totals: _Totals) -> dict[str, float]:
    assert data.plan is not None
    anchors = max(totals.delivered.total(), 1)
    shares = {f"data/share/{name}": totals.delivered[name] / anchors for name in data.plan.catalogue.sources}
    kinds = {f"data/skipped/{kind.replace(' ', '_')}": float(count) for kind, count in sorted(totals.skips.items())}
    return {**shares, "data/skipped": float(totals.skips.total()), **kinds}


def _throughput_file(trainer: pl.Trainer) -> Path | None:
    for logger in trainer.loggers:
        if isinstance(logger, CSVMetrics):
            return logger.path.with_name("throughput.csv")
    return None
