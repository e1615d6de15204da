"""Text towers that need not see the padding after a caption.

Captions are short, and contexts are long: of 77 tokens a caption of COCO fills 13 on average. A causal tower that reads
its output off the end-of-text token never looks at what follows it, so cutting the batch's tokens behind the longest
caption changes no output, and takes a fraction of the time; so does taking captions of like length together. (open_clip
runs the full context; what is computed here for the tokens that remain is what it computes for them.) Towers that look
both ways, mask their padding, append a class token or read another place keep the full context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from models.last_block import reads_one_token, transform_one

# Lengths are multiples of this, so that a compiled tower meets few of them.
STEP = 8
# What one more pass of a tower costs, in tokens.
PASS = 48


def short_tower(model: nn.Module) -> Any | None:
    """The part of an open_clip model that encodes text, where it reads nothing behind the end of a caption; else None.

    Args:
        model: an open_clip model.
    """
    tower: Any = model if type(model) is CLIP else getattr(model, "text", None)
    if type(tower) not in (CLIP, TextTransformer):
        return None
    pool = tower.text_pool_type if type(tower) is CLIP else tower.pool_type
    causal = tower.attn_mask is not None and getattr(tower, "cls_emb", None) is None
    plain = not getattr(tower, "use_pad_mask", False) and not getattr(tower, "output_tokens", False)
    return tower if causal and plain and pool == "argmax" else None


def end_of_text(tokens: Tensor) -> Tensor:
    """[B, L] to [B] int64: where each caption ends, at the token of the highest number."""
    return tokens.argmax(dim=1)


def cut(tokens: Tensor) -> Tensor:
    """Cut behind the longest caption, but for what rounds the length up to a multiple of ``STEP``.

    Args:
        tokens: [B, L] int64, on the CPU: on a device the length would have to be waited for.

    Returns:
        [B, L'] int64, L' at most L.

    Example:
        >>> cut(torch.tensor([[5, 9, 0, 0, 0, 0, 0, 0, 0, 0], [5, 7, 9, 0, 0, 0, 0, 0, 0, 0]])).shape
        torch.Size([2, 8])
    """
    if len(tokens) == 0:
        return tokens
    longest = int(end_of_text(tokens).max()) + 1
    return tokens[:, : -(-longest // STEP) * STEP].contiguous()


def groups_of(lengths: Sequence[int]) -> list[list[int]]:
    """Divide captions into groups of like length, so that few tokens are padding.

    Args:
        lengths: of the captions, B of them.

    Returns:
        Rows of each group: those with the fewest tokens in all, padding and ``PASS`` for each group included.

    Example:
        >>> groups_of([3, 40, 4] * 20) == [[i for i in range(60) if i % 3 != 1], [*range(1, 60, 3)]]
        True
        >>> groups_of([3, 40])
        [[0, 1]]
    """
    ordered = sorted(range(len(lengths)), key=lengths.__getitem__)
    # A group ends where the length changes. best[i] is the least cost of the rows before cut i, and the cut before it.
    changes = (i for i in range(1, len(ordered)) if lengths[ordered[i - 1]] < lengths[ordered[i]])
    cuts = [0, *changes, len(ordered)]
    best = [(0, 0)]
    for i in range(1, len(cuts)):
        longest = lengths[ordered[cuts[i] - 1]]
        best.append(min((best[j][0] + PASS + longest * (cuts[i] - cuts[j]), j) for j in range(i)))
    groups, i = [], len(cuts) - 1
    while i > 0:
        j = best[i][1]
        groups.append(sorted(ordered[cuts[j] : cuts[i]]))
        i = j
    return groups[::-1]


def encode(tower: Any, tokens: Tensor) -> Tensor:
    """Encode captions of any length up to the context's.

    On a CPU, captions of like length go through the tower together. On a device their lengths would have to be waited
    for, and a compiled tower would meet many shapes.

    Args:
        tower: of :func:`short_tower`.
        tokens: [B, L'] int64.

    Returns:
        [B, D], not normalised.
    """
    end = end_of_text(tokens)
    dtype = tower.transformer.get_cast_dtype()
    # Once for all groups: its gradient is as large as the vocabulary.
    return encode_embedded(tower, tower.token_embedding(tokens).to(dtype), end)


def encode_embedded(tower: Any, x: Tensor, end: Tensor) -> Tensor:
    """Encode captions whose tokens are embedded already.

    Args:
        tower: of :func:`short_tower`.
        x: [B, L', W] token embeddings, without those of their places.
        end: [B] int64, where each caption ends.

    Returns:
        [B, D], not normalised.
    """
    x = x + tower.positional_embedding[: x.shape[1]].to(x.dtype)
    if x.device.type != "cpu" or tower.transformer._compiled_call_impl is not None or not len(x):
        x = _ends(tower, x, end)
    else:
        lengths = (end + 1).tolist()
        groups = groups_of(lengths)
        parts = [_ends(tower, x[rows, : max(lengths[row] for row in rows)], end[rows]) for rows in groups]
        x = torch.cat(parts).index_select(0, torch.tensor([row for rows in groups for row in rows]).argsort())
    # The last norm goes token by token: of all but the end it would be thrown away.
    x = tower.ln_final(x)
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def _ends(tower: Any, x: Tensor, end: Tensor) -> Tensor:
    """Embedded tokens [b, l, W] to what the transformer makes of each caption's end [b, W]."""
    length = x.shape[1]
    mask = tower.attn_mask[:length, :length]
    if reads_one_token(tower.transformer):
        return transform_one(tower.transformer, x, end, mask)
    x = tower.transformer(x, attn_mask=mask)
    return x[torch.arange(len(x), device=x.device), end]
