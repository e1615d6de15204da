"""Attention heads of a ViT that look at text, taken out of what its class token reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from models.errors import ModelError
from models.retriever import Retriever

Head = tuple[int, int]
"""(block, head), both counted from 0."""

KIND = "attention heads"


def vision_transformer(retriever: Retriever) -> Any:
    """The image tower, where heads can be scored and taken out of it.

    Raises:
        ModelError: for a convolutional tower, which has no class token that heads write to, and for a transformer that
            is built otherwise than CLIP's: without a class token that is read, or with attention of another kind.
    """
    visual = getattr(getattr(retriever, "model", None), "visual", None)
    if not isinstance(visual, VisionTransformer):
        kind = type(visual if visual is not None else retriever).__name__
        raise ModelError(
            f"the image tower is a {kind}: heads can be taken out of open_clip's VisionTransformer only (ViT-B-32 and "
            "its like). A convolutional tower has no heads whose write to a class token could be left out; take the "
            "projection, or interpolation, instead"
        )
    if visual.attn_pool is not None or visual.pool_type != "tok":
        raise ModelError(
            "the image tower does not read its output off the class token (it pools), so that what heads write there "
            "does not decide"
        )
    for number, block in enumerate(visual.transformer.resblocks):
        attention = block.attn
        if not isinstance(block, ResidualAttentionBlock) or not isinstance(attention, nn.MultiheadAttention):
            raise ModelError(
                f"block {number} of the image tower has a {type(attention).__name__}: heads can be told apart in "
                "torch.nn.MultiheadAttention only"
            )
    return visual


class AblatedAttention(nn.MultiheadAttention):
    """Self-attention in which some heads write nothing to the class token.

    It holds the parameters of the attention in whose place it stands, under their names, so that weights are saved and
    loaded as before. What the heads would have written to the first token is computed once more and taken away; the
    other tokens, and what the other heads write, stay bit for bit.

    Args:
        base: of an open_clip block.
        ablated: numbers of the heads.
    """

    def __init__(self, base: nn.MultiheadAttention, ablated: Sequence[int]) -> None:
        super().__init__(base.embed_dim, base.num_heads, bias=base.in_proj_bias is not None, device="meta")
        self.batch_first, self.dropout = base.batch_first, base.dropout
        self.in_proj_weight, self.in_proj_bias = base.in_proj_weight, base.in_proj_bias
        self.out_proj = base.out_proj
        self.ablated = tuple(sorted(set(ablated)))
        self.train(base.training)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Any]:
        """As of ``torch.nn.MultiheadAttention``, less the ablated heads' write to the first token."""
        out, weights = super().forward(query, key, value, *args, **options)
        if not self.ablated:
            return out, weights
        x = query if self.batch_first else query.transpose(0, 1)
        first = out[:, :1] if self.batch_first else out[:1]
        write = class_write(self, x, self.ablated).sum(dim=1)
        first = first - (write[:, None] if self.batch_first else write[None])
        rest = out[:, 1:] if self.batch_first else out[1:]
        return torch.cat([first, rest], dim=1 if self.batch_first else 0), weights

    def extra_repr(self) -> str:
        """Name the heads: what a tower's key tells it apart by."""
        return f"ablated={self.ablated}"


def class_attention(attention: nn.MultiheadAttention, x: Tensor, heads: Sequence[int] | None = None) -> Tensor:
    """What the class token looks at.

    Args:
        attention: self-attention of a block.
        x: [B, L, W] its input, the class token first.
        heads: H' of them; None for all.

    Returns:
        [B, H', L] weights, each row summing to 1.
    """
    chosen = range(attention.num_heads) if heads is None else heads
    q = _part(attention, x[:, :1], chosen, 0)
    k = _part(attention, x, chosen, 1)
    logits = torch.einsum("bihd,bjhd->bhj", q, k) * attention.head_dim**-0.5
    return logits.softmax(dim=-1)


def class_write(attention: nn.MultiheadAttention, x: Tensor, heads: Sequence[int]) -> Tensor:
    """What heads add to the class token, without the bias of the output, which belongs to no head.

    Args:
        attention: self-attention of a block.
        x: [B, L, W] its input, the class token first.
        heads: H' of them.

    Returns:
        [B, H', W].
    """
    seen = torch.einsum("bhj,bjhd->bhd", class_attention(attention, x, heads), _part(attention, x, heads, 2))
    size = attention.head_dim
    out = torch.stack([attention.out_proj.weight[:, head * size : (head + 1) * size] for head in heads])
    return torch.einsum("bhd,hwd->bhw", seen, out)


def _part(attention: nn.MultiheadAttention, x: Tensor, heads: Iterable[int], which: int) -> Tensor:
    """Queries (0), keys (1) or values (2) of some heads: [B, L, W] to [B, L, H', d]."""
    size, width = attention.head_dim, attention.embed_dim
    rows = torch.cat([torch.arange(head * size, (head + 1) * size) for head in heads]).to(x.device) + which * width
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[rows]
    found = nn.functional.linear(x, attention.in_proj_weight[rows], bias)
    return found.unflatten(-1, (-1, size))


