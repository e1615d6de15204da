"""A gallery and its queries in the shared space: what every evaluation reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from models.errors import ModelError


class Evaluation(Protocol):
    """The part of the data's evaluation set that embedding needs; callbacks read the rest of it."""

    @property
    def keys(self) -> Sequence[str]:
        """One key a gallery picture, [M]."""

    @property
    def queries(self) -> Sequence[str]:
        """Captions or class prompts, [Q]."""


@dataclass(frozen=True)
class EmbeddedSet:
    """Everything embedded, complete on every rank.

    Attributes:
        image: [M, D] float32 on the CPU, L2-normalised; row i is gallery picture i.
        text: [Q, D] float32 on the CPU, L2-normalised; row i is query i.
        evaluation: what the rows are: keys, targets, sources, queries.
    """

    image: Tensor
    text: Tensor
    evaluation: Evaluation


class RowCollector:
    """Collects rows of a table on several ranks, and puts the whole table together on each of them.

    A loader that is sharded over ranks pads the last batch with rows that another rank has, or gives ranks unequal
    counts. So rows carry their index, and the table holds each once.
    """

    def __init__(self) -> None:
        self._index: list[Tensor] = []
        self._rows: list[Tensor] = []

    def add(self, index: Tensor, rows: Tensor) -> None:
        """Keep rows [b, D] that belong at ``index`` int64 [b]."""
        self._index.append(index.detach().cpu())
        self._rows.append(rows.detach().float().cpu())

    def table(self, size: int, width: int, what: str, device: torch.device) -> Tensor:
        """Gather the rows of all ranks (a collective call).

        Args:
            size: rows that the table must have.
            width: D; a rank may hold no row that would tell it.
            what: the rows' name in messages.
            device: where the ranks' backend communicates.

        Returns:
            [size, D] float32 on the CPU, the same on every rank.

        Raises:
            ModelError: if rows are missing, or an index lies outside the table.
        """
        index = torch.cat(self._index) if self._index else torch.zeros(0, dtype=torch.int64)
        rows = torch.cat(self._rows) if self._rows else torch.zeros(0, width)
        index, rows = gather_uneven(index, device), gather_uneven(rows, device)
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
            raise ModelError(f"a validation batch carries index {int(index.max())}, but there are only {size} {what}")
        seen = torch.zeros(size, dtype=torch.bool)
        seen[index] = True
        if not bool(seen.all()):
            raise ModelError(
                f"validation has seen {int(seen.sum())} of {size} {what}: a figure from a part of them would mean "
                "nothing, so leave trainer.limit_val_batches at 1.0 and evaluate outside the sanity check"
            )
        table = torch.empty(size, width)
        table[index] = rows
        return table


def gather_uneven(rows: Tensor, device: torch.device) -> Tensor:
    """Concatenate the ranks' rows, of which each rank may have another number (a collective call).

    Args:
        rows: [b, ...] on the CPU.
        device: where the ranks' backend communicates.

    Returns:
        [sum of b, ...] on the CPU, in rank order.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    count = torch.tensor([rows.shape[0]], device=device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    padded = torch.zeros(max(sizes), *rows.shape[1:], dtype=rows.dtype, device=device)
    padded[: rows.shape[0]] = rows.to(device)
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size].cpu() for part, size in zip(parts, sizes, strict=True)])
