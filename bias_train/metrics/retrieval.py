"""Retrieval quality as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from bias_train.metrics.embedding import EmbeddingMetric, Rows
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.retrieval import retrieval
from bias_train.stats import Bootstrap


class RetrievalMetrics(EmbeddingMetric):
    """Modular form of `bias_train.metrics.functional.retrieval.retrieval`.

    Args:
        ks: cut-offs.
        bootstrap: how intervals are made; None for none.
        chunk_size: queries scored at once; None chooses by memory.
        kwargs: of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = RetrievalMetrics(ks=(1,))
        >>> metric.update(image=torch.eye(2), image_id=torch.arange(2), image_target=torch.arange(2))
        >>> metric.update(text=torch.eye(2), query_id=torch.arange(2), query_target=torch.arange(2))
        >>> metric.compute()["t2i_R@1"]
        tensor(1., dtype=torch.float64)
    """

    def __init__(
        self,
        ks: Sequence[int] = (1, 5, 10),
        *,
        bootstrap: Bootstrap | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ks = tuple(ks)
        self.bootstrap = bootstrap
        self.chunk_size = chunk_size

    def update(
        self,
        *,
        image: Tensor | None = None,
        image_id: Tensor | None = None,
        image_target: Tensor | None = None,
        text: Tensor | None = None,
        query_id: Tensor | None = None,
        query_target: Tensor | None = None,
    ) -> None:
        """Add a piece of either side or of both.

        Args:
            image: [b, D] float embeddings.
            image_id: [b] integers, unique over all ranks; a row that comes again is dropped.
            image_target: [b] integers.
            text: [c, D] float embeddings.
            query_id: [c] integers, unique over all ranks.
            query_target: [c] integers.

        Raises:
            ValueError: for ids that are missing or of another length.
        """
        if image is not None:
            self._append("image", image, image_id, target=image_target)
        if text is not None:
            self._append("text", text, query_id, target=query_target)

    def _measure(self, image: Rows, text: Rows) -> list[Figure]:
        return retrieval(
            text.embedding,
            image.embedding,
            text.columns["target"],
            image.columns["target"],
            ks=self.ks,
            bootstrap=self.bootstrap,
            chunk_size=self.chunk_size,
        )
