"""Pictures that a callback brings itself, embedded by all ranks together."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from datamodules.evaluation import EvaluationSet, EvaluationStream
from models.embedded import RowCollector


@torch.no_grad()
def embed_shared(
    trainer: pl.Trainer, pl_module: pl.LightningModule, pictures: EvaluationSet, batch_size: int, what: str
) -> Tensor:
    """Embed every picture once, each rank its part (a collective call).

    Args:
        trainer: gives the ranks and the precision.
        pl_module: holds the retriever.
        pictures: M of them.
        batch_size: pictures at a time on each rank.
        what: they are, for the error where one is missing.

    Returns:
        [M, D] on every rank.
    """
    retriever: Any = pl_module.retriever
    stream = EvaluationStream(pictures, retriever.image_size, batch_size, trainer.global_rank, trainer.world_size)
    rows = RowCollector()
    with trainer.precision_plugin.forward_context():
        for batch in stream:
            rows.add(batch["index"], retriever.encode_image(batch["image"].to(pl_module.device)))
    return rows.table(len(pictures), retriever.embed_dim, what, pl_module.device)
