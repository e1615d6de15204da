"""Dimensions that tell the group, replaced by those of undecided pictures (SFID; Jung et al. 2024)."""

from __future__ import annotations

import torch

from models.erasure import LinearEraser
from models.errors import ModelError
from models.remedies.base import Calibration, FittedLinear, Remedy
from models.remedies.sides import Side, check_side, record


class FeatureImputation(Remedy):
    """Replace the dimensions that a random forest finds most important by their mean over undecided pictures.

    SFID. The forest's own out-of-bag votes say which pictures it is unsure about (ours; the paper takes a validation
    set). Queries get, in the same dimensions, the mean of the calibration's neutral words (ours; the paper fits a
    forest to labelled texts). Coordinates are edited, directions are not erased: expect a linear probe to find the
    group still. The map is affine: it cannot be folded into a checkpoint.

    Needs scikit-learn (``pip install scikit-learn``).

    Args:
        dimensions: how many are replaced; the paper takes 50 to 100 of 512.
        confidence: the share of votes below which a picture counts as undecided.
        trees: of the forest.
        side: what is changed.
    """

    def __init__(self, dimensions: int = 50, confidence: float = 0.7, trees: int = 200, side: Side = "both") -> None:
        check_side(side, self)
        if dimensions < 1 or trees < 1:
            raise ModelError(f"FeatureImputation: dimensions is {dimensions}, trees {trees}; give 1 or more of both")
        if not 0 < confidence <= 1:
            raise ModelError(f"FeatureImputation: confidence is {confidence}; give a share above 0 and up to 1")
        self.dimensions = dimensions
        self.confidence = confidence
        self.trees = trees
        self.side: Side = side
        self.needs = frozenset({"words"}) if side != "image" else frozenset()

    def _fit(self, calibration: Calibration) -> FittedLinear:
        try:
            from sklearn.ensemble import RandomForestClassifier
        except ImportError as error:
            raise ModelError("FeatureImputation needs scikit-learn: pip install scikit-learn") from error
        calibration.means()  # refuses a group without pictures
        width = calibration.width
        if self.dimensions >= width:
            raise ModelError(f"FeatureImputation: dimensions is {self.dimensions}, but vectors are {width} wide")
        forest = RandomForestClassifier(self.trees, oob_score=True, random_state=calibration.seed)
        forest.fit(calibration.image.numpy(), calibration.group.numpy())
        replaced = torch.from_numpy(forest.feature_importances_).argsort(descending=True, stable=True)[
            : self.dimensions
        ]
        # A picture that every tree was fitted to has no vote (NaN), and is not undecided.
        sure = torch.from_numpy(forest.oob_decision_function_).amax(dim=1).nan_to_num(nan=1.0)
        unsure = calibration.image[sure < self.confidence].double()
        if not len(unsure):
            raise ModelError(f"the forest is sure of every picture beyond {self.confidence:g}; raise confidence")
        kept, put = torch.ones(width, dtype=torch.float64), torch.zeros(2, width, dtype=torch.float64)
        kept[replaced] = 0.0
        put[0, replaced] = unsure.mean(dim=0)[replaced]
        if self.side != "image":
            put[1, replaced] = calibration.words.double().mean(dim=0)[replaced]
        about = record(
            "feature imputation", calibration, dimensions=self.dimensions, confidence=self.confidence,
            trees=self.trees, undecided=len(unsure), side=self.side,
        )  # fmt: skip
        return FittedLinear(
            LinearEraser(torch.diag(kept), put[0]) if self.side in ("image", "both") else None,
            LinearEraser(torch.diag(kept), put[1]) if self.side in ("text", "both") else None,
            about,
        )
