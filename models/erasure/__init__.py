"""Taking the direction of a picture's source out of its embedding: fitted on some vectors, applied to all."""

from models.erasure.correction import fit_correction
from models.erasure.displacement import Displacements, displacements, fit_projection
from models.erasure.eraser import LinearEraser
from models.erasure.fold import fold, folded, projection_of
from models.erasure.leace import fit_leace

__all__ = [
    "Displacements",
    "LinearEraser",
    "displacements",
    "fit_correction",
    "fit_leace",
    "fit_projection",
    "fold",
    "folded",
    "projection_of",
]
