"""Iterative null space of group classifiers, with the mean of undecided pictures put in its place (SPD)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.erasure import LinearEraser
from models.errors import ModelError
from models.remedies.base import Calibration, FittedLinear, Remedy
from models.remedies.classifier import fit_softmax, out_of_fold
from models.remedies.sides import Side, basis, check_side, projection_off, record


class IterativeNullSpace(Remedy):
    """Project off what linear classifiers read the group from, round after round; then put a common value there.

    Iterative null-space projection (INLP; Ravfogel et al. 2020, "Null it out"): each round fits a linear classifier to
    what the rounds before have left, and removes its directions. SPD (CVPR 2026) adds
    ``x'' = x (I - U^T U) + U^T U x_low``: within the removed subspace U every picture gets the mean of the pictures
    that the classifier is unsure about. Fitted in closed loops: logistic regression with all groups weighing alike
    (ours; the sources do not agree on the classifier), confidence measured on pictures that the classifier was not
    fitted to (ours).

    Queries (side "text" or "both") lose the same subspace. In its place they get the mean of the calibration's neutral
    words (ours: what is neutral by construction stands for what a classifier would be unsure about).

    With the mean put back the map is affine: it cannot be folded into a checkpoint, and wants vectors of unit length.

    Args:
        rounds: SPD takes 5; each removes a direction less than there are groups.
        reinject: put the mean back; without it this is INLP.
        confidence: a picture with a largest probability below it is one that the classifier is unsure about.
        side: what is mapped.
    """

    def __init__(self, rounds: int = 5, reinject: bool = True, confidence: float = 0.7, side: Side = "both") -> None:
        check_side(side, self)
        if rounds < 1:
            raise ModelError(f"IterativeNullSpace: rounds is {rounds}; give 1 or more")
        if not 0 < confidence <= 1:
            raise ModelError(f"IterativeNullSpace: confidence is {confidence}; give a share above 0 and up to 1")
        self.rounds = rounds
        self.reinject = reinject
        self.confidence = confidence
        self.side: Side = side
        self.needs = frozenset({"words"}) if reinject and side != "image" else frozenset()

    def _fit(self, calibration: Calibration) -> FittedLinear:
        calibration.means()  # refuses a group without pictures
        most = (calibration.width - 1) // (calibration.groups - 1)
        if self.rounds > most:
            raise ModelError(
                f"IterativeNullSpace: {self.rounds} rounds of {calibration.groups - 1} directions are more than "
                f"vectors of width {calibration.width} have; take {most} rounds or fewer"
            )
        off = removed_directions(calibration, self.rounds)
        matrix = projection_off(off)
        about = record("iterative null space", calibration, rounds=self.rounds, rank=len(off), reinject=self.reinject)
        means: dict[str, Tensor | None] = {"image": None, "text": None}
        if self.reinject:
            unsure = undecided(calibration, self.confidence)
            about |= {"confidence": self.confidence, "undecided": len(unsure)}
            means["image"] = off.T @ (off @ unsure.double().mean(dim=0))
            if len(calibration.words):
                means["text"] = off.T @ (off @ calibration.words.double().mean(dim=0))
        return FittedLinear(
            LinearEraser(matrix, means["image"]) if self.side in ("image", "both") else None,
            LinearEraser(matrix, means["text"]) if self.side in ("text", "both") else None,
            {**about, "side": self.side},
        )


def removed_directions(calibration: Calibration, rounds: int) -> Tensor:
    """[r, D] float64 orthonormal basis of what the classifiers of all rounds read the group from."""
    removed = torch.empty(0, calibration.width, dtype=torch.float64)
    for _ in range(rounds):
        left = calibration.image.double() @ projection_off(removed)
        weight = fit_softmax(left, calibration.group, calibration.groups).weight
        # Adding one vector to all groups' weights changes no prediction: what they have in common is no direction.
        new = basis((weight - weight.mean(dim=0)) @ projection_off(removed))
        removed = torch.cat([removed, new])
    return removed


def undecided(calibration: Calibration, confidence: float) -> Tensor:
    """[u, D] the pictures whose group a classifier, fitted to others, names with less than this probability.

    Raises:
        ModelError: where there is none.
    """
    sure = out_of_fold(calibration.image, calibration.group, calibration.groups, seed=calibration.seed).amax(dim=1)
    found = calibration.image[sure < confidence]
    if not len(found):
        raise ModelError(f"a classifier is sure of every picture's group beyond {confidence:g}; raise confidence")
    return found
