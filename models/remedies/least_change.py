"""Queries made neutral on average at the least cost for ordinary pictures. Ours."""

from __future__ import annotations

import torch

from models.errors import ModelError
from models.remedies.base import Calibration, FittedLinear, Remedy
from models.remedies.sides import basis, fitted_on, record


class LeastChange(Remedy):
    """The linear map of queries that equalises the groups and changes the scores of ordinary pictures least.

    For a query e let ``e + d`` score all groups' mean pictures alike, ``(e + d) . (mu_g - mu_1) = 0``. Many d do. Of
    them this takes the one that moves the scores of ordinary pictures least in mean square, ``d^T C d``, C being their
    covariance with ``ridge`` times its mean variance added to the diagonal. With A = [mu_g - mu_1] as columns it is
    ``d = -C^-1 A (A^T C^-1 A)^-1 A^T e``: a linear map that is fitted once.

    Own construction, in the spirit of LEACE, which changes pictures least; here pictures stay, so that an index does
    too, and what counts is search among pictures of anything. A large ridge turns it into the orthogonal projection off
    the differences of means. The condition holds for the calibration's means: see on other pictures what is left.

    Args:
        ridge: share of the mean variance that is added; larger than 0.
    """

    needs = frozenset({"pairs"})

    def __init__(self, ridge: float = 0.1) -> None:
        if not ridge > 0:
            raise ModelError(f"LeastChange: ridge is {ridge}; give a share above 0, such as 0.1")
        self.ridge = ridge

    def _fit(self, calibration: Calibration) -> FittedLinear:
        means = calibration.means()
        differences = basis(means[1:] - means[:1]).T
        if not differences.shape[1]:
            raise ModelError("all groups have one mean picture: there is nothing to equalise")
        pictures = calibration.pair_image.double()
        centred = pictures - pictures.mean(dim=0)
        covariance = centred.T @ centred / len(pictures)
        eye = torch.eye(calibration.width, dtype=torch.float64)
        covariance += self.ridge * covariance.diagonal().mean() * eye
        cheap = torch.linalg.solve(covariance, differences)
        matrix = eye - cheap @ torch.linalg.solve(differences.T @ cheap, differences.T)
        about = record(
            "least change", calibration, ridge=self.ridge, rank=differences.shape[1], ordinary_pictures=len(pictures)
        )
        return fitted_on("text", matrix, about)
