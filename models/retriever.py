"""What the trainer, the data and the metrics may ask of a dual encoder."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import ModelError

MAX_LOGIT_SCALE = 100.0
"""CLIP's cap on the factor on cosines (Radford et al. 2021, section 2.5): above it training becomes unstable."""


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the tower's input.

    The data ships uint8 of ``size``; the retriever itself converts and normalises, on its device, so that a batch
    crosses from worker to trainer at a quarter of the bytes.

    Attributes:
        size: (height, width) in pixels.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        interpolation: filter of the resize.
        resize_mode: ``shortest`` fits the shorter side and crops the middle, ``longest`` fits the longer side and
            pads, ``squash`` ignores the aspect ratio. The names are open_clip's.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"

    def normalise(self, images: Tensor) -> Tensor:
        """Bring pictures to the tower's range.

        Args:
            images: [B, 3, H, W] uint8 in [0, 255], or float in [0, 1].

        Returns:
            [B, 3, H, W] float32 with the tower's mean and standard deviation.

        Example:
            >>> spec = Preprocess((1, 1), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
            >>> spec.normalise(torch.tensor([0, 255, 255], dtype=torch.uint8).view(1, 3, 1, 1)).flatten().tolist()
            [-1.0, 1.0, 1.0]
        """
        # Plain numbers, not buffers: a module cast to bf16 would round its buffers, and with them every picture.
        full = 255.0 if images.dtype == torch.uint8 else 1.0
        mean = torch.tensor([m * full for m in self.mean], device=images.device).view(1, 3, 1, 1)
        std = torch.tensor([s * full for s in self.std], device=images.device).view(1, 3, 1, 1)
        return (images.float() - mean) / std


def as_made_before(features: Tensor, frozen: bool) -> Tensor:
    """Take [B, D] features for what a tower makes of pictures.

    Raises:
        ModelError: where the tower is trained, so that it would make something else by now.
    """
    if not frozen:
        raise ModelError(
            "the data brings features of pictures, but the image tower is trained: freeze it (lock_image: true, "
            "unlocked_groups: 0), or train on pictures"
        )
    return F.normalize(features.float(), dim=-1)


class Retriever(nn.Module, ABC):
    """A dual encoder: pictures and captions into one space, where the cosine ranks.

    Attributes:
        preprocess: what the data must do to a picture, and what :meth:`encode_image` does itself.
        embed_dim: D, the width of the shared space.
        context_length: L, tokens a caption is cut to.
        tokenize: captions to int64 [B, L], or to fewer columns where the tower needs no more for them. A small
            picklable callable of its own, not a method: it is sent to loader workers, and a bound method would send
            the whole model along.
    """

    preprocess: Preprocess
    embed_dim: int
    context_length: int
    tokenize: Callable[[Sequence[str]], Tensor]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that :meth:`encode_image` expects."""
        return self.preprocess.size

    @abstractmethod
    def encode_image(self, images: Tensor) -> Tensor:
        """Embed pictures.

        Args:
            images: [B, 3, H, W] uint8 in [0, 255], or float in [0, 1]; or, where the tower is frozen, [B, D] float of
                what it made of pictures before (see ``datamodules.feature_source``).

        Returns:
            [B, D] float32, L2-normalised.
        """

    @abstractmethod
    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed captions.

        Args:
            tokens: [B, L] int64 from ``tokenize``, of at most ``context_length`` columns.

        Returns:
            [B, D] float32, L2-normalised.
        """

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """[] float, the factor on cosines, already exponentiated."""

    @property
    def logit_bias(self) -> Tensor | None:
        """[] float, SigLIP's bias, or None where the model has none."""
        return None

    @abstractmethod
    def clamp_logit_scale(self, maximum: float = MAX_LOGIT_SCALE) -> None:
        """Keep :attr:`logit_scale` within [1, ``maximum``], in place and without gradient."""

    @abstractmethod
    def tower_of(self, parameter: str) -> Literal["image", "text", "head"]:
        """Which tower a parameter of this module belongs to, by its name; ``head`` for the logit scale and bias."""

    def tower_key(self, side: Literal["image", "text"]) -> str:
        """A hash of all that a tower's output depends on beside its input: weights, buffers, modules, preprocessing.

        What lies in a cache under this key can be used as long as the tower is frozen.
        """
        digest = hashlib.sha256()
        for name, module in self.named_modules():
            if self.tower_of(f"{name}.weight") == side:
                digest.update(f"{name} {type(module).__name__} {module.extra_repr()}\n".encode())
        for name, tensor in sorted(self.state_dict().items()):
            if self.tower_of(name) == side:
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        digest.update(repr(self.preprocess if side == "image" else self.context_length).encode())
        return digest.hexdigest()[:32]

    @abstractmethod
    def save_weights(self, path: str) -> None:
        """Write the weights as safetensors, under the names that the model's own library reads."""
