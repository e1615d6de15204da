"""Contrastive bases and debias terms: tensors in, named terms out."""

from losses.adversary import SourceAdversary
from losses.anti_sync import AntiSync
from losses.attribute_adversary import AttributeAdversary
from losses.base import REAL, Features, Loss, LossError
from losses.consistency import TwinConsistency
from losses.constrained import ConstrainedGap
from losses.contrastive import InfoNCE, SigLIP
from losses.coral import SourceCORAL
from losses.counterfactual import CounterfactualContrast, CounterfactualInfoNCE
from losses.distribution import ScoreDistribution
from losses.group_scores import GroupScores
from losses.group_spread import GroupSpread
from losses.hard_captions import HardNegativeCaptions, OHDMargins
from losses.joint_alignment import JointAlignment
from losses.keep import KeepStart
from losses.mmd import SourceMMD
from losses.overlay import OverlayInvariance, TypographicNegative
from losses.prompt_adversary import PromptAdversary
from losses.source import PairwiseSoftmax, RankHinge
from losses.spurious_prompts import SpuriousPrompts
from losses.two_source import TwoSourceContrastive

__all__ = [
    "REAL",
    "AntiSync",
    "AttributeAdversary",
    "ConstrainedGap",
    "CounterfactualContrast",
    "CounterfactualInfoNCE",
    "Features",
    "GroupScores",
    "GroupSpread",
    "HardNegativeCaptions",
    "InfoNCE",
    "JointAlignment",
    "KeepStart",
    "Loss",
    "LossError",
    "OHDMargins",
    "OverlayInvariance",
    "PairwiseSoftmax",
    "PromptAdversary",
    "RankHinge",
    "ScoreDistribution",
    "SigLIP",
    "SourceAdversary",
    "SourceCORAL",
    "SourceMMD",
    "SpuriousPrompts",
    "TwinConsistency",
    "TwoSourceContrastive",
    "TypographicNegative",
]
