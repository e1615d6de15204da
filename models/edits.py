"""The edited pictures and captions of a training batch, put into the rows of their anchors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class EditedFeatures:
    """What `losses.Features` holds of edits: its fields of the same names. All None where no loss reads edits."""

    edit: Tensor | None = None
    edit_text: Tensor | None = None
    has_edit: Tensor | None = None
    edit_added: Tensor | None = None
    edit_caption_id: Tensor | None = None
    edit_prompt: Tensor | None = None


@dataclass(frozen=True)
class Edits:
    """One rank's edits, E of them.

    Attributes:
        images: uint8 [E, 3, H, W].
        index: int64 [E], the anchors' rows.
        tokens: int64 [E, L], the edited captions.
        added: bool [E], whether the object was pasted in, or a word written.
        caption_id: int64 [E].
        prompt_tokens: int64 [E, L], queries that name the objects or words; None where no loss reads them.
    """

    images: Tensor
    index: Tensor
    tokens: Tensor
    added: Tensor
    caption_id: Tensor
    prompt_tokens: Tensor | None

    @classmethod
    def of(cls, batch: Mapping[str, Any], prompts: bool) -> Edits:
        """Read a batch of a data module that edits: `DecorrelatedDataModule`, or `TextSpottingDataModule`'s overlays.

        Args:
            batch: this rank's.
            prompts: whether some loss reads these queries.
        """
        return cls(
            batch["edit"], batch["edit_index"], batch["edit_tokens"], batch["edit_added"], batch["edit_caption_id"],
            batch["edit_prompt_tokens"] if prompts else None,
        )  # fmt: skip

    def labels(self, size: int) -> list[Tensor]:
        """Whether there is an edit, whether it was pasted in, and its caption's id: three columns int64 [B]."""
        nothing = torch.zeros(size, dtype=torch.int64, device=self.index.device)
        return [
            nothing.index_copy(0, self.index, values.long())
            for values in (torch.ones_like(self.added), self.added, self.caption_id)
        ]

    def in_rows(self, values: Tensor, like: Tensor) -> Tensor:
        """Put [E, D] into the anchors' rows of zeros like [B, D]."""
        return torch.zeros_like(like).index_copy(0, self.index, values.to(like.dtype))

    def encoded(self, encode_text: Callable[[Tensor], Tensor], tokens: Tensor, like: Tensor) -> Tensor:
        """Embed [E, L] tokens and put them into the anchors' rows: [B, D]."""
        if not len(tokens):  # not every text tower takes an empty batch
            return torch.zeros_like(like)
        return self.in_rows(encode_text(tokens), like)
