"""The embeddings of photos and of generated pictures as two samples, to be compared as distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from losses.base import REAL, Features

Pictures = Literal["anchors", "pairs"]
PICTURES: tuple[Pictures, ...] = ("anchors", "pairs")
Within = Literal["batch", "caption", "group"]
WITHIN: tuple[Within, ...] = ("batch", "caption", "group")


@dataclass(frozen=True)
class Populations:
    """The pictures of a step that are compared, in the same order on every rank.

    Attributes:
        picture: [M, D] the global batch's embeddings.
        generated: [M] bool.
        stratum: [M] int64 from 0 to the number of strata; sources are compared within a stratum.
        real_count: [M] int64, photos of the picture's stratum.
        generated_count: [M] int64, generated pictures of it.
        local: [M] bool, the pictures of this rank's rows.
    """

    picture: Tensor
    generated: Tensor
    stratum: Tensor
    real_count: Tensor
    generated_count: Tensor
    local: Tensor

    def compared(self, min_count: int) -> Tensor:
        """[M] bool: the picture's stratum has at least ``min_count`` of each source."""
        return (self.real_count >= min_count) & (self.generated_count >= min_count)


def populations(features: Features, pictures: Pictures, within: Within) -> Populations:
    """Gather the two samples of a step.

    Args:
        features: the global batch.
        pictures: ``"anchors"`` takes every anchor; ``"pairs"`` takes both pictures of each pair and nothing else, so
            that the two samples show the same things.
        within: what forms a stratum: the whole batch, equal ``caption_id``, or equal ``group``.

    Raises:
        LossError: if pairs are asked for and the batch carries no twins.
    """
    rows = torch.arange(features.image.shape[0], device=features.image.device)
    if pictures == "pairs":
        real, generated, paired = features.sources_of_pairs()
        picture = torch.cat([real[paired], generated[paired]])
        rows = rows[paired].repeat(2)
        is_generated = torch.arange(rows.numel(), device=rows.device) >= rows.numel() // 2
    else:
        picture, is_generated = features.image, features.source != REAL
    labels = {"caption": features.caption_id, "group": features.group}.get(within, torch.zeros_like(features.source))
    _, stratum = torch.unique(labels[rows], return_inverse=True)
    size = torch.bincount(stratum)
    of_generated = torch.bincount(stratum[is_generated], minlength=size.numel())
    local = features.local
    return Populations(
        picture=picture,
        generated=is_generated,
        stratum=stratum,
        real_count=(size - of_generated)[stratum],
        generated_count=of_generated[stratum],
        local=(rows >= local.start) & (rows < local.stop),
    )
