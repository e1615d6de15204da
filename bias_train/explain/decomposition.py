"""The score gap between sources, split exactly into a common direction's share and the rest.

With displacement ``d_i = a_i - r_i`` of twin and photo and the mean displacement ``d``, a query's gap is
``q . d_i = q . d + q . (d_i - d)``. The first term belongs to the source: projecting ``d`` out of all pictures removes
it. The second belongs to the pair (the twin was drawn from the query's own captions, say) and stays. (Ours.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bias_train.embeddings import Embeddings
from bias_train.explain.units import Units, differences, units_of
from bias_train.stats import Bootstrap, Floats, Interval, cluster_totals, clustered_bootstrap, interval, resample_counts


@dataclass(frozen=True)
class Decomposition:
    """Mean score gap, generated minus real, over the queries that both sources answer.

    Attributes:
        gap: whole gap, with its interval (value, low, high), as the next two. Above zero: generated pictures score
            higher.
        common: of it, along the mean displacement.
        specific: of it, the rest; ``common + specific == gap``.
        share: ``common / gap``; unstable where the gap's interval reaches zero.
        queries: how many.
        units: photos (or classes).
    """

    gap: tuple[float, float, float]
    common: tuple[float, float, float]
    specific: tuple[float, float, float]
    share: tuple[float, float, float]
    queries: int
    units: int


def decompose(
    embeddings: Embeddings, generators: tuple[int, ...] = (), bootstrap: Bootstrap | None = None
) -> Decomposition | None:
    """Split the gap.

    Every resample has its own mean displacement. Pairs: photos are resampled with their captions and twins. Classes:
    pictures are resampled within class and generator, and classes weigh alike.

    Args:
        embeddings: pictures with queries.
        generators: source codes that count; all without any.
        bootstrap: of the intervals.

    Returns:
        None without queries, or where no unit has any.
    """
    if embeddings.text is None:
        return None
    units = units_of(embeddings, generators)
    asked = np.isin(embeddings.query_target, units.target)
    if units.kind == "whole" or not asked.any():
        return None
    text = embeddings.text.numpy()[asked].astype(np.float64)
    unit = np.searchsorted(units.target, embeddings.query_target[asked])
    bootstrap = bootstrap or Bootstrap()
    found = _by_pair(units, text, unit, bootstrap) if units.kind == "pair" else _by_class(units, text, unit, bootstrap)
    gap, common, specific, share = (
        (float(found.value[f]), float(found.low[f]), float(found.high[f])) for f in range(4)
    )
    return Decomposition(gap, common, specific, share, int(asked.sum()), len(units))


def without_common(embeddings: Embeddings, *, seed: int = 0) -> Tensor:
    """Take the common displacement out of generated pictures, to see what of a ranking's bias is left.

    Each generator has its own. A picture's is the mean over the half of the units that it is not in, so that what goes
    is what a unit shares with others, and nothing of its own.

    Args:
        embeddings: the set.
        seed: of the halves.

    Returns:
        [M, D] float32 all pictures; those of a generator with fewer than two units stay as they are.
    """
    image = embeddings.image.double().clone()
    for code in np.unique(embeddings.image_source[embeddings.generated]).tolist():
        units = units_of(embeddings, (code,))
        if len(units) < 2:
            continue
        displacement = differences(units)
        half = np.random.default_rng(seed).permutation(np.arange(len(units)) % 2)
        means = np.stack([displacement[half != side].mean(axis=0) for side in (0, 1)])
        made = units.code > 0
        image[torch.from_numpy(units.row[made])] -= torch.from_numpy(means[half[units.unit[made]]])
    return image.float()


def _parts(gap: Floats, common: Floats) -> Floats:
    share = np.divide(common, gap, out=np.full_like(gap, np.nan), where=gap != 0)
    return np.stack([gap, common, gap - common, share], axis=-1)


def _by_pair(units: Units, text: Floats, unit: np.ndarray, bootstrap: Bootstrap) -> Interval:
    displacement = differences(units)
    width = text.shape[1]
    gaps = (text * displacement[unit]).sum(axis=1)
    # Of every photo: its queries' gaps, their number, their sum, its displacement, and itself.
    rows = np.concatenate([gaps[:, None], np.ones((len(gaps), 1)), text], axis=1)
    asked = np.zeros((len(units), 2 + width))
    asked[np.unique(unit)] = cluster_totals(rows, unit)
    totals = np.concatenate([asked, displacement, np.ones((len(units), 1))], axis=1)

    def statistic(sums: Floats) -> Floats:
        queries = sums[..., 1:2]
        query, mean = sums[..., 2 : 2 + width] / queries, sums[..., 2 + width : -1] / sums[..., -1:]
        return _parts(sums[..., 0] / queries[..., 0], (query * mean).sum(axis=-1))

    return clustered_bootstrap(totals, statistic, bootstrap)


def _by_class(units: Units, text: Floats, unit: np.ndarray, bootstrap: Bootstrap) -> Interval:
    asked = np.unique(unit)
    query = cluster_totals(text, unit) / np.bincount(unit)[asked][:, None]
    own = np.zeros((len(units), text.shape[1]))
    own[asked] = query
    mean_query = query.mean(axis=0)
    # Scores of each picture with its class's queries, and with the mean query.
    scores = np.stack([(units.image * own[units.unit]).sum(axis=1), units.image @ mean_query], axis=1)
    generated = units.code > 0
    answered = np.isin(units.unit, asked)
    strata = np.unique(np.stack([units.unit, units.code]), axis=1, return_inverse=True)[1].reshape(-1)

    def statistic(counts: Floats) -> Floats:
        """Of picture counts [..., M]."""
        means = []
        for made in (True, False):
            part = generated == made
            cell = np.zeros((int(part.sum()), len(units)))
            cell[np.arange(len(cell)), units.unit[part]] = 1.0
            weight = counts[..., part]
            size = weight @ cell
            means.append([(weight * scores[part, column]) @ cell / size for column in range(2)])
        gap, common = (means[0][column] - means[1][column] for column in range(2))
        # The gap is a mean over queried classes; the common direction one over all classes.
        queried = np.isin(np.arange(len(units)), asked)
        return _parts(gap[..., queried].mean(axis=-1), common.mean(axis=-1))

    assert answered.any()
    value = statistic(np.ones(len(generated)))
    blocks = resample_counts(len(generated), bootstrap, strata)
    draws = [
        statistic(part.astype(np.float64))
        for block in blocks
        for part in np.array_split(block, max(1, len(block) // 64))
    ]
    return interval(value, np.concatenate(draws), bootstrap)
