"""Contrastive bases and debias terms: tensors in, named terms out."""

from losses.base import REAL, Features, Loss, LossError
from losses.consistency import TwinConsistency
from losses.contrastive import InfoNCE, SigLIP
from losses.distribution import ScoreDistribution
from losses.source import PairwiseSoftmax, RankHinge

__all__ = [
    "REAL",
    "Features",
    "InfoNCE",
    "Loss",
    "LossError",
    "PairwiseSoftmax",
    "RankHinge",
    "ScoreDistribution",
    "SigLIP",
    "TwinConsistency",
]
