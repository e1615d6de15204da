"""Folding an eraser into the last linear layer of a tower, so that a checkpoint needs nothing beside it.

Retrieval normalises after the projection, so for a projection ``W`` and an eraser ``P`` the embedding
``P (W x / |W x|)`` brought to unit length is that of ``(P W) x``: for a linear eraser folding is exact. The bias of an
affine one would be scaled by ``|W x|``, another number for every picture: no weights can hold that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.erasure.eraser import LinearEraser
from models.errors import ModelError
from models.retriever import Retriever

Side = Literal["image", "text"]


@dataclass(frozen=True)
class Projection:
    """The layer that writes into the shared space.

    Attributes:
        weight: [D, K] as ``nn.Linear`` has it, or [K, D] where ``transposed``.
        bias: [D] or None.
        transposed: the layer computes ``x @ weight``.
        where: its name, for people.
    """

    weight: Tensor
    bias: Tensor | None
    transposed: bool
    where: str


def projection_of(retriever: Retriever, side: Side = "image") -> Projection:
    """Find the last linear layer of a retriever's image or text tower.

    Known are open_clip's vision transformers (``visual.proj``), its residual networks (``visual.attnpool.c_proj``),
    timm's towers (``visual.head`` or the trunk's own classifier) and Hugging Face's ``visual_projection``; of text
    towers ``text_projection``, wherever the library keeps it. A trained map behind a tower
    (:class:`models.heads.HeadRetriever`) comes last.

    Raises:
        ModelError: where the tower ends in something else, such as SigLIP's attention pooling.
    """
    head = getattr(retriever, f"{side}_head", None)
    if isinstance(head, nn.Linear):
        return Projection(head.weight, None, False, f"{side}_head")
    model: Any = retriever.model
    if side == "text":
        return _text_projection(model)
    visual = getattr(model, "visual", None)
    layer: Any = None
    if visual is None:
        layer, where = getattr(model, "visual_projection", None), "visual_projection"
    elif isinstance(getattr(visual, "proj", None), nn.Parameter):
        return Projection(visual.proj, None, True, "visual.proj")
    elif hasattr(visual, "attnpool"):
        layer, where = getattr(visual.attnpool, "c_proj", None), "visual.attnpool.c_proj"
    elif hasattr(visual, "trunk"):
        layer, where = _timm_layer(visual)
    if not isinstance(layer, nn.Linear):
        raise ModelError(
            f"the image tower ({type(visual or model).__name__}) ends in no linear layer that an eraser could be "
            "folded into: apply the eraser to its embeddings (`bias-train erase apply`)"
        )
    return Projection(layer.weight, layer.bias, False, where)


def _text_projection(model: Any) -> Projection:
    place, owner = ("text.text_projection", model.text) if hasattr(model, "text") else ("text_projection", model)
    layer = getattr(owner, "text_projection", None)
    if isinstance(layer, nn.Parameter):
        return Projection(layer, None, True, place)
    if isinstance(layer, nn.Linear):
        return Projection(layer.weight, layer.bias, False, place)
    raise ModelError(
        f"the text tower ({type(owner).__name__}) ends in no linear layer that a map could be folded into: apply it to "
        "the queries' embeddings"
    )


def _timm_layer(visual: Any) -> tuple[Any, str]:
    parts = dict(visual.head.named_children())
    if "proj" in parts:
        return parts["proj"], "visual.head.proj"
    if "mlp" in parts:
        return parts["mlp"].fc2, "visual.head.mlp.fc2"
    if "pool" in parts:
        return getattr(parts["pool"], "proj", None), "visual.head.pool.proj"
    return visual.trunk.get_classifier(), "visual.trunk's classifier"


@torch.no_grad()
def fold(retriever: Retriever, eraser: LinearEraser, side: Side = "image") -> Projection:
    """Fold an eraser into a retriever's weights, in place.

    What comes out is compared with the eraser's own on two made-up pictures or texts, so that a tower with something
    between the layer and its output is refused and left as it was.

    Args:
        retriever: its projection is changed.
        eraser: a linear one of the retriever's width.
        side: whose embeddings it maps.

    Returns:
        The changed layer.

    Raises:
        ModelError: for an affine eraser, another width, or a tower that it cannot be folded into.
    """
    if eraser.bias is not None and bool((eraser.bias != 0).any()):
        raise ModelError(
            "an affine eraser cannot be folded into a checkpoint: its bias would need every picture's length before "
            "normalisation. Fit it without the bias (affine off), which equalises the sources just as well"
        )
    if eraser.width != retriever.embed_dim:
        raise ModelError(f"the eraser is {eraser.width} wide, but the retriever embeds into {retriever.embed_dim}")
    layer = projection_of(retriever, side)
    before = _embed_noise(retriever, side)
    kept = [t.detach().clone() for t in (layer.weight, layer.bias) if t is not None]
    matrix = eraser.matrix.to(layer.weight.device)
    weight = layer.weight.double()
    layer.weight.copy_(weight @ matrix.T if layer.transposed else matrix @ weight)
    if layer.bias is not None:
        layer.bias.copy_(matrix @ layer.bias.double())
    after, wanted = _embed_noise(retriever, side), eraser.apply(before)
    # Weights in half precision round the product.
    tolerance = 1e-4 if layer.weight.dtype == torch.float32 else 0.05
    if not torch.allclose(after, wanted, atol=tolerance):
        for tensor, old in zip((t for t in (layer.weight, layer.bias) if t is not None), kept, strict=True):
            tensor.copy_(old)
        raise ModelError(
            f"folding into {layer.where} does not give the erased embeddings (off by "
            f"{float((after - wanted).abs().max()):.1e}): the tower does something after that layer. Apply the eraser "
            "to its embeddings instead (`bias-train erase apply`)"
        )
    return layer


@contextmanager
def folded(retriever: Retriever, eraser: LinearEraser, side: Side = "image") -> Iterator[Retriever]:
    """Fold for a while, such as to write the weights; afterwards they are what they were, bit by bit."""
    layer = projection_of(retriever, side)
    parts = [t for t in (layer.weight, layer.bias) if t is not None]
    kept = [t.detach().clone() for t in parts]
    fold(retriever, eraser, side)
    try:
        yield retriever
    finally:
        with torch.no_grad():
            for tensor, old in zip(parts, kept, strict=True):
                tensor.copy_(old)


def _embed_noise(retriever: Retriever, side: Side) -> Tensor:
    """Two made-up pictures or texts, embedded as in evaluation: [2, D]."""
    generator = torch.Generator().manual_seed(0)
    height, width = retriever.image_size
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    training = retriever.training
    retriever.eval()
    # Training under mixed precision would round, here alone, what is to be compared.
    device = next(retriever.parameters()).device
    with torch.autocast(device.type, enabled=False):
        if side == "image":
            embedded = retriever.encode_image(images.to(device))
        else:
            embedded = retriever.encode_text(retriever.tokenize(["a photo of a dog", "red"]).to(device))
        embedded = F.normalize(embedded.float(), dim=-1)
    retriever.train(training)
    return embedded
