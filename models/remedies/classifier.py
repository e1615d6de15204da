"""A linear classifier of pictures into groups, fitted in closed loops without anything drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Softmax:
    """Multinomial logistic regression.

    Attributes:
        weight: [G, D] float64.
        bias: [G] float64.
    """

    weight: Tensor
    bias: Tensor

    def probabilities(self, x: Tensor) -> Tensor:
        """[n, G] float64, of float vectors [n, D]."""
        return F.softmax(x.double() @ self.weight.T + self.bias, dim=1)


def fit_softmax(x: Tensor, group: Tensor, groups: int, penalty: float = 1e-4) -> Softmax:
    """Fit by L-BFGS in float64.

    Minimises the mean over groups of the mean cross-entropy of a group's pictures, so that large groups do not count
    for more, plus ``penalty / 2`` times the squared weights (not the biases).

    Args:
        x: [n, D] float.
        group: [n] int64 in 0..G-1; groups without pictures are never predicted for sure.
        groups: G.
        penalty: for unit vectors of some hundred dimensions 1e-4 is mild.
    """
    x = x.double()
    count = torch.bincount(group, minlength=groups).double()
    weight_of = (1.0 / count.clamp(min=1))[group] / (count > 0).sum()
    weight = torch.zeros(groups, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(groups, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        each = F.cross_entropy(x @ weight.T + bias, group, reduction="none")
        total = (weight_of * each).sum() + 0.5 * penalty * (weight**2).sum()
        total.backward()
        return total.detach()

    with torch.enable_grad():
        optimiser.step(loss)
    return Softmax(weight.detach(), bias.detach())


def out_of_fold(x: Tensor, group: Tensor, groups: int, folds: int = 5, seed: int = 0) -> Tensor:
    """Probabilities of each picture by a classifier that was fitted to the others.

    Args:
        x: [n, D] float.
        group: [n] int64 in 0..G-1.
        groups: G.
        folds: how many classifiers; each group is dealt to them evenly.
        seed: of the dealing.

    Returns:
        [n, G] float64.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(group[order], stable=True)]
    fold = torch.empty(len(x), dtype=torch.int64)
    fold[order] = torch.arange(len(x)) % folds
    found = torch.empty(len(x), groups, dtype=torch.float64)
    for number in range(folds):
        test = fold == number
        if bool(test.any()):
            found[test] = fit_softmax(x[~test], group[~test], groups).probabilities(x[test])
    return found
