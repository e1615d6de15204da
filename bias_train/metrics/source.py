"""Source bias as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bias_train.metrics.embedding import EmbeddingMetric, Rows
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.source import source_bias
from bias_train.metrics.functional.source_columns import Mode, Relevance
from bias_train.stats import Bootstrap


class SourceBias(EmbeddingMetric):
    """Modular form of `bias_train.metrics.functional.source.source_bias`, where the figures are described.

    Args:
        ks: cut-offs of R, NDCG, shares and Delta-NDSR.
        precision_ks: cut-offs of P.
        mode: ``"clean"`` or ``"paper"``.
        relevance: ``"auto"``, ``"pair"`` or ``"label"``.
        bootstrap: how intervals are made; None for none.
        max_rank: of the rank difference.
        target_names: with label relevance, adds every figure for each class.
        chunk_size: queries scored at once; None chooses by memory.
        kwargs: of `torchmetrics.Metric`.

    Example:
        >>> metric = SourceBias(ks=(1,))
        >>> text, ids = torch.eye(2), torch.arange(2)
        >>> metric.update(text=text, query_id=ids, query_target=ids)
        >>> metric.update(image=text * 0.9, image_id=ids, image_target=ids, image_source=ids * 0)
        >>> metric.update(image=text, image_id=ids + 2, image_target=ids, image_source=ids * 0 + 1)
        >>> metric.compute()["pair_win_rate"]
        tensor(1., dtype=torch.float64)
    """

    image_columns = ("target", "source")
    text_columns = ("target", "slot")

    def __init__(
        self,
        ks: Sequence[int] = (1, 3, 5, 10),
        precision_ks: Sequence[int] = (),
        *,
        mode: Mode = "clean",
        relevance: Relevance = "auto",
        bootstrap: Bootstrap | None = None,
        max_rank: int = 100,
        target_names: Sequence[str] | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ks = tuple(ks)
        self.precision_ks = tuple(precision_ks)
        self.mode = mode
        self.relevance = relevance
        self.bootstrap = bootstrap
        self.max_rank = max_rank
        self.target_names = None if target_names is None else tuple(target_names)
        self.chunk_size = chunk_size

    def update(
        self,
        *,
        image: Tensor | None = None,
        image_id: Tensor | None = None,
        image_target: Tensor | None = None,
        image_source: Tensor | None = None,
        text: Tensor | None = None,
        query_id: Tensor | None = None,
        query_target: Tensor | None = None,
        query_slot: Tensor | None = None,
    ) -> None:
        """Add a piece of either side or of both.

        Args:
            image: [b, D] float embeddings.
            image_id: [b] integers, unique over all ranks; a row that comes again is dropped.
            image_target: [b] integers.
            image_source: [b] integers, 0 for real.
            text: [c, D] float embeddings.
            query_id: [c] integers, unique over all ranks.
            query_target: [c] integers.
            query_slot: [c] non-negative integers, for the paper's mode; in all pieces or in none.

        Raises:
            ValueError: for ids that are missing or of another length.
        """
        if image is not None:
            self._append("image", image, image_id, target=image_target, source=image_source)
        if text is not None:
            # -1 stands for "not given": states cannot be optional.
            slot = torch.full((len(text),), -1) if query_slot is None else query_slot
            self._append("text", text, query_id, target=query_target, slot=slot)

    def _measure(self, image: Rows, text: Rows) -> list[Figure]:
        slot = text.columns["slot"]
        given = slot >= 0
        if bool(given.any()) and not bool(given.all()):
            raise ValueError("query_slot was given for some queries only: give it in every update, or in none")
        return source_bias(
            text.embedding,
            image.embedding,
            text.columns["target"],
            image.columns["target"],
            image.columns["source"],
            ks=self.ks,
            precision_ks=self.precision_ks,
            mode=self.mode,
            relevance=self.relevance,
            query_slot=slot if bool(given.all()) else None,
            bootstrap=self.bootstrap,
            max_rank=self.max_rank,
            target_names=self.target_names,
            chunk_size=self.chunk_size,
        )
