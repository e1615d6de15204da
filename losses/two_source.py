"""Contrast a caption with the photo and with the generated picture, each a positive of its own."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from losses.base import REAL, Features, Loss
from losses.chunked import recomputed
from losses.contrastive import duplicate_mask
from losses.options import at_least, one_of
from losses.scores import cosine_matrix, cosine_of_rows

Directions = Literal["both", "text_to_image"]
DIRECTIONS: tuple[Directions, ...] = ("both", "text_to_image")
OtherRows = Literal["mask", "negative"]
OTHER_ROWS: tuple[OtherRows, ...] = ("mask", "negative")


class TwoSourceContrastive(Loss):
    """Keep the photo and its generated twin both retrievable, against the negatives of both sources.

    **Optimises**: the rank of the own photo, and that of the own generated picture, among all pictures of other
    captions; the two never compete with each other.

    **Formula**: with logits ``R_ij = logit_scale * cos(text_i, real_j)`` and ``A_ij`` likewise of generated pictures,
    ``negatives_i = sum_{j != i} [exp(R_ij) + exp(A_ij)]`` over the pictures that exist,

    - text to image: ``CE_R,i = -log(exp(R_ii) / (exp(R_ii) + negatives_i))`` and ``CE_A,i`` with ``A_ii`` in both
      places. The twin of a positive is in neither denominator.
    - image to text: the cross-entropy of the photo (of the generated picture) over the batch's captions.

    The loss is ``mean_i CE_R,i + mean_i CE_A,i``, each mean over the captions that have a picture of that source; with
    both directions, each CE is the mean of the two.

    **Reference**: the text-to-document form is that of "Neural Retrievers are Biased Towards LLM-Generated Content"
    (arXiv 2310.20501), after the authors' code: ``directions="text_to_image"``, ``duplicates="negative"``, with
    ``RankHinge`` (margin 0, mean) at weight 0.1 beside it and a fixed scale of 20 on cosines, where this takes the
    retriever's learned one. The image-to-text part, duplicates, and captions with one picture only are ours.

    **Requirements**: twins in the batch (``data.twin_share`` above 0, shards with twins). A caption without a twin
    counts for the source that it has.

    **Inputs**: ``text``, ``image``, ``source``, ``twin``, ``has_twin``, ``logit_scale``, ``group``, ``caption_id``.
    Terms: ``contrastive_real`` and ``contrastive_generated``, each about ``log 2N`` (text to image) for embeddings that
    know nothing. In logits; the logit scale learns from it.

    **Relation to other losses**: takes the place of `InfoNCE`, whose positives are the anchors alone; its two terms add
    up to twice an `InfoNCE`. By itself it asks for no equality of the two pictures: add a `RankHinge`. What it adds is
    that retrieval among generated pictures is trained too, and not given up for the debias term.

    Args:
        directions: ``"both"`` (ours) or ``"text_to_image"`` (the reference).
        duplicates: another row with row i's group or caption is left out of the negatives (``"mask"``, default), in
            both its pictures, or counts as any other (``"negative"``); see `InfoNCE`.
        chunk: score so many rows at a time, each computed again in the backward pass; 0 holds the whole matrix. The
            values are the same.

    Example:
        >>> import torch
        >>> from losses import Features, TwoSourceContrastive
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(1.0), source=torch.zeros(2, dtype=torch.int64),
        ...     group=ids, caption_id=ids, twin=eye, has_twin=torch.tensor([True, False]),
        ... )
        >>> terms = TwoSourceContrastive("text_to_image")(features)
        >>> terms["contrastive_real"]  # [log(1 + exp(-1)) + log(1 + 2 exp(-1))] / 2
        tensor(0.4324)
        >>> terms["contrastive_generated"]  # the one generated picture, against the other caption's photo
        tensor(0.3133)
    """

    needs_twin = True

    def __init__(self, directions: Directions = "both", duplicates: OtherRows = "mask", chunk: int = 0) -> None:
        super().__init__()
        one_of(self, "directions", directions, DIRECTIONS)
        one_of(self, "duplicates", duplicates, OTHER_ROWS)
        self.directions = directions
        at_least(self, "chunk", chunk, 0)
        self.duplicates = duplicates
        self.chunk = chunk

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"contrastive_real": [], "contrastive_generated": []}``; a source that is absent costs nothing.

        Raises:
            LossError: if the batch carries no twins.
        """
        real, generated, paired = features.sources_of_pairs()
        sources = {
            "contrastive_real": (real, paired | (features.source == REAL)),
            "contrastive_generated": (generated, paired | (features.source != REAL)),
        }
        local = features.local
        rows = torch.arange(local.start, local.stop, device=features.image.device)
        entropy = recomputed(partial(self._entropies, features, list(sources.values())), rows, self.chunk)
        known = [known for _, known in sources.values()]
        return {name: features.mean_over(entropy[:, i], known[i]) for i, name in enumerate(sources)}

    def _entropies(self, features: Features, sources: list[tuple[Tensor, Tensor]], rows: Tensor) -> Tensor:
        """[c, 2] cross-entropies of some rows of the global batch, for each source."""
        scale, text = features.logit_scale, features.text[rows]
        left_out = rows[:, None] == torch.arange(len(features.image), device=rows.device)
        if self.duplicates == "mask":
            left_out = left_out | duplicate_mask(features, rows)
        negatives = torch.cat(
            [
                (scale * cosine_matrix(text, pictures)).masked_fill(left_out | ~known, float("-inf"))
                for pictures, known in sources
            ],
            dim=1,
        )
        found = []
        for pictures, _ in sources:
            positive = (scale * cosine_of_rows(text, pictures[rows])).unsqueeze(1)
            entropy = _cross_entropy(positive, negatives)
            if self.directions == "both":
                captions = (scale * cosine_matrix(pictures[rows], features.text)).masked_fill(left_out, float("-inf"))
                entropy = (entropy + _cross_entropy(positive, captions)) / 2
            found.append(entropy)
        return torch.stack(found, dim=1)


def _cross_entropy(positive: Tensor, negatives: Tensor) -> Tensor:
    """[B, 1] logits of the positives against [B, K] others, minus infinity where there is none: [B]."""
    return torch.logsumexp(torch.cat([positive, negatives], dim=1), dim=1) - positive.squeeze(1)
