"""Where the time of a training step goes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from bias_train.errors import RunError

# Before these, memory is claimed, kernels are chosen and graphs compiled.
WARM_UP = 3
# As they are named in `models.module` and below, in the order in which they come.
PARTS = ("wait for data", "encode pictures", "encode captions", "losses", "backward", "optimizer")
_OPERATIONS = 15


class StepProfile(pl.Callback):
    """Watches some steps, and writes ``profile/trace.json`` and ``profile/summary.md`` to the run folder; rank 0 only.

    The trace is for a viewer (Perfetto, chrome://tracing); the summary says in milliseconds a step, on the host and on
    the device, which part of a step takes how long, and which operations do. Being watched, steps take longer than they
    would. What the parts do not name (moving the batch, hooks, logging) is the rest.

    Args:
        folder: the run folder.
        steps: how many to watch, after a few to warm up.

    Raises:
        RunError: if the number of steps is below 1.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        if steps < 1:
            raise RunError(f"--profile counts steps, so give 1 or more, got {steps}")
        self._folder, self._steps = folder / "profile", steps
        self._first = -1  # step at which this start began
        self._profile: profile | None = None
        self._part: Any = None
        self._began = 0.0
        self._watched = 0

    def _enter(self, part: str | None) -> None:
        if self._part is not None:
            self._part.__exit__(None, None, None)
            self._part = None
        if part is not None and self._profile is not None:
            self._part = record_function(part)
            self._part.__enter__()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End waiting for data, or begin to watch."""
        self._enter(None)
        if self._first < 0:
            self._first = trainer.global_step
            if trainer.is_global_zero and trainer.max_steps < self._first + WARM_UP + self._steps:
                raise RunError(
                    f"--profile={self._steps} watches as many steps after {WARM_UP} others, but the run ends after "
                    f"{trainer.max_steps - self._first}: raise trainer.max_steps, or watch fewer"
                )
        if trainer.is_global_zero and trainer.global_step == self._first + WARM_UP and self._profile is None:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._profile = profile(activities=kinds)
            self._profile.__enter__()
            self._began = time.perf_counter()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
        """Begin the backward pass."""
        self._enter("backward")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End it."""
        self._enter(None)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Begin the optimiser's step, clipping included."""
        self._enter("optimizer")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the step, and after the last one write what was seen."""
        self._enter(None)
        if self._profile is None:
            return
        self._watched += 1
        if self._watched < self._steps * trainer.accumulate_grad_batches:
            self._enter("wait for data")
            return
        seconds = time.perf_counter() - self._began
        watched, self._profile = self._profile, None
        watched.__exit__(None, None, None)
        self._folder.mkdir(parents=True, exist_ok=True)
        watched.export_chrome_trace(str(self._folder / "trace.json"))
        (self._folder / "summary.md").write_text(_summary(watched, self._steps, seconds))
        self._watched, self._first = 0, trainer.max_steps  # not again


def _summary(watched: profile, steps: int, seconds: float) -> str:
    """The page, in Markdown."""
    events = watched.key_averages()
    host = {event.key: event.cpu_time_total / 1000 / steps for event in events}
    device = {event.key: event.device_time_total / 1000 / steps for event in events}
    whole = 1000 * seconds / steps
    lines = [
        f"# Where a step goes: {whole:.1f} ms, mean of {steps}",
        "",
        "| part | host ms | share | device ms |",
        "|:-----|--------:|------:|----------:|",
    ]
    named = {part: host.get(part, 0.0) for part in PARTS}
    for part, spent in {**named, "rest": max(0.0, whole - sum(named.values()))}.items():
        lines.append(f"| {part} | {spent:.1f} | {100 * spent / whole:.0f} % | {device.get(part, 0.0):.1f} |")
    lines += [
        "",
        "Host time is how long the host was at it: for an accelerator it only queues the work, whose own time is in "
        "the last column.",
        "",
        f"## The {_OPERATIONS} operations that take longest by themselves",
        "",
        "| operation | calls a step | host ms | device ms |",
        "|:----------|-------------:|--------:|----------:|",
    ]

    def own(event: Any) -> float:
        return float(event.self_device_time_total or event.self_cpu_time_total)

    operations = [event for event in events if event.key not in PARTS and not event.key.startswith("ProfilerStep")]
    for event in sorted(operations, key=own, reverse=True)[:_OPERATIONS]:
        name = event.key.replace("|", "/")[:80]
        times = f"{event.self_cpu_time_total / 1000 / steps:.1f} | {event.self_device_time_total / 1000 / steps:.1f}"
        lines.append(f"| `{name}` | {event.count / steps:.0f} | {times} |")
    return "\n".join(lines) + "\n"