def ablate(retriever: Retriever, heads: Iterable[Head]) -> Retriever:
    """Take heads out of a retriever, in place; heads that were out before come back in unless they are named again.

    Dyslexify (section 5.7 of our reference; what a head writes to the class token's residual is set to zero). The
    weights are not changed, so that a checkpoint does not know of it: keep the list (:func:`save_heads`), and take the
    heads out again where the retriever is loaded.

    Args:
        retriever: an open_clip one with a ViT.
        heads: (block, head) pairs; none leaves every bit as it was.

    Returns:
        The same retriever.

    Raises:
        ModelError: for another tower, or a head that it does not have.
    """
    visual = vision_transformer(retriever)
    blocks = visual.transformer.resblocks
    out: dict[int, list[int]] = {}
    for block, head in heads:
        if not (0 <= block < len(blocks) and 0 <= head < blocks[block].attn.num_heads):
            raise ModelError(
                f"there is no head {head} in block {block}: the image tower has {len(blocks)} blocks of "
                f"{blocks[0].attn.num_heads} heads, counted from 0"
            )
        out.setdefault(int(block), []).append(int(head))
    for number, block in enumerate(blocks):
        if isinstance(block.attn, AblatedAttention):
            block.attn = _plain(block.attn)
        if number in out:
            block.attn = AblatedAttention(block.attn, out[number])
    return retriever


@contextmanager
def ablated(retriever: Retriever, heads: Iterable[Head]) -> Iterator[Retriever]:
    """Take heads out for a while; afterwards those are out that were before."""
    before = ablated_heads(retriever)
    ablate(retriever, heads)
    try:
        yield retriever
    finally:
        ablate(retriever, before)


def ablated_heads(retriever: Retriever) -> tuple[Head, ...]:
    """Heads that are out, in ascending order."""
    blocks = vision_transformer(retriever).transformer.resblocks
    return tuple(
        (number, head)
        for number, block in enumerate(blocks)
        if isinstance(block.attn, AblatedAttention)
        for head in block.attn.ablated
    )


def _plain(attention: AblatedAttention) -> nn.MultiheadAttention:
    bias = attention.in_proj_bias is not None
    plain = nn.MultiheadAttention(attention.embed_dim, attention.num_heads, bias=bias, device="meta")
    plain.batch_first, plain.dropout = attention.batch_first, attention.dropout
    plain.in_proj_weight, plain.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
    plain.out_proj = attention.out_proj
    return plain.train(attention.training)


def bottom_rows(retriever: Retriever, rows: int = 2) -> Tensor:
    """The patches of the lowest rows of a tower's grid: [P] bool, row by row.

    Raises:
        ModelError: for a tower without patches, or with no more rows than that.
    """
    high, wide = vision_transformer(retriever).grid_size
    if not 1 <= rows < high:
        raise ModelError(f"{rows} rows of patches are to hold text, but the image tower has {high} in all")
    return (torch.arange(high) >= high - rows).repeat_interleave(wide)


@torch.inference_mode()
def text_attention(retriever: Retriever, images: Tensor, text: Tensor, batch_size: int = 64) -> Tensor:
    """How much each head looks at text.

    Dyslexify's score: ``T = mean over pictures of (attention of the class token to patches with text) / (its attention
    to all patches)``; the paper sums instead of taking means, which orders heads alike.

    Args:
        retriever: put into evaluation mode; heads that are out of it look as they did.
        images: [n, 3, H, W] uint8, pictures with text on them and none elsewhere.
        text: [P] or [n, P] bool, patches with text, row by row.
        batch_size: pictures at once.

    Returns:
        [blocks, heads] float64 in [0, 1].

    Raises:
        ModelError: for another tower, no pictures, or patches that it does not have.
    """
    visual = vision_transformer(retriever)
    patches = visual.grid_size[0] * visual.grid_size[1]
    if not len(images):
        raise ModelError("there is no picture with text to score heads on")
    if text.shape[-1] != patches or text.ndim > 2 or (text.ndim == 2 and len(text) != len(images)):
        raise ModelError(f"text is {tuple(text.shape)}; the tower has {patches} patches: give [P] or [n, P] of them")
    device = next(retriever.parameters()).device
    mask = text.to(device).expand(len(images), patches)
    blocks = visual.transformer.resblocks
    total = torch.zeros(len(blocks), blocks[0].attn.num_heads, dtype=torch.float64)
    rows = slice(0, 0)

    def watch(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, nn.MultiheadAttention)
            x = inputs[0] if module.batch_first else inputs[0].transpose(0, 1)
            seen = class_attention(module, x)[:, :, 1:].double()
            share = (seen * mask[rows].unsqueeze(1)).sum(dim=2) / seen.sum(dim=2)
            total[number] += share.sum(dim=0).cpu()

        return note

    training = retriever.training
    retriever.eval()
    handles = [block.attn.register_forward_pre_hook(watch(number)) for number, block in enumerate(blocks)]
    try:
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            retriever.encode_image(images[rows].to(device))
    finally:
        for handle in handles:
            handle.remove()
        retriever.train(training)
    return total / len(images)


