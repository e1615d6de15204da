"""Contrastive bases and debias terms: tensors in, named terms out."""

from losses.adversary import SourceAdversary
from losses.base import REAL, Features, Loss, LossError
from losses.consistency import TwinConsistency
from losses.constrained import ConstrainedGap
from losses.contrastive import InfoNCE, SigLIP
from losses.coral import SourceCORAL
from losses.distribution import ScoreDistribution
from losses.mmd import SourceMMD
from losses.source import PairwiseSoftmax, RankHinge
from losses.two_source import TwoSourceContrastive

__all__ = [
    "REAL",
    "ConstrainedGap",
    "Features",
    "InfoNCE",
    "Loss",
    "LossError",
    "PairwiseSoftmax",
    "RankHinge",
    "ScoreDistribution",
    "SigLIP",
    "SourceAdversary",
    "SourceCORAL",
    "SourceMMD",
    "TwinConsistency",
    "TwoSourceContrastive",
]
