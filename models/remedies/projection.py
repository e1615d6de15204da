"""Projections off prompts that name groups.

Chuang et al. 2023, "Debiasing vision-language models via biased prompts".
"""

from __future__ import annotations

import torch

from models.errors import ModelError
from models.remedies.base import Calibration, FittedLinear, Remedy
from models.remedies.sides import Side, basis, check_side, fitted_on, projection_off, record


class OrthogonalProjection(Remedy):
    """Orth-Proj: ``z <- norm((I - V (V^T V)^-1 V^T) z)``, V being the prompts that name a group.

    The prompts themselves are projected off, not their differences: what they have in common, "a photo of a person",
    goes too. With prompts that depend on each other V^T V has no inverse; the projection off their span is meant.

    Args:
        side: the paper maps queries ("text", the default); "image" and "both" are there for comparison.
    """

    needs = frozenset({"group_prompts"})

    def __init__(self, side: Side = "text") -> None:
        check_side(side, self)
        self.side: Side = side

    def _fit(self, calibration: Calibration) -> FittedLinear:
        directions = basis(calibration.group_prompts)
        about = record("orthogonal projection", calibration, rank=len(directions))
        return fitted_on(self.side, projection_off(directions), about)


class OrthogonalCalibration(Remedy):
    """Orth-Cali: ``P0 (I + lam M)^-1``, which also draws together queries that differ in the group alone.

    P0 is Orth-Proj's projection. M is the mean of ``(z_i - z_j) (z_i - z_j)^T`` over positive pairs: queries that name
    the same word and two groups, such as "A photo of a female doctor." and "A photo of a male doctor.".

    Args:
        strength: lam; the paper takes 1000.
        side: as for :class:`OrthogonalProjection`.
    """

    needs = frozenset({"group_prompts", "composed"})

    def __init__(self, strength: float = 1000.0, side: Side = "text") -> None:
        check_side(side, self)
        if not strength >= 0:
            raise ModelError(f"OrthogonalCalibration: strength is {strength}; give 0 or more (the paper takes 1000)")
        self.strength = strength
        self.side: Side = side

    def _fit(self, calibration: Calibration) -> FittedLinear:
        assert calibration.composed is not None  # it is among the needs
        directions = basis(calibration.group_prompts)
        composed = calibration.composed.double()
        words, groups, width = composed.shape
        # All pairs of a word's groups: the sum over i < j of the products is G times that of the centred rows.
        centred = (composed - composed.mean(dim=1, keepdim=True)).reshape(-1, width)
        between = 2.0 / (words * (groups - 1)) * centred.T @ centred
        drawn = torch.linalg.inv(torch.eye(width, dtype=torch.float64) + self.strength * between)
        about = record("orthogonal calibration", calibration, rank=len(directions), strength=self.strength, words=words)
        return fitted_on(self.side, projection_off(directions) @ drawn, about)
