"""The numbers of training steps on their way from the device to the host, which must not wait for them.

Reading a number off an accelerator makes the host wait until everything before it is computed, and the device then
waits for the host: so the numbers of a step are copied while later work is queued, and looked at a step later. On a CPU
there is nothing to wait for, and they are looked at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.errors import ModelError


class StepScalars:
    """Keeps the numbers of one step until they have arrived, and refuses those that are not finite."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._step = 0
        self._host: Tensor | None = None
        self._arrived: Any = None

    def put(self, step: int, names: Sequence[str], values: Tensor) -> None:
        """Take a step's numbers; on a CPU they are judged at once.

        Args:
            step: optimiser step.
            names: of the numbers.
            values: [n] float, on the device, alike on all ranks.

        Raises:
            ModelError: if a number is not finite.
        """
        self.settle()
        self._names, self._step = tuple(names), step
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._host = values
        if values.device.type == "cpu":
            self.settle()

    def settle(self) -> None:
        """Judge the numbers that were put last, where that has not been done.

        Raises:
            ModelError: if a number is not finite; it names the first and its step.
        """
        if self._host is None:
            return
        if self._arrived is not None:
            self._arrived.synchronize()
        found = dict(zip(self._names, self._host.tolist(), strict=True))
        self._host = self._arrived = None
        bad = [name for name, value in found.items() if not math.isfinite(value)]
        if bad:
            raise ModelError(
                f"{bad[0]} is {found[bad[0]]} at step {self._step}: training stops before the weights are spoilt. "
                "Lower model.optimizer.lr, set trainer.gradient_clip_val, or use trainer.precision=32-true; "
                "if it happens at step 0, check the loss and the starting weights"
            )
