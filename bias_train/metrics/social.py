"""Social bias as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from bias_train.metrics.embedding import EmbeddingMetric, Rows
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.social.representation import Target, Zero
from bias_train.metrics.functional.social.word_bias import word_bias
from bias_train.stats import Bootstrap


class SocialBias(EmbeddingMetric):
    """Modular form of `bias_train.metrics.functional.social.word_bias.word_bias`: means over all words.

    Keys are those of its figures, such as ``"max_skew@100"``, and ``"excess_max_skew@100"`` for what a figure has above
    a random retriever's.

    Args:
        groups: how many groups there are.
        ks: cut-offs.
        target: ``"pool"``, ``"uniform"`` or shares of your own.
        zero: rule for absent groups.
        bootstrap: how intervals over pictures are made; None for none.
        floor_draws: random rankings behind the floor.
        seed: of the floor.
        chunk_size: words scored at once; None chooses by memory.
        kwargs: of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = SocialBias(groups=2, ks=(2,))
        >>> metric.update(text=torch.tensor([[1.0, 0.0]]), query_id=torch.tensor([0]))
        >>> image = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
        >>> metric.update(image=image, image_id=torch.arange(4), image_group=torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()["bias@2"]
        tensor(1., dtype=torch.float64)
    """

    image_columns = ("group",)
    text_columns = ()

    def __init__(
        self,
        groups: int,
        ks: Sequence[int] = (100,),
        *,
        target: Target = "pool",
        zero: Zero = "count",
        bootstrap: Bootstrap | None = None,
        floor_draws: int = 4000,
        seed: int = 0,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.groups = groups
        self.ks = tuple(ks)
        self.target = target
        self.zero = zero
        self.bootstrap = bootstrap
        self.floor_draws = floor_draws
        self.seed = seed
        self.chunk_size = chunk_size

    def update(
        self,
        *,
        image: Tensor | None = None,
        image_id: Tensor | None = None,
        image_group: Tensor | None = None,
        text: Tensor | None = None,
        query_id: Tensor | None = None,
    ) -> None:
        """Add a piece of either side or of both.

        Args:
            image: [b, D] float embeddings.
            image_id: [b] integers, unique over all ranks; a row that comes again is dropped.
            image_group: [b] integers, 0 to groups - 1; pictures of unknown group, -1, are left out.
            text: [c, D] float embeddings of words.
            query_id: [c] integers, unique over all ranks.

        Raises:
            ValueError: for ids that are missing or of another length.
        """
        if image is not None:
            self._append("image", image, image_id, group=image_group)
        if text is not None:
            self._append("text", text, query_id)

    def _measure(self, image: Rows, text: Rows) -> list[Figure]:
        group = image.columns["group"]
        known = group >= 0
        if not bool(known.any()):
            raise ValueError("image_group is -1 for all pictures: bias between groups needs pictures of known group")
        return word_bias(
            text.embedding,
            image.embedding[known],
            group[known],
            self.groups,
            ks=self.ks,
            target=self.target,
            zero=self.zero,
            bootstrap=self.bootstrap,
            floor_draws=self.floor_draws,
            seed=self.seed,
            chunk_size=self.chunk_size,
        ).figures()
