"""The rendered words of a training step: pictures of nothing but a word, and the words as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models.errors import ModelError


@dataclass(frozen=True)
class Words:
    """W rendered words, the same on every rank.

    They are not gathered. Each rank embeds all of them and computes a term of them in full: the ranks' gradients are
    equal, and what DistributedDataParallel's averaging makes of equal gradients is the gradient of one process. A
    gathered copy would count every word once for each rank.

    Attributes:
        images: uint8 [W, 3, H, W'].
        tokens: int64 [W, L].
    """

    images: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Any], losses: str) -> Words:
        """Read a batch of :class:`datamodules.text_spotting.TextSpottingDataModule`.

        Args:
            batch: this rank's.
            losses: names of the losses that read words, for the error.

        Raises:
            ModelError: if it brings no words.
        """
        if "word" not in batch:
            raise ModelError(
                f"the loss {losses} reads rendered words, but the data brings none: take "
                "datamodules.text_spotting.TextSpottingDataModule and set data.rendered_words to 2 or more, or leave "
                "the loss out"
            )
        return cls(batch["word"], batch["word_tokens"])

    def text(self, encode_text: Callable[[Tensor], Tensor]) -> Tensor:
        """Embed the words as text: [W, D]."""
        return encode_text(self.tokens)
