"""What of a bias reaches the ranking: Relative Delta and win rate of one gallery, before and after a change to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bias_train.embeddings import Embeddings
from bias_train.metrics.functional.ranking import score_chunks
from bias_train.metrics.functional.ratios import relative_delta
from bias_train.metrics.functional.source import source_bias
from bias_train.stats import Bootstrap, Floats, Interval, cluster_totals, clustered_bootstrap, paired_difference

LABEL_CUTOFF = 100


@dataclass(frozen=True)
class Outcome:
    """A figure of a ranking.

    Attributes:
        name: "relative_delta_R@1" and "pair_win_rate" for pairs, "relative_delta_R@<k>" and "win_rate" for classes.
        value: the figure.
        low: lower end of its interval.
        high: upper end.
    """

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Gallery:
    """One gallery's figures.

    Attributes:
        outcomes: Relative Delta first, then the win rate; empty where no query is answered by both sources.
        totals: what :func:`pair_totals` gave; None for classes.
    """

    outcomes: list[Outcome]
    totals: Floats | None = None


def measure_gallery(embeddings: Embeddings, image: Tensor, bootstrap: Bootstrap) -> Gallery:
    """Measure a gallery's bias.

    Args:
        embeddings: queries and labels.
        image: [M, D] what to rank in the place of the set's own pictures.
        bootstrap: of the intervals.
    """
    if embeddings.text is None:
        return Gallery([])
    if embeddings.relevance == "pair":
        totals = pair_totals(embeddings, image)
        return (
            Gallery([], None)
            if totals is None
            else Gallery(_named(clustered_bootstrap(totals, _pair_figures, bootstrap)), totals)
        )
    cutoff = min(LABEL_CUTOFF, max(1, len(image) // 10))
    figures = source_bias(
        embeddings.text, image,
        torch.from_numpy(embeddings.query_target), torch.from_numpy(embeddings.image_target),
        torch.from_numpy(embeddings.image_source),
        ks=(cutoff,), relevance="label", bootstrap=bootstrap,
    )  # fmt: skip
    wanted = (f"relative_delta_R@{cutoff}", "win_rate")
    by_name = {figure.key: figure for figure in figures}
    chosen = [by_name[name] for name in wanted if name in by_name]
    return Gallery([Outcome(figure.key, figure.value, figure.low, figure.high) for figure in chosen])


def change(before: Gallery, after: Gallery, bootstrap: Bootstrap) -> list[Outcome]:
    """Measure the difference after - before of two galleries of one set, on the same resamples.

    Empty without pairs: classes have no units that both galleries share but the pictures themselves, so that the
    difference has no interval here.
    """
    if before.totals is None or after.totals is None:
        return []
    return _named(paired_difference(after.totals, before.totals, _pair_figures, bootstrap))


def _named(found: Interval) -> list[Outcome]:
    return [
        Outcome(name, float(found.value[f]), float(found.low[f]), float(found.high[f]))
        for f, name in enumerate(("relative_delta_R@1", "pair_win_rate"))
    ]


def _pair_figures(sums: Floats) -> Floats:
    delta = relative_delta(sums[..., 0], sums[..., 1])
    win = np.divide(sums[..., 2], sums[..., 3], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 3] > 0)
    return np.stack([delta, win], axis=-1)


def pair_totals(embeddings: Embeddings, image: Tensor) -> Floats | None:
    """Sum the queries' outcomes by photo.

    Queries count whose target has exactly one photo and at least one twin; a random twin stands for several. Ties are
    taken in expectation over random order.

    Returns:
        [targets asked for, 4] sums of: the photo is first, the twin is first, the twin scores above the photo, 1; all
        zero for a target whose queries do not count. None where no query does.
    """
    if embeddings.text is None or embeddings.relevance != "pair":
        return None
    own = _own_pictures(embeddings)
    rows = np.flatnonzero([target in own for target in embeddings.query_target.tolist()])
    if len(rows) == 0:
        return None
    target = embeddings.query_target[rows]
    index = np.full((len(rows), max(map(len, own.values()))), -1, dtype=np.int64)
    for row, scene in enumerate(target.tolist()):
        index[row, : len(own[scene])] = own[scene]
    table = torch.from_numpy(index)
    sums = np.zeros((len(embeddings.query_target), 4))
    for part, scores in score_chunks(embeddings.text[torch.from_numpy(rows)], image):
        place = table[part]
        own_scores = scores.gather(1, place.clamp(min=0))
        best = scores.max(dim=1, keepdim=True).values
        first = (own_scores == best).double() / (scores == best).sum(dim=1, keepdim=True)
        win = (own_scores > own_scores[:, :1]).double() + 0.5 * (own_scores == own_scores[:, :1]).double()
        there = (place >= 0).double()[:, 1:]
        share = there / there.sum(dim=1, keepdim=True)
        found = [
            first[:, 0],
            (share * first[:, 1:]).sum(dim=1),
            (share * win[:, 1:]).sum(dim=1),
            torch.ones(len(place)),
        ]
        sums[rows[part]] = torch.stack([column.double() for column in found], dim=1).numpy()
    return cluster_totals(sums, embeddings.query_target)


def _own_pictures(embeddings: Embeddings) -> dict[int, list[int]]:
    """Rows of each target's one photo and its twins, the photo first."""
    photos: dict[int, list[int]] = {}
    twins: dict[int, list[int]] = {}
    for row, (target, code) in enumerate(
        zip(embeddings.image_target.tolist(), embeddings.image_source.tolist(), strict=True)
    ):
        if target >= 0:
            (twins if code else photos).setdefault(target, []).append(row)
    return {target: [*rows, *twins[target]] for target, rows in photos.items() if len(rows) == 1 and target in twins}
