"""Ordinary retrieval beside a figure of object bias: a retriever that finds nothing has no bias either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.inputs import check_cutoffs, check_embeddings, check_ids
from bias_train.metrics.functional.object.query_means import Name, QueryMeans
from bias_train.metrics.functional.ranking import first_relevant, score_chunks
from bias_train.stats import Bootstrap, Floats, Ints


@dataclass(frozen=True)
class CleanRetrieval:
    """R@k of every query in one direction.

    Attributes:
        names: F columns, ("R", k).
        values: [Q, F] float64, chance that an answer stands in the first k; NaN for a query without an answer.
        cluster: [Q] int64, targets, which are resampled.
        bootstrap: how intervals are made, or None.
    """

    names: tuple[Name, ...]
    values: Floats
    cluster: Ints
    bootstrap: Bootstrap | None

    def minus(self, other: CleanRetrieval) -> CleanRetrieval:
        """The change from another retriever to this one, query by query.

        Raises:
            ValueError: for other queries or cut-offs.
        """
        if self.names != other.names or not np.array_equal(self.cluster, other.cluster):
            raise ValueError("the two sides hold other queries or cut-offs: measure both retrievers on the same set")
        return replace(self, values=self.values - other.values)

    def figures(self) -> list[Figure]:
        """R@k with intervals over targets."""
        nothing = np.zeros(len(self.values), dtype=np.int64)
        missing = int(np.isnan(self.values).any(axis=1).sum())
        note = "ties in expectation" + (f"; {missing} queries without an answer left out" if missing else "")
        return QueryMeans(self.values, nothing, self.cluster, self.bootstrap).overall(self.names, {"R": note})


def clean_retrieval(
    query: Tensor,
    gallery: Tensor,
    query_target: Tensor,
    gallery_target: Tensor,
    *,
    ks: Sequence[int] = (1, 5, 10),
    bootstrap: Bootstrap | None = None,
    chunk_size: int | None = None,
) -> CleanRetrieval:
    """R@k query by query, as `bias_train.metrics.functional.retrieval.retrieval` has it as a mean.

    Kept by query, so that the change between two retrievers has an interval of paired differences.

    Args:
        query: [Q, D] float embeddings. Scores are dot products.
        gallery: [M, D].
        query_target: [Q] integers; an item answers a query of its target.
        gallery_target: [M] integers.
        ks: cut-offs; beyond the gallery they are capped.
        bootstrap: how intervals are made; None for none.
        chunk_size: queries scored at once; None chooses by memory.

    Raises:
        ValueError: for embeddings or ids that do not fit.

    >>> found = clean_retrieval(torch.eye(2), torch.eye(2), torch.arange(2), torch.tensor([0, 5]), ks=(1,))
    >>> [figure.value for figure in found.figures()], found.values.tolist()
    ([1.0], [[1.0], [nan]])
    """
    check_embeddings(query=query, gallery=gallery)
    check_ids(len(query), "query", query_target=query_target)
    check_ids(len(gallery), "gallery", gallery_target=gallery_target)
    ks = tuple(dict.fromkeys(ks))
    check_cutoffs("ks", ks)
    targets, own = gallery_target.to(gallery.device), query_target.to(gallery.device)
    values = np.full((len(query), len(ks)), np.nan)
    for rows, scores in score_chunks(query, gallery, chunk_size):
        relevant = own[rows].unsqueeze(1) == targets
        first = first_relevant(scores, relevant)
        hits = torch.stack([first.hit(min(k, len(gallery))) for k in ks], dim=1)
        values[rows] = torch.where(relevant.any(dim=1, keepdim=True), hits, torch.nan).cpu().numpy()
    cluster = query_target.cpu().numpy().astype(np.int64)
    return CleanRetrieval(tuple(("R", k) for k in ks), values, cluster, bootstrap)
