"""The pairs of a batch whose anchors carry edits: which picture goes with which caption, and what is false of what.

An edit changes picture and caption together, so each edited anchor makes two true pairs. One says more: the *fuller*
pair, whose picture shows the object and whose caption mentions it; the other is the *plainer* pair. Where the object
was taken out the anchor is the fuller one, where it was pasted in the edit is. Of the two crossings, the fuller caption
is false of the plainer picture. The plainer caption is true of both pictures: it only says less of the fuller one, so
that crossing is no negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from losses.base import Features, LossError
from losses.scores import at_least_float32, cosine_matrix

ANCHORS, EDITS = 0, 1


@dataclass(frozen=True)
class EditedPairs:
    """Two pairs for each row of the global batch: the anchor's (0) and the edit's (1), zeros where there is no edit.

    Attributes:
        features: the batch.
        picture: [2, N, D].
        text: [2, N, D].
        exists: [2, N] bool; an anchor always does.
        plainer: [2, N] bool, the pairs of whose picture the caption of the row's other pair is false.
        caption_id: [2, N] int64.
    """

    features: Features
    picture: Tensor
    text: Tensor
    exists: Tensor
    plainer: Tensor
    caption_id: Tensor

    @classmethod
    def of(cls, features: Features) -> EditedPairs:
        """Put a batch's pairs together.

        Raises:
            LossError: if the batch carries no edits.
        """
        edit, edit_text, has_edit, added = features.edit, features.edit_text, features.has_edit, features.edit_added
        if edit is None or edit_text is None or has_edit is None or added is None:
            raise LossError(
                "this loss reads edited pictures and captions, but the batch carries none: take "
                "datamodules.decorrelated.DecorrelatedDataModule and give shards with edits in data.edited"
            )
        edit_id = features.edit_caption_id
        if edit_id is None:  # taken to be unlike every other caption but its own, which is never compared
            edit_id = torch.iinfo(torch.int64).min + torch.arange(len(has_edit), device=has_edit.device)
        return cls(
            features=features,
            picture=torch.stack([features.image, edit]),
            text=torch.stack([features.text, edit_text]),
            exists=torch.stack([torch.ones_like(has_edit), has_edit]),
            plainer=torch.stack([has_edit & added, has_edit & ~added]),
            caption_id=torch.stack([features.caption_id, edit_id]),
        )

    @property
    def fuller(self) -> Tensor:
        """[2, N] bool, the pairs whose caption is false of the picture of the row's other pair."""
        return self.plainer.flip(0)

    @property
    def local(self) -> slice:
        """This rank's rows."""
        return self.features.local

    def own(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Cosines of this rank's pairs, each row's with the same row's: [2, N, D] twice to [2, B]."""
        rows, columns = rows[:, self.local], columns[:, self.local]
        return (at_least_float32(rows) * at_least_float32(columns)).sum(dim=2)

    def others(self, rows: Tensor, columns: Tensor, halves: Sequence[int]) -> Tensor:
        """Logits of this rank's pairs against the pairs of other rows.

        Args:
            rows: [2, N, D], pictures or captions.
            columns: [2, N, D], the others.
            halves: of the columns: ``ANCHORS``, ``EDITS`` or both.

        Returns:
            [2, B, len(halves) * N]; minus infinity where there is no pair, in the own row, and where the other row has
            the same group or the other pair the same caption.
        """
        scale, local = self.features.logit_scale, self.local
        logits = []
        for half in halves:
            cosines = torch.stack([cosine_matrix(part[local], columns[half]) for part in rows])
            logits.append((scale * cosines).masked_fill(self._left_out(local, half), float("-inf")))
        return torch.cat(logits, dim=2)

    def has_others(self, half: int) -> Tensor:
        """[2, N] bool: whether `others` of a half holds anything for a pair."""
        return ~self._left_out(slice(0, self.exists.shape[1]), half).all(dim=2)

    def _left_out(self, rows: slice, half: int) -> Tensor:
        """[2, n, N] bool: what `others` leaves out of some rows against a half."""
        group, caption = self.features.group, self.caption_id
        row = torch.arange(len(group), device=group.device)
        same = (group[rows, None] == group[None, :]) | (row[rows, None] == row[None, :])
        return same | (caption[:, rows, None] == caption[half, None, None, :]) | ~self.exists[half]

    def only(self, logits: Tensor, mask: Tensor) -> Tensor:
        """[2, B] logits to [2, B, 1], minus infinity outside of a mask [2, N]."""
        return torch.where(mask[:, self.local], logits, float("-inf")).unsqueeze(2)

    def mean_over(self, values: Tensor, mask: Tensor) -> Tensor:
        """This rank's part of a mean over the masked pairs of the global batch; see ``Features.mean_over``.

        Args:
            values: [2, B].
            mask: [2, N] bool.
        """
        parts = [self.features.sum_over(value, part) for value, part in zip(values, mask, strict=True)]
        return torch.stack(parts).sum() / mask.sum().clamp(min=1)


def cross_entropy(positive: Tensor, *negatives: Tensor) -> Tensor:
    """[2, B] logits of the positives against [2, B, K] others, minus infinity where there is none: [2, B]."""
    return torch.logsumexp(torch.cat([positive.unsqueeze(2), *negatives], dim=2), dim=2) - positive
