"""Linear maps behind frozen towers, trained on what the towers made of pictures and captions before.

A step then costs two small matrix products, and no tower runs: an ablation of debiasing methods in which the towers
stay as they are takes one pass over the pictures and seconds for each training. What is trained is not less for it
where only the space is to change: behind a normalised embedding a linear map is the tower's projection trained on, and
it is folded into that projection when the weights are written, so that the outcome is an ordinary checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.erasure.eraser import LinearEraser
from models.erasure.fold import Side, folded, projection_of
from models.errors import ModelError
from models.retriever import MAX_LOGIT_SCALE, Retriever
from models.tensor_file import read_tensors, write_tensors

CAPTIONS = "captions.safetensors"
_KIND, _COMMAND = "caption features", "bias-train embed"
_SIDES: tuple[Side, ...] = ("image", "text")


def caption_ids(captions: Sequence[str]) -> NDArray[np.int64]:
    """Name captions by number: [n], the first eight bytes of a hash."""
    digests = b"".join(blake2b(caption.encode(), digest_size=8).digest() for caption in captions)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


def write_captions(folder: Path, ids: NDArray[np.int64], vectors: Tensor, key: str) -> None:
    """Keep what a text tower made of captions.

    Args:
        folder: of features.
        ids: [n], each once.
        vectors: [n, D] float32.
        key: the tower's ``Retriever.tower_key``.
    """
    order = torch.from_numpy(ids).argsort()
    tensors = {"id": torch.from_numpy(ids)[order], "vector": vectors[order].contiguous()}
    write_tensors(folder / CAPTIONS, tensors, _KIND, {"key": key})


def read_captions(folder: Path, key: str) -> tuple[NDArray[np.int64], Tensor]:
    """Read them: [n] sorted ids and [n, D] float32.

    Raises:
        ModelError: where there are none, or those of another text tower.
    """
    tensors, record = read_tensors(folder / CAPTIONS, _KIND, _COMMAND)
    if record["key"] != key:
        raise ModelError(
            f"{folder / CAPTIONS}: holds features of another text tower (key {record['key']}, not {key}): name another "
            f"folder, or make one with `{_COMMAND}`"
        )
    return tensors["id"].numpy(), tensors["vector"]


class CaptionTokenizer:
    """Captions to their numbers where the features of all of them are known, else to the tower's tokens.

    Attributes:
        plain: the tower's tokenizer.
        known: [n] int64, sorted.
    """

    def __init__(self, plain: Any, known: NDArray[np.int64]) -> None:
        self.plain, self.known = plain, known

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Captions to int64 [B, 1] numbers, or to int64 [B, L] tokens."""
        ids = caption_ids(captions)
        place = np.searchsorted(self.known, ids).clip(max=max(len(self.known) - 1, 0))
        if len(ids) and len(self.known) and bool((self.known[place] == ids).all()):
            return torch.from_numpy(ids)[:, None]
        tokens: Tensor = self.plain(list(captions))
        return tokens

    def __deepcopy__(self, memo: dict[int, Any]) -> CaptionTokenizer:
        return self


