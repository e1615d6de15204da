"""Text towers that need not see the padding after a caption.

Captions are short, and contexts are long: of 77 tokens a caption of COCO fills 13 on average. A causal tower that reads
its output off the end-of-text token never looks at what follows it, so cutting the batch's tokens behind the longest
caption changes no output, and takes a fraction of the time. (open_clip runs the full context; what is computed here for
the tokens that remain is what it computes for them.) Towers that look both ways, mask their padding, append a class
token or read another place keep the full context.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

# Lengths are multiples of this, so that a compiled tower meets few of them.
STEP = 8


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


def encode(tower: Any, tokens: Tensor) -> Tensor:
    """Encode captions of any length up to the context's.

    Args:
        tower: of :func:`short_tower`.
        tokens: [B, L'] int64.

    Returns:
        [B, D], not normalised.
    """
    length = tokens.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    # The last norm goes token by token: of all but the end it would be thrown away.
    x = tower.ln_final(x[torch.arange(len(x), device=x.device), end_of_text(tokens)])
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection
