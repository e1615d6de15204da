"""Pictures of people by their groups, each group with the same weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from losses.base import LossError


@dataclass(frozen=True)
class Balance:
    """Which pictures of a step count, and how much. The same on every rank.

    Attributes:
        weight: [P] float64, the inverse size of the picture's group; 0 where the group is not known or too small.
        counted: [] int64, groups that count.
        left_out: [] int64, groups that have pictures, but too few.
    """

    weight: Tensor
    counted: Tensor
    left_out: Tensor

    @property
    def members(self) -> Tensor:
        """[P] bool, which pictures count."""
        return self.weight > 0

    @property
    def compared(self) -> Tensor:
        """[] bool, whether there are two groups to compare."""
        return self.counted >= 2


def balance(group: Tensor, least: int = 1) -> Balance:
    """Weigh pictures so that every group counts alike, whatever its share of the batch.

    Args:
        group: [P] int64, -1 where it is not known.
        least: pictures that make a group.

    Example:
        >>> balance(torch.tensor([0, 0, 1, -1])).weight
        tensor([0.5000, 0.5000, 1.0000, 0.0000], dtype=torch.float64)
    """
    size = torch.bincount(group[group >= 0], minlength=1)
    enough = size >= max(least, 1)
    known = (group >= 0) & enough[group.clamp(min=0)]
    weight = torch.where(known, 1.0 / size[group.clamp(min=0)].clamp(min=1).double(), 0.0)
    return Balance(weight, enough.sum(), ((size > 0) & ~enough).sum())


def check_groups(owner: object, group: Tensor, groups: int, option: str) -> None:
    """Raise a `LossError` where a picture's group is none of the first ``groups``."""
    highest = int(group.max()) if group.numel() else -1
    if highest >= groups:
        raise LossError(
            f"{type(owner).__name__}: the batch holds group number {highest}, but {option} says that there are "
            f"{groups}; give the number of groups that data.attribute has"
        )