class _Shared:
    """Holds what is no part of the module: neither trained, saved, nor copied with it."""

    def __init__(self, base: Retriever, known: NDArray[np.int64], vectors: Tensor) -> None:
        self.base, self.known, self.vectors = base, known, vectors

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class HeadRetriever(Retriever):
    """A frozen retriever with a trained linear map behind each tower, which starts as the identity.

    Pictures come as features from ``datamodules.feature_source`` in training and evaluation; as pictures they pass the
    frozen tower. Captions whose features are known cost a look-up, others pass the frozen tower. Checkpoints hold the
    maps alone: a run that resumes needs the frozen weights where they were.

    Args:
        base: the retriever, which is frozen.
        features: folder that ``bias-train embed`` has written, for the captions' features; None encodes every caption.
        image_head: train a map behind the image tower.
        text_head: train a map behind the text tower.

    Raises:
        ModelError: without any map, for a tower that a map cannot be folded into, or features of another text tower.
    """

    image_head: nn.Linear | None
    text_head: nn.Linear | None

    def __init__(
        self, base: Retriever, features: str | None = None, image_head: bool = True, text_head: bool = True
    ) -> None:
        super().__init__()
        if not (image_head or text_head):
            raise ModelError(
                "model.retriever: set image_head, text_head or both; without them there is nothing to train"
            )
        base.requires_grad_(False).eval()
        self.preprocess, self.embed_dim, self.context_length = base.preprocess, base.embed_dim, base.context_length
        known, vectors = np.empty(0, dtype=np.int64), torch.empty(0, base.embed_dim)
        if features is not None:
            known, vectors = read_captions(Path(features), base.tower_key("text"))
        self._shared = _Shared(base, known, vectors)
        self.tokenize = CaptionTokenizer(base.tokenize, known)
        wanted: dict[Side, bool] = {"image": image_head, "text": text_head}
        for side in _SIDES:
            head = None
            if wanted[side]:
                projection_of(base, side)  # refuses now what could not be written at the end
                head = nn.Linear(self.embed_dim, self.embed_dim, bias=False)
                nn.init.eye_(head.weight)
            self.add_module(f"{side}_head", head)
        self.log_scale = nn.Parameter(base.logit_scale.detach().log().clone())
        bias = base.logit_bias
        self.bias = nn.Parameter(bias.detach().clone()) if bias is not None else None

    @property
    def base(self) -> Retriever:
        """The frozen retriever."""
        return self._shared.base

    @property
    def model(self) -> Any:
        """The frozen retriever's model."""
        return self.base.model

    def encode_image(self, images: Tensor) -> Tensor:
        """See :meth:`Retriever.encode_image`."""
        if images.ndim != 2:
            images = self._frozen("encode_image", images)
        return _mapped(self.image_head, images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """See :meth:`Retriever.encode_text`; also takes the numbers of known captions, int64 [B, 1]."""
        if tokens.shape[1] == 1:
            place = np.searchsorted(self._shared.known, tokens[:, 0].cpu().numpy())
            text = self._shared.vectors[torch.from_numpy(place)].to(tokens.device)
        else:
            text = self._frozen("encode_text", tokens)
        return _mapped(self.text_head, text)

    @torch.no_grad()
    def _frozen(self, method: str, batch: Tensor) -> Tensor:
        encoded: Tensor = getattr(self.base.to(batch.device), method)(batch)
        return encoded

    @property
    def logit_scale(self) -> Tensor:
        """See :attr:`Retriever.logit_scale`."""
        return self.log_scale.float().exp()

    @property
    def logit_bias(self) -> Tensor | None:
        """See :attr:`Retriever.logit_bias`."""
        return self.bias.float() if self.bias is not None else None

    @torch.no_grad()
    def clamp_logit_scale(self, maximum: float = MAX_LOGIT_SCALE) -> None:
        """See :meth:`Retriever.clamp_logit_scale`."""
        self.log_scale.clamp_(0.0, torch.tensor(maximum).log().item())

    def tower_of(self, parameter: str) -> Literal["image", "text", "head"]:
        """See :meth:`Retriever.tower_of`."""
        part = parameter.split(".")[0]
        return "image" if part == "image_head" else "text" if part == "text_head" else "head"

    def tower_key(self, side: Literal["image", "text"]) -> str:
        """See :meth:`Retriever.tower_key`; that of the frozen tower, whose output is kept."""
        return self.base.tower_key(side)

    def save_weights(self, path: str) -> None:
        """Write the frozen retriever's weights with the maps folded in: nothing of this class is needed to use them."""
        with ExitStack() as stack:
            for side in _SIDES:
                head: nn.Linear | None = getattr(self, f"{side}_head")
                if head is not None:
                    stack.enter_context(folded(self.base, LinearEraser(head.weight.detach().double().cpu()), side))
            _set(self.model.logit_scale, self.log_scale, stack)
            if self.bias is not None:
                _set(self.model.logit_bias, self.bias, stack)
            self.base.save_weights(path)


def _mapped(head: nn.Module | None, features: Tensor) -> Tensor:
    if head is None:
        return F.normalize(features.float(), dim=-1)
    mapped: Tensor = head(features.to(next(head.parameters()).dtype))
    return F.normalize(mapped.float(), dim=-1)


@torch.no_grad()
def _set(target: Tensor, value: Tensor, stack: ExitStack) -> None:
    """Give a scalar of the model another value until the stack unwinds."""
    before = target.detach().clone()
    stack.callback(lambda: target.data.copy_(before))
    target.data.fill_(float(value))
