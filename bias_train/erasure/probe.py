"""How well a linear classifier tells generated pictures from real ones, by their embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bias_train.linear_probe import fit_probe, folds_of
from bias_train.stats import Floats, Ints


@dataclass(frozen=True)
class Separability:
    """Area under the ROC curve of a probe on vectors that it was not trained on; 0.5 is chance.

    Attributes:
        auc: over all held-out vectors.
        low: lower end of its 95 % interval (DeLong et al. 1988), which takes the probe as given; over folds, whose
            probes share vectors, it is somewhat narrow.
        high: upper end.
        real: held-out real pictures.
        generated: held-out generated pictures.
    """

    auc: float
    low: float
    high: float
    real: int
    generated: int


def separability(x: Tensor, generated: NDArray[np.bool_], group: Ints, folds: int = 5, seed: int = 0) -> Separability:
    """Train probes on all folds but one, score that one, and pool the scores fold by fold.

    Pictures of one group (a scene with its twins, the pictures of one prompt) stay in one fold, so that a probe cannot
    know a picture by its kin. The AUC compares pairs within a fold only, since scores of two probes have no common
    scale.

    Args:
        x: [n, D] float embeddings.
        generated: [n].
        group: [n] int64; pictures of group -1 are each on their own.
        folds: as few as 2.
        seed: of the folds.

    Returns:
        NaN throughout where no fold can hold both sources.
    """
    alone = np.where(group < 0, group.max(initial=0) + 1 + np.arange(len(group)), group)
    fold = folds_of(alone, generated, folds, seed)
    vectors = x.double().numpy()
    wins: list[tuple[Floats, Floats]] = []
    for number in range(folds):
        test = fold == number
        trained, tested = generated[~test], generated[test]
        if trained.all() or not trained.any() or tested.all() or not tested.any():
            continue
        scores = vectors[test] @ fit_probe(vectors[~test], trained)
        wins.append(_wins(scores[tested], scores[~tested]))
    return _pooled(wins)


def transferred(train: tuple[Tensor, NDArray[np.bool_]], test: tuple[Tensor, NDArray[np.bool_]]) -> Separability:
    """Train a probe on some vectors and score others: ([n, D], generated [n]) and ([m, D], generated [m])."""
    (x, generated), (other, truth) = train, test
    scores = other.double().numpy() @ fit_probe(x.double().numpy(), generated)
    return _pooled([_wins(scores[truth], scores[~truth])])


def _wins(generated: Floats, real: Floats) -> tuple[Floats, Floats]:
    """Each picture's share of the pairs in which the generated one scores higher, half for a tie: [g] and [r]."""

    def below(scores: Floats, others: Floats) -> Floats:
        ordered = np.sort(others)
        placed = [np.searchsorted(ordered, scores, side=side) for side in ("left", "right")]
        return np.asarray((placed[0] + placed[1]) / (2.0 * len(others)))

    return below(generated, real), 1.0 - below(real, generated)


def _pooled(folds: list[tuple[Floats, Floats]]) -> Separability:
    """Mean over all pairs, and its standard error from the spread of each picture's own share (DeLong)."""
    pairs = sum(len(own) * len(other) for own, other in folds)
    if pairs == 0:
        return Separability(np.nan, np.nan, np.nan, 0, 0)
    auc = variance = 0.0
    for own, other in folds:
        share = len(own) * len(other) / pairs
        auc += share * float(own.mean())
        variance += share**2 * sum(float(part.var(ddof=1)) / len(part) for part in (own, other) if len(part) > 1)
    half = 1.959964 * variance**0.5
    generated, real = (sum(len(fold[side]) for fold in folds) for side in (0, 1))
    return Separability(auc, max(0.0, auc - half), min(1.0, auc + half), real, generated)
