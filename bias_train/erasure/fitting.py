"""Fitting an eraser to a calibration split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bias_train.embeddings import Embeddings
from bias_train.erasure.calibration import balanced_rows
from bias_train.errors import RunError
from models.erasure import LinearEraser, displacements, fit_correction, fit_leace, fit_projection


@dataclass(frozen=True)
class ErasureSpec:
    """How to fit.

    Attributes:
        method: "leace" (arXiv 2306.03819), "projection" on the complement of the displacement between the sources, or
            "correction" of the scores, which needs queries (see :func:`models.erasure.fit_correction`).
        rank: of the projection.
        affine: LEACE keeps the mean; such an eraser cannot be folded into a checkpoint.
        per_generator: LEACE with a label for each generator instead of one for all.
        shrinkage: LEACE estimates the covariance with shrinkage.
        rounds: LEACE fitted anew to what renormalising has brought back, see :func:`models.erasure.fit_leace`.
        seed: of the pictures chosen where sources are unequal.
    """

    method: Literal["leace", "projection", "correction"] = "leace"
    rank: int = 1
    affine: bool = False
    per_generator: bool = False
    shrinkage: bool = True
    rounds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ("leace", "projection", "correction"):
            raise RunError(f"the erasure method is {self.method!r}; choose leace, projection or correction")
        if self.rank < 1:
            raise RunError(f"the erasure's rank is {self.rank}; give 1 or more")
        if self.method != "projection" and self.rank != 1:
            raise RunError("rank belongs to the projection; LEACE takes one direction, or one for each generator")
        if self.method != "leace" and (self.affine or self.per_generator or self.rounds != 1):
            raise RunError("affine, per_generator and rounds belong to LEACE")
        if self.rounds < 1 or (self.affine and self.rounds > 1):
            raise RunError(f"the erasure takes 1 round or more, one alone where it is affine, not {self.rounds}")


def fit_eraser(calibration: Embeddings, spec: ErasureSpec, every_query: Tensor | None = None) -> LinearEraser:
    """Fit at strength 1.

    Args:
        calibration: pictures of both sources; a correction needs queries too.
        spec: how.
        every_query: [P, D] queries that a correction is to move alike, such as all class prompts, where the calibration
            has pictures of some classes alone; None for the calibration's.

    Returns:
        The eraser, its metadata saying on what it was fitted.

    Raises:
        RunError, ModelError: where a source is missing or there is nothing to erase.
    """
    rows = balanced_rows(calibration, spec.seed)
    x, source = calibration.image[rows], calibration.image_source[rows]
    if not (source > 0).any() or (source > 0).all():
        raise RunError("an eraser is fitted on real and generated pictures, but the calibration has one source alone")
    if spec.method == "leace":
        eraser = fit_leace(
            x,
            torch.from_numpy(source),
            affine=spec.affine,
            per_generator=spec.per_generator,
            shrinkage=spec.shrinkage,
            rounds=spec.rounds,
        )
    elif spec.method == "correction":
        if calibration.text is None:
            raise RunError(
                "a correction of scores needs queries, but there are pictures alone; use leace or projection"
            )
        eraser = fit_correction(
            x,
            torch.from_numpy(calibration.image_target[rows]),
            torch.from_numpy(source),
            calibration.text,
            torch.from_numpy(calibration.query_target),
            every_query,
        )
    else:
        target = torch.from_numpy(calibration.image_target[rows])
        found = displacements(x, target, torch.from_numpy(source), calibration.relevance)
        eraser = fit_projection(found, spec.rank)
    counts = np.bincount(source, minlength=len(calibration.sources)).tolist()
    fitted: dict[str, Any] = {
        "pictures": dict(zip(calibration.sources, counts, strict=True)),
        "targets": len(np.unique(calibration.image_target[rows])),
        "relevance": calibration.relevance,
        "seed": spec.seed,
    }
    versions = {"torch": torch.__version__, "bias-train": version("bias-train")}
    return replace(eraser, metadata={**eraser.metadata, "fitted_on": fitted, "versions": versions})
