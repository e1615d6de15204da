"""Whether a linear probe tells generated pictures from photos by their embeddings, and whether chance would, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bias_train.linear_probe import Bools, folds_of, mean_difference, weighted_auc, whitening
from bias_train.stats import Bootstrap, Floats, Ints, interval, resample_counts


@dataclass(frozen=True)
class ProbeResult:
    """Area under the ROC curve of the probe: the share of (photo, generated) pairs in the right order.

    Attributes:
        auc: mean over folds, weighted by their pairs; 0.5 is chance.
        low: lower end of its interval, given the fitted probes.
        high: upper end.
        null_high: 95 % quantile of the AUC with permuted sources.
        p: share of permutations that reach the AUC, (1 + #) / (B + 1).
        real: photos.
        generated: generated pictures.
        folds: of the cross-validation.
        groups: groups that folds keep together.
    """

    auc: float
    low: float
    high: float
    null_high: float
    p: float
    real: int
    generated: int
    folds: int
    groups: int


def permuted_labels(generated: Bools, group: Ints, draws: int, rng: np.random.Generator) -> Bools:
    """Permute sources as they would be exchangeable without a bias.

    Labels move within a group that holds both sources (a photo and its twins, a class). Groups of one source (pictures
    of one prompt) exchange theirs as wholes, since their pictures are not independent.

    Args:
        generated: [n].
        group: [n] from 0.
        draws: how many.
        rng: draws them.

    Returns:
        [draws, n] bool.
    """
    size, made = np.bincount(group), np.bincount(group, weights=generated)
    mixed = ((made > 0) & (made < size))[group]
    drawn = np.empty((draws, len(group)), dtype=np.bool_)
    order = np.argsort(group[mixed], kind="stable")
    rows = np.flatnonzero(mixed)[order]
    keys = group[rows] + rng.random((draws, len(rows)))
    drawn[:, rows] = generated[rows][np.argsort(keys, axis=1, kind="stable")]
    pure, dense = np.unique(group[~mixed], return_inverse=True)
    labels = rng.permuted(np.broadcast_to(made[pure] > 0, (draws, len(pure))), axis=1)
    drawn[:, ~mixed] = labels[:, dense]
    return drawn


def probe(
    image: Floats,
    generated: Bools,
    group: Ints,
    *,
    strata: Ints | None = None,
    folds: int = 5,
    bootstrap: Bootstrap | None = None,
    permutations: int = 1000,
    seed: int = 0,
) -> ProbeResult | None:
    """Cross-validate the probe.

    Args:
        image: [n, D] float64.
        generated: [n].
        group: [n] pictures of one group (a photo and its twins, a class, pictures of one prompt) are in one fold.
        strata: [n] resample pictures within these instead of groups: for a few classes, each of many pictures.
        folds: of the cross-validation.
        bootstrap: of the interval. Probes stay as they were fitted: it says how exact the AUC of these is, not how it
            would vary with other training pictures.
        permutations: of the test against chance, which fits every probe anew.
        seed: of the folds and of the permutations.

    Returns:
        None where no fold has both sources on both sides: with fewer than two groups, say.
    """
    bootstrap = bootstrap or Bootstrap()
    ids, dense = np.unique(group, return_inverse=True)
    fold = folds_of(dense, generated, min(folds, len(ids)), seed)
    parts = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(min(folds, len(ids)))]
    parts = [part for part in parts if all(0 < int(generated[rows].sum()) < len(rows) for rows in part)]
    if not parts:
        return None
    # Centred, which no score's order depends on, so that scores keep their digits.
    image = image - image.mean(axis=0)
    inverses = [whitening(image[train]) for train, _ in parts]
    scores = [
        (test, image[test] @ (inverse @ mean_difference(image[train], generated[train])))
        for (train, test), inverse in zip(parts, inverses, strict=True)
    ]

    def auc(weight: Floats) -> Floats:
        sums = np.sum([weighted_auc(score, generated[rows], weight[..., rows]) for rows, score in scores], axis=0)
        return _ratio(sums)[..., None]

    def null(labels: Bools) -> Floats:
        sums = np.zeros((len(labels), 2))
        for (train, test), inverse in zip(parts, inverses, strict=True):
            directions = mean_difference(image[train], labels[:, train]) @ inverse
            sums += _row_auc(directions @ image[test].T, labels[:, test])
        return _ratio(sums)

    units = len(ids) if strata is None else len(group)
    draws = [
        auc((counts[:, dense] if strata is None else counts).astype(np.float64))
        for counts in _draws(units, strata, bootstrap)
    ]
    value = auc(np.ones(len(group)))
    ends = interval(value, np.concatenate(draws), bootstrap)
    rng = np.random.default_rng(seed)
    shares = [min(_ROWS, permutations - done) for done in range(0, permutations, _ROWS)]
    chance = np.concatenate([null(permuted_labels(generated, dense, share, rng)) for share in shares])
    return ProbeResult(
        float(value[0]), float(ends.low[0]), float(ends.high[0]),
        float(np.nanquantile(chance, 0.95)),
        float((1 + (chance >= value[0] - 1e-12).sum()) / (permutations + 1)),
        int((~generated).sum()), int(generated.sum()), len(parts), len(ids),
    )  # fmt: skip


def _ratio(sums: Floats) -> Floats:
    return np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0)


def _row_auc(score: Floats, generated: Bools) -> Floats:
    """[B, 2] as `weighted_auc`, for scores and labels [B, n] that differ from row to row."""
    order = np.argsort(score, axis=1)
    made = np.take_along_axis(generated, order, axis=1)
    ordered = np.take_along_axis(score, order, axis=1)
    place = np.broadcast_to(np.arange(score.shape[1]), score.shape)
    # Mid-ranks: pictures that are equal have equal scores.
    new = np.concatenate([np.ones((len(score), 1), dtype=np.bool_), ordered[:, 1:] > ordered[:, :-1]], axis=1)
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    ends = np.concatenate([new[:, 1:], np.ones((len(score), 1), dtype=np.bool_)], axis=1)
    last = np.minimum.accumulate(np.where(ends, place, score.shape[1])[:, ::-1], axis=1)[:, ::-1]
    count = made.sum(axis=1)
    ranks = (np.where(made, 0.5 * (first + last), 0.0)).sum(axis=1)
    pairs = count * (score.shape[1] - count)
    return np.stack([ranks - count * (count - 1) / 2, pairs], axis=1).astype(np.float64)


# Permutations or resamples of all pictures at once.
_ROWS = 64


def _draws(units: int, strata: Ints | None, bootstrap: Bootstrap) -> Iterator[Ints]:
    """Resamples as counts, in small blocks, since each becomes weights of all pictures."""
    for block in resample_counts(units, bootstrap, strata):
        yield from np.array_split(block, max(1, len(block) // _ROWS))
