"""Dimensions that tell the group, dropped.

CLIP-clip; Wang et al. 2021, "Are gender-neutral queries really gender-neutral? Mitigating gender bias in image search".
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.errors import ModelError
from models.remedies.base import Calibration, FittedLinear, Remedy
from models.remedies.sides import Side, check_side, fitted_on, record


class Clipping(Remedy):
    """Keep the dimensions that have the least mutual information with the group, and set the others to 0.

    The paper drops them on both sides and leaves vectors unnormalised. Clipping queries alone (side "text") ranks
    pictures as it does: the products are the same but for one factor for each query. Clipping both normalises pictures
    again, a departure that every other remedy shares; an index then holds nothing of the dropped dimensions.

    Mutual information is estimated from a table of groups by equal-count bins, in place of the paper's neighbour-based
    estimate (ours: it needs no further package, draws nothing, and errs upwards alike for all dimensions, so that their
    order is kept).

    Args:
        keep: share of the dimensions that stay; the paper keeps 400 of 512.
        bins: of each dimension.
        side: what is clipped.
    """

    def __init__(self, keep: float = 400 / 512, bins: int = 16, side: Side = "both") -> None:
        check_side(side, self)
        if not 0 < keep < 1:
            raise ModelError(f"Clipping: keep is {keep}; give the share of dimensions that stay, such as 0.78")
        if bins < 2:
            raise ModelError(f"Clipping: bins is {bins}; give 2 or more")
        self.keep = keep
        self.bins = bins
        self.side: Side = side

    def _fit(self, calibration: Calibration) -> FittedLinear:
        calibration.means()  # refuses a group without pictures
        kept = round(self.keep * calibration.width)
        if not 0 < kept < calibration.width:
            raise ModelError(f"Clipping: keep {self.keep:g} of {calibration.width} dimensions keeps none, or all")
        information = mutual_information(calibration.image, calibration.group, self.bins)
        stays = torch.zeros(calibration.width, dtype=torch.float64)
        stays[information.argsort(stable=True)[:kept]] = 1.0
        about = record("clipping", calibration, kept=kept, bins=self.bins)
        return fitted_on(self.side, torch.diag(stays), about)


def mutual_information(x: Tensor, group: Tensor, bins: int) -> Tensor:
    """Mutual information of each dimension, in bins of equal counts, with the group.

    Args:
        x: [n, D] float.
        group: [n] int64 from 0.
        bins: of each dimension; equal values may fall into two neighbouring ones, in the rows' order.

    Returns:
        [D] float64, in nats.

    Example:
        >>> values = torch.tensor([[0.0, 0.0], [1.0, 9.0], [8.0, 1.0], [9.0, 8.0]])
        >>> mutual_information(values, torch.tensor([0, 0, 1, 1]), bins=2)
        tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    rank = x.argsort(dim=0, stable=True).argsort(dim=0)
    bucket = rank * bins // len(x)
    table = torch.zeros(x.shape[1], int(group.max()) + 1, bins, dtype=torch.float64)
    column = torch.arange(x.shape[1]).expand_as(bucket)
    table.index_put_((column, group[:, None].expand_as(bucket), bucket), torch.ones((), dtype=torch.float64), True)
    joint = table / len(x)
    independent = joint.sum(dim=2, keepdim=True) * joint.sum(dim=1, keepdim=True)
    return torch.special.xlogy(joint, joint / independent.clamp(min=1e-300)).sum(dim=(1, 2)).clamp(min=0)
