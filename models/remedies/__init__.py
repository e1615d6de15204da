"""Remedies against social bias on finished embeddings, all behind one interface."""

from models.remedies.base import Calibration, Fitted, FittedLinear, Remedy
from models.remedies.clipping import Clipping
from models.remedies.equalisation import Equalisation
from models.remedies.files import load_fitted, save_fitted
from models.remedies.imputation import FeatureImputation
from models.remedies.leace import Leace
from models.remedies.least_change import LeastChange
from models.remedies.null_space import IterativeNullSpace
from models.remedies.projection import OrthogonalCalibration, OrthogonalProjection
from models.remedies.ranking import GreedyRanking, Interleaving
from models.remedies.subspace import AttributeSubspace

__all__ = [
    "AttributeSubspace",
    "Calibration",
    "Clipping",
    "Equalisation",
    "FeatureImputation",
    "Fitted",
    "FittedLinear",
    "GreedyRanking",
    "Interleaving",
    "IterativeNullSpace",
    "Leace",
    "LeastChange",
    "OrthogonalCalibration",
    "OrthogonalProjection",
    "Remedy",
    "load_fitted",
    "save_fitted",
]
