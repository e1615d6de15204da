"""A Hugging Face dual encoder (CLIP, SigLIP and their kin) as a retriever; needs the extra ``huggingface``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from models.errors import ModelError
from models.freeze import is_frozen
from models.retriever import MAX_LOGIT_SCALE, Preprocess, Retriever, as_made_before

_PIL_BILINEAR = 2  # transformers stores Pillow's number of the filter


class HuggingFaceTokenizer:
    """A Hugging Face tokenizer that pads to a fixed length; picklable."""

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self._tokenizer = tokenizer
        self.context_length = context_length

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions to int64 [B, L], cut or padded to ``context_length``."""
        if not captions:
            return torch.zeros(0, self.context_length, dtype=torch.int64)
        encoded = self._tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.context_length, return_tensors="pt"
        )
        return cast(Tensor, encoded["input_ids"])


class HuggingFaceRetriever(Retriever):
    """A transformers model that has ``get_image_features`` and ``get_text_features``.

    Captions go in without a mask, which is right for CLIP, whose causal tower reads off a token before the padding, and
    for SigLIP, which was trained with its padding in sight; not for models that mask theirs.

    Args:
        pretrained: a folder written by ``save_pretrained`` (model, tokenizer and image processor), or a name on the
            hub.
        lock_image: freeze the image tower and its projection.
        lock_text: freeze the text tower and its projection.
        grad_checkpointing: recompute activations in the backward pass.

    Raises:
        ModelError: if transformers is not installed, or what is there is no dual encoder.
    """

    model: Any

    def __init__(
        self, pretrained: str, lock_image: bool = False, lock_text: bool = False, grad_checkpointing: bool = False
    ) -> None:
        super().__init__()
        try:
            from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
        except ImportError as error:
            raise ModelError(
                "HuggingFaceRetriever needs transformers: pip install 'bias-train[huggingface]'"
            ) from error
        try:
            self.model = AutoModel.from_pretrained(pretrained)
            tokenizer = AutoTokenizer.from_pretrained(pretrained)
            processor = AutoImageProcessor.from_pretrained(pretrained)
        except (OSError, ValueError) as error:
            place = "the folder" if Path(pretrained).is_dir() else "the hub, or as a folder"
            raise ModelError(
                f"model.retriever.pretrained: {pretrained} cannot be loaded from {place} "
                f"({' '.join(str(error).split())[:300]})"
            ) from error
        if not (hasattr(self.model, "get_image_features") and hasattr(self.model, "get_text_features")):
            raise ModelError(f"{pretrained} is a {type(self.model).__name__}, which is not a dual encoder")
        self.context_length = int(self.model.config.text_config.max_position_embeddings)
        self.tokenize = HuggingFaceTokenizer(tokenizer, self.context_length)
        side = int(self.model.config.vision_config.image_size)
        self.preprocess = Preprocess(
            size=(side, side),
            mean=tuple(processor.image_mean),
            std=tuple(processor.image_std),
            interpolation="bilinear" if int(processor.resample) == _PIL_BILINEAR else "bicubic",
            # A processor that resizes to the shortest edge crops the middle afterwards; the others ignore the aspect.
            resize_mode="shortest" if "shortest_edge" in dict(processor.size) else "squash",
        )
        for name, parameter in self.named_parameters():
            tower = self.tower_of(name)
            if (tower == "image" and lock_image) or (tower == "text" and lock_text):
                parameter.requires_grad_(False)
        self._frozen = {
            tower: is_frozen([p for n, p in self.named_parameters() if self.tower_of(n) == tower])
            for tower in ("image", "text")
        }
        if grad_checkpointing:
            self.model.gradient_checkpointing_enable()
        with torch.no_grad():
            self.embed_dim = self.eval().encode_text(self.tokenize(["a"])).shape[1]
        self.train()

    def encode_image(self, images: Tensor) -> Tensor:
        """See :meth:`Retriever.encode_image`."""
        if images.ndim == 2:
            return as_made_before(images, self._frozen["image"])
        pixels = self.preprocess.normalise(images).to(self.model.dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen["image"]):
            return _unit(self.model.get_image_features(pixel_values=pixels))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """See :meth:`Retriever.encode_text`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen["text"]):
            return _unit(self.model.get_text_features(input_ids=tokens))

    @property
    def logit_scale(self) -> Tensor:
        """See :attr:`Retriever.logit_scale`."""
        return cast(Tensor, self.model.logit_scale.float().exp().reshape(()))

    @property
    def logit_bias(self) -> Tensor | None:
        """See :attr:`Retriever.logit_bias`."""
        bias = getattr(self.model, "logit_bias", None)
        return bias.float().reshape(()) if bias is not None else None

    @torch.no_grad()
    def clamp_logit_scale(self, maximum: float = MAX_LOGIT_SCALE) -> None:
        """See :meth:`Retriever.clamp_logit_scale`."""
        self.model.logit_scale.clamp_(0.0, torch.tensor(maximum).log().item())

    def tower_of(self, parameter: str) -> Literal["image", "text", "head"]:
        """See :meth:`Retriever.tower_of`."""
        part = parameter.removeprefix("model.").split(".")[0]
        if part in ("logit_scale", "logit_bias"):
            return "head"
        return "image" if part.startswith(("vision", "visual")) else "text"

    def save_weights(self, path: str) -> None:
        """Write the weights as a ``model.safetensors`` for a folder in transformers' form."""
        save_file({name: tensor.contiguous().clone() for name, tensor in self.model.state_dict().items()}, path)


def _unit(features: Any) -> Tensor:
    # transformers 5 returns an output object, of which the pooled features are what version 4 returned.
    pooled = features if isinstance(features, Tensor) else features.pooler_output
    return F.normalize(pooled.float(), dim=-1)
