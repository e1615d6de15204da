"""LEACE (Belrose et al. 2023, arXiv 2306.03819) against groups of people."""

from __future__ import annotations

from models.erasure import LinearEraser, fit_leace
from models.errors import ModelError
from models.remedies.base import Calibration, FittedLinear, Remedy
from models.remedies.sides import record


class Leace(Remedy):
    """The least change of pictures, in mean square, after which no linear classifier finds the group.

    See :func:`models.erasure.fit_leace`, which is given the groups in place of sources. Queries stay as they are. It
    makes the groups' means equal, so that no query prefers one on average; the first few hundred pictures, which a
    search shows, may still come from one. Without ``affine`` it folds into a checkpoint. Needs the extra ``erasure``.

    Args:
        rounds: fitted anew after renormalising, which brings a part back.
        shrinkage: estimate the covariance with shrinkage.
        affine: keep the mean of all pictures; one round alone.
    """

    def __init__(self, rounds: int = 3, shrinkage: bool = True, affine: bool = False) -> None:
        if rounds < 1 or (affine and rounds > 1):
            raise ModelError(f"Leace takes 1 round or more, and one alone where it is affine, not {rounds}")
        self.rounds = rounds
        self.shrinkage = shrinkage
        self.affine = affine

    def _fit(self, calibration: Calibration) -> FittedLinear:
        calibration.means()  # refuses a group without pictures
        eraser = fit_leace(
            calibration.image,
            calibration.group,
            affine=self.affine,
            per_generator=True,
            shrinkage=self.shrinkage,
            rounds=self.rounds,
        )
        found = {name: eraser.metadata[name] for name in ("affine", "shrinkage", "rounds", "rank", "concept_erasure")}
        about = record("leace", calibration, **found, side="image")
        return FittedLinear(LinearEraser(eraser.matrix, eraser.bias), None, about)
