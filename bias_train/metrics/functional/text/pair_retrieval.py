"""Ordinary retrieval in both directions beside what a random order of the same gallery has.

For ordinary pairs, and for a *reading* set, whose captions are about the text in the pictures: a retriever that has
lost its sight of letters has no reading bias, and finds no sign by what it says either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bias_train.metrics.functional.object.clean_retrieval import clean_retrieval
from bias_train.metrics.functional.text.drawn import FLOOR, Drawn, apart, drawn_means
from bias_train.stats import Bootstrap, Floats, Ints

T2I, I2T = "t2i", "i2t"


@dataclass(frozen=True)
class Hits:
    """R@k of every query in both directions.

    Attributes:
        ks: K cut-offs.
        values: by direction, [Q, K] float64; NaN for a query without an answer.
        cluster: by direction, [Q] int64 targets, which are resampled.
        floor: by direction, [Q, K], the same in a random order.
    """

    ks: tuple[int, ...]
    values: dict[str, Floats]
    cluster: dict[str, Ints]
    floor: dict[str, Floats]


def pair_hits(
    image: Tensor,
    text: Tensor,
    image_target: Tensor,
    text_target: Tensor,
    ks: Sequence[int] = (1,),
    chunk_size: int | None = None,
) -> Hits:
    """Hits of captions among pictures ("t2i") and of pictures among captions ("i2t").

    Args:
        image: [N, D] float embeddings. Scores are dot products.
        text: [M, D].
        image_target: [N] integers; a picture answers the captions of its target.
        text_target: [M].
        ks: cut-offs; beyond the gallery they are capped.
        chunk_size: queries scored at once; None chooses by memory.

    Raises:
        ValueError: for embeddings or ids that do not fit.
    """
    ks = tuple(dict.fromkeys(ks))
    sides = {T2I: (text, image, text_target, image_target), I2T: (image, text, image_target, text_target)}
    values, cluster, floor = {}, {}, {}
    for direction, rows in sides.items():
        found = clean_retrieval(*rows, ks=ks, chunk_size=chunk_size)
        values[direction], cluster[direction] = found.values, found.cluster
        own, searched = (part.cpu().numpy() for part in rows[2:])
        targets, many = np.unique(searched, return_counts=True)
        place = np.minimum(np.searchsorted(targets, own), len(targets) - 1)
        answers = np.where(targets[place] == own, many[place], 0)
        floor[direction] = random_hits(answers, len(searched), ks)
    return Hits(ks, values, cluster, floor)


def random_hits(answers: Ints, items: int, ks: Sequence[int]) -> Floats:
    """Chance that one of a query's answers stands in the first k of a random order, 1 - C(M - r, k) / C(M, k).

    Args:
        answers: [Q] answers of each query, r.
        items: M of them are searched.
        ks: K cut-offs.

    Returns:
        [Q, K] float64; NaN for a query without an answer.

    >>> random_hits(np.array([1, 2, 0]), 4, (1, 2)).round(4).tolist()
    [[0.25, 0.5], [0.5, 0.8333], [nan, nan]]
    """
    r = torch.from_numpy(np.asarray(answers, dtype=np.float64))[:, None]
    k = torch.tensor([float(min(one, items)) for one in ks], dtype=torch.float64)
    rest = items - r
    log_missed = (
        torch.lgamma(rest + 1)
        - torch.lgamma((rest - k).clamp(min=0) + 1)
        + torch.lgamma(items - k + 1)
        - torch.lgamma(torch.tensor(items + 1.0, dtype=torch.float64))
    )
    missed = torch.where(rest < k, torch.zeros_like(log_missed), torch.exp(log_missed))
    return np.asarray(torch.where(r > 0, 1.0 - missed, torch.nan).numpy())


def pair_retrieval(
    prefix: str,
    image: Tensor,
    text: Tensor,
    image_target: Tensor,
    text_target: Tensor,
    *,
    ks: Sequence[int] = (1,),
    bootstrap: Bootstrap | None = None,
    chunk_size: int | None = None,
) -> list[Drawn]:
    """R@k in both directions with intervals over targets, and their floors.

    Args:
        prefix: begins the names: ``<prefix>_t2i_R@k``, ``<prefix>_t2i_R_floor@k``. It names the set that is resampled.
        image: [N, D], and the rest as in `pair_hits`.
        text: [M, D].
        image_target: [N].
        text_target: [M].
        ks: cut-offs.
        bootstrap: how; None for none.
        chunk_size: queries scored at once.

    Raises:
        ValueError: for embeddings or ids that do not fit.
    """
    hits = pair_hits(image, text, image_target, text_target, ks, chunk_size)
    draws = apart(bootstrap, prefix)
    return [one for way in (T2I, I2T) for one in hit_figures(hits, way, f"{prefix}_{way}_R", draws)]


def hit_figures(hits: Hits, direction: str, name: str, bootstrap: Bootstrap | None) -> list[Drawn]:
    """R@k in one direction and its floor, of which a random order has no interval.

    Args:
        hits: in both directions.
        direction: which.
        name: of the figure.
        bootstrap: how, with the draws of this set; None for none.
    """
    values, cluster = hits.values[direction], hits.cluster[direction]
    missing = int(np.isnan(values[:, 0]).sum())
    items = len(hits.values[I2T if direction == T2I else T2I])
    note = f"among {items:,}; ties in expectation"
    note += f"; {missing} queries without an answer left out" if missing else ""
    names = [(name, k) for k in hits.ks]
    found = drawn_means(names, values, cluster, bootstrap, [note] * len(names))
    floors = [(f"{name}{FLOOR}", k) for k in hits.ks]
    return found + drawn_means(floors, hits.floor[direction], cluster, None, ["a random order"] * len(names))
