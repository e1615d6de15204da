"""Looks whether an object is gone: by a retriever's score, against pictures that never had it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from datamodules.errors import DataError

QUANTILE = 0.95
FEWEST = 20  # pictures without an object that its threshold needs


class Scorer(Protocol):
    """Scores pictures for categories; a retriever's cosine with "a photo of a dog", or a detector's confidence."""

    @property
    def name(self) -> str:
        """What it is, for the record."""

    def __call__(self, pictures: Sequence[Image.Image]) -> npt.NDArray[np.floating]:
        """Score pictures: [n, C], higher where the category is seen; columns in the vocabulary's order."""


class Verifier:
    """Decides whether an object is gone.

    It is where the edited picture's score for the object is below the 95th percentile of pictures that neither show nor
    mention it. What verifies should not be the model that is trained on the result: it would keep what this model is
    blind to.

    Args:
        scorer: scores pictures.
        reference: [n, C] scores of unedited pictures.
        absent: [n, C] whether each of them neither shows nor mentions the category.

    Raises:
        DataError: if the scores are not of that shape, or not finite.
    """

    def __init__(self, scorer: Scorer, reference: npt.NDArray[np.floating], absent: npt.NDArray[np.bool_]) -> None:
        if reference.shape != absent.shape or not np.isfinite(reference).all():
            raise DataError(
                f"{scorer.name}: scores of shape {reference.shape} for {absent.shape}, which must be equal and finite"
            )
        self.scorer = scorer
        self.thresholds = np.full(reference.shape[1], np.nan)
        for column in range(reference.shape[1]):
            scores = reference[absent[:, column], column]
            if len(scores) >= FEWEST:
                self.thresholds[column] = np.quantile(scores, QUANTILE)

    def __call__(self, pictures: Sequence[Image.Image], columns: Sequence[int]) -> list[dict[str, Any]]:
        """Verify edited pictures.

        Args:
            pictures: with an object taken out each.
            columns: numbers of the objects' categories.

        Returns:
            For each ``{"by", "score", "threshold", "gone"}``; ``gone`` is None where too few pictures lack the object
            for a threshold.
        """
        if not pictures:
            return []
        scores = self.scorer(pictures)
        found = []
        for row, column in enumerate(columns):
            score, threshold = float(scores[row, column]), float(self.thresholds[column])
            known = np.isfinite(threshold)
            found.append(
                {
                    "by": self.scorer.name,
                    "score": score,
                    "threshold": threshold if known else None,
                    "gone": score < threshold if known else None,
                }
            )
        return found
