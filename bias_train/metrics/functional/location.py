"""How much of a bias is explained by one source simply being easier to find on its own.

The location-corrected Relative Delta of the authors of "Generative Ghost" (arXiv 2502.07327, their code): each source
is ranked in a corpus of its own, the two lists are interleaved in both orders (real first: ranks 2r - 1 and 2r;
generated first: 2r and 2r - 1), the measure is averaged over the two arrangements, and the ratio is formed from the
averages.
What the mixed gallery shows beyond it is the normalised Delta: mixed minus location-corrected.

The expectation over ties, and intervals, are ours. So is the aggregate's form: the mean of the differences; the
released script divides its three-metric aggregate wrongly.
"""

from __future__ import annotations

import numpy as np

from bias_train.metrics.functional.ratios import Combine, Spec, mean, relative_delta
from bias_train.metrics.functional.shared_ranking import Placement
from bias_train.metrics.functional.source_columns import PAPER_IDEAL, SIDES, SourceTask
from bias_train.stats import Floats


def hit_by_rank(k: int) -> Floats:
    """[k] a hit in the top k, by rank: all ones."""
    return np.ones(k)


def gain_by_rank(k: int) -> Floats:
    """[k] discount 1/log2(1 + rank)."""
    return np.asarray(1.0 / np.log2(np.arange(2, k + 2)), dtype=np.float64)


def interleaved(by_rank: Floats) -> Floats:
    """A function of the rank in the interleaved list, as one of the rank in the source's own list.

    Args:
        by_rank: [K] the function at ranks 1..K, zero beyond.

    Returns:
        [ceil(K / 2)] its mean over the two arrangements: over the ranks 2r - 1 and 2r.

    R@3 of an interleaved list is the mean of R@2 (ranks 1 and 3) and R@1 (rank 2) of the own list:

    >>> interleaved(np.ones(3))
    array([1. , 0.5])
    """
    padded = np.concatenate([by_rank, np.zeros(len(by_rank) % 2)])
    return padded.reshape(-1, 2).mean(axis=1)


def location_columns(task: SourceTask, alone: tuple[Placement, Placement]) -> dict[str, Floats]:
    """Per-query measures of each source in a corpus of its own, and in the interleaved lists.

    Args:
        task: the mixed gallery's evaluation, with pair relevance.
        alone: placements of each query's pictures in the real and in the generated part of that gallery; a random
            twin stands for several.

    Returns:
        ``alone_R_real@k``, ``location_R_real@k`` and so on for both sources and NDCG, and ``alone_rank_real`` (the
        mid-rank), [Q] each, zero for queries that do not count.
    """
    columns: dict[str, Floats] = {}
    ideal = PAPER_IDEAL if task.mode == "paper" else 1.0
    for source, place in zip(SIDES, alone, strict=True):
        share = place.there / np.maximum(place.there.sum(axis=1, keepdims=True), 1) * task.answered[:, None]

        def over_twins(values: Floats, share: Floats = share) -> Floats:
            return np.asarray((share * values).sum(axis=1))

        columns[f"alone_rank_{source}"] = over_twins(np.nan_to_num(place.ranks()))
        for k in task.ks:
            for name, by_rank in (("R", hit_by_rank(k)), ("NDCG", gain_by_rank(k) / ideal)):
                columns[f"alone_{name}_{source}@{k}"] = over_twins(place.expected(by_rank))
                columns[f"location_{name}_{source}@{k}"] = over_twins(place.expected(interleaved(by_rank)))
    return columns


def location_specs(task: SourceTask, note: str = "") -> list[Spec]:
    """Figures of the sources alone and of the location correction, from `location_columns` and the mixed columns.

    - ``alone_M_real``, ``alone_M_generated``: the measure in a corpus of that source alone.
    - ``parity_R``: the difference of the two, photos minus generated.
    - ``location_delta_M``: the Relative Delta of the interleaved lists.
    - ``normalised_delta_M``: the mixed gallery's Relative Delta minus it.
    - the last two also for the inverse of the mean rank.
    """
    if not task.answered.any():
        return []
    specs: list[Spec] = []

    def add(name: str, k: int | None, parts: list[str], combine: Combine = mean) -> None:
        quotients = tuple((part, "answered") for part in parts)
        specs.append(Spec(name, k, quotients, combine, by_slot=True, note=note))

    for measure in ("R", "NDCG"):
        for k in task.ks:
            alone, location, mixed = (
                [f"{prefix}{measure}_{source}@{k}" for source in SIDES] for prefix in ("alone_", "location_", "")
            )
            for source, part in zip(SIDES, alone, strict=True):
                add(f"alone_{measure}_{source}", k, [part])
            if measure == "R":
                add("parity_R", k, alone, np.subtract)
            add(f"location_delta_{measure}", k, location, relative_delta)
            add(f"normalised_delta_{measure}", k, mixed + location, normalised_delta)
    mixed, alone = ([f"{prefix}rank_{source}" for source in SIDES] for prefix in ("", "alone_"))
    add("relative_delta_inverse_mean_rank", None, mixed, inverse_rank_delta)
    add("location_delta_inverse_mean_rank", None, alone, interleaved_inverse_rank_delta)
    add(
        "normalised_delta_inverse_mean_rank",
        None,
        mixed + alone,
        lambda a, b, c, d: inverse_rank_delta(a, b) - interleaved_inverse_rank_delta(c, d),
    )
    return specs


def normalised_delta(real: Floats, generated: Floats, location_real: Floats, location_generated: Floats) -> Floats:
    """The mixed gallery's Relative Delta minus the location-corrected one."""
    return relative_delta(real, generated) - relative_delta(location_real, location_generated)


def inverse_rank_delta(real: Floats, generated: Floats) -> Floats:
    """Relative Delta of inverse mean (or median) ranks, which are at least 1.

    >>> inverse_rank_delta(np.array(2.0), np.array(1.0)).round(3)
    np.float64(-66.667)
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return relative_delta(1.0 / real, 1.0 / generated)


def interleaved_inverse_rank_delta(real: Floats, generated: Floats) -> Floats:
    """The same of the interleaved lists, from the mean (or median) ranks in the sources' own corpora.

    Mean and median follow the ranks through 2r - 1 and 2r; the two inverses are averaged before the ratio is formed.
    """

    def averaged(rank: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (1.0 / (2.0 * rank - 1.0) + 1.0 / (2.0 * rank)) / 2.0

    return relative_delta(averaged(real), averaged(generated))
