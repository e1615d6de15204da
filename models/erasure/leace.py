"""LEACE (Belrose et al. 2023, arXiv 2306.03819) by its authors' package; needs the extra ``erasure``."""

from __future__ import annotations

from importlib.metadata import version

import torch
from torch import Tensor

from models.erasure.eraser import LinearEraser
from models.errors import ModelError


def fit_leace(
    x: Tensor,
    source: Tensor,
    *,
    affine: bool = False,
    per_generator: bool = False,
    shrinkage: bool = True,
    rounds: int = 1,
) -> LinearEraser:
    """The least change, in mean square, after which no linear classifier finds the source better than a constant does.

    ``x - P (x - mu)`` with P of rank one for two sources (theorem 4.3 of the paper). After it all sources have the same
    mean. That is stated for the vectors that it was fitted on and before they are renormalised: see on held-out
    vectors how much of it remains.

    Renormalising brings a part back: sources lose unequal lengths, and are stretched unequally along whatever direction
    all embeddings have in common. Further rounds (ours) fit LEACE anew to the erased and renormalised vectors. The maps
    multiply to one linear map, since a length in between has no effect on what is normalised in the end.

    Args:
        x: [n, D] float embeddings of unit length; the fit is in float64.
        source: [n] int64, 0 real, one code above 0 a generator.
        affine: subtract the mean before erasing and so keep it. Off, the map is linear and can be folded into a
            checkpoint; sources lose their difference all the same.
        per_generator: also make generators indistinguishable from each other, at one more rank each.
        shrinkage: estimate the covariance with shrinkage, as the package does by default; needed where vectors are
            hardly more than their width.
        rounds: at most this many; it ends earlier where no direction is left.

    Raises:
        ModelError: where the package is missing, only one source is there, or an affine eraser is to have rounds.
    """
    try:
        from concept_erasure import LeaceFitter
    except ImportError as error:
        raise ModelError("LEACE needs concept-erasure: pip install 'bias-train[erasure]'") from error
    if rounds < 1 or (affine and rounds > 1):
        raise ModelError(f"LEACE takes 1 round or more, and one alone where it is affine, not {rounds}")
    codes = source if per_generator else (source > 0).long()
    present, label = codes.unique(return_inverse=True)
    if len(present) < 2 or int(present[0]) != 0:
        raise ModelError("LEACE needs real and generated pictures, but all are of one source")
    z = torch.nn.functional.one_hot(label)[:, 1:].double()  # the first column is one minus the others
    rows = x.double()
    matrix = torch.eye(x.shape[1], dtype=torch.float64)
    bias: Tensor | None = None
    ranks: list[int] = []
    for _ in range(rounds):
        fitted = LeaceFitter.fit(rows, z, affine=affine, shrinkage=shrinkage).eraser
        # The package drops directions whose whitened covariance with the label is small (its svd_tol).
        rank = int((fitted.proj_right.norm(dim=1) > 0).sum())
        if rank == 0:
            break
        ranks.append(rank)
        matrix = fitted.P @ matrix
        if fitted.bias is not None:
            bias = fitted.proj_left @ (fitted.proj_right @ fitted.bias)
        rows = torch.nn.functional.normalize(rows @ fitted.P.T, dim=1)
    if not ranks:
        raise ModelError("LEACE found no direction that tells the sources apart: there is nothing to erase")
    metadata = {
        "method": "leace",
        "affine": affine,
        "per_generator": per_generator,
        "shrinkage": shrinkage,
        "rounds": len(ranks),
        "rank": sum(ranks),
        "concept_erasure": version("concept-erasure"),
    }
    return LinearEraser(matrix, bias, metadata=metadata)