@dataclass(frozen=True)
class Tried:
    """A head that was tried.

    Attributes:
        head: which.
        score: its T.
        clean: the clean figure with it out as well.
        attacked: the attacked figure likewise.
        kept: whether it stays out.
    """

    head: Head
    score: float
    clean: float
    attacked: float
    kept: bool


@dataclass(frozen=True)
class ChosenHeads:
    """What :func:`choose_heads` decides.

    Attributes:
        heads: that go out, in the order in which they were chosen.
        tried: all that were tried, in order.
        before: (clean, attacked) with every head in.
        after: likewise with the chosen ones out.
    """

    heads: tuple[Head, ...]
    tried: tuple[Tried, ...]
    before: tuple[float, float]
    after: tuple[float, float]


def choose_heads(
    scores: Tensor,
    measure: Callable[[tuple[Head, ...]], tuple[float, float]],
    *,
    drop: float = 0.01,
    skips: int = 10,
) -> ChosenHeads:
    """Choose the heads to take out.

    Dyslexify's search: heads in order of decreasing T are added while the clean figure stays less than ``drop`` below
    its start; a head that does not raise the attacked figure is skipped, and the search ends after ``skips`` of those
    in a row. A head that would cost too much ends it too.

    Args:
        scores: [blocks, heads] of :func:`text_attention`.
        measure: gives ``(clean, attacked)`` with some heads out: accuracies, or any figures that should be high.
        drop: see above, as a difference of shares.
        skips: see above.

    Returns:
        The choice; of equal scores the earlier head comes first.

    Raises:
        ModelError: for a drop that is not above 0, or fewer than one skip.
    """
    if not drop > 0:
        raise ModelError(f"drop is {drop}; the clean figure must be allowed some loss, such as 0.01")
    if skips < 1:
        raise ModelError(f"skips is {skips}; give 1 or more")
    flat = scores.double().flatten()
    order = torch.argsort(flat, descending=True, stable=True).tolist()
    before = now = measure(())
    chosen: tuple[Head, ...] = ()
    tried: list[Tried] = []
    skipped = 0
    for place in order:
        head = divmod(place, scores.shape[1])
        clean, attacked = measure((*chosen, head))
        costly, gains = not before[0] - clean < drop, attacked > now[1]
        tried.append(Tried(head, float(flat[place]), clean, attacked, gains and not costly))
        if costly and gains:
            break
        if not gains:
            skipped += 1
            if skipped >= skips:
                break
            continue
        chosen, now, skipped = (*chosen, head), (clean, attacked), 0
    return ChosenHeads(chosen, tuple(tried), before, now)


def save_heads(path: Path, retriever: Retriever, chosen: Sequence[Head], about: dict[str, Any] | None = None) -> None:
    """Write a list of heads as JSON, with the shape of the tower that they are of. It appears when whole.

    Args:
        path: ends in ``.json``.
        retriever: that they are of.
        chosen: the heads.
        about: how they were chosen; whatever JSON holds.

    Raises:
        ModelError: for another ending, or another tower.
    """
    if path.suffix != ".json":
        raise ModelError(f"{path}: end the file's name in .json")
    document = {"kind": KIND, "heads": [list(head) for head in chosen], "tower": _shape(retriever), **(about or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
    partial.replace(path)


def load_heads(path: Path, retriever: Retriever) -> tuple[Head, ...]:
    """Read a list of heads for a retriever; :func:`ablate` takes them out.

    Raises:
        ModelError: where the file is missing, is something else, or is of a tower of another shape.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["kind"] != KIND:
            raise ValueError(document["kind"])
        heads = tuple((int(block), int(head)) for block, head in document["heads"])
        tower = document["tower"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: is no list of heads ({error}); `bias-train remedy text heads` writes one") from error
    own = _shape(retriever)
    if tower != own:
        raise ModelError(f"{path}: is of a tower of {_told(tower)}, but the retriever's has {_told(own)}")
    return heads


def _shape(retriever: Retriever) -> dict[str, int]:
    visual = vision_transformer(retriever)
    blocks = visual.transformer.resblocks
    return {"blocks": len(blocks), "heads": blocks[0].attn.num_heads, "width": blocks[0].attn.embed_dim}


def _told(tower: Any) -> str:
    return ", ".join(f"{value} {name}" for name, value in tower.items()) if isinstance(tower, dict) else f"{tower}"
