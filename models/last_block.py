"""The last block of a transformer, for the one token that is read.

A tower that is read off one token (the class token of a ViT, the end of a caption) lets its last block make something
of every token, and throws away all but one. Here the last block makes keys and values of all tokens, and queries,
attention and the MLP of the one: what is computed is what open_clip computes for that token, at about a twelfth of the
block's work. With twelve blocks that is 7 % of a tower, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer
from torch import Tensor, nn


def reads_one_token(transformer: Any) -> bool:
    """Whether :func:`transform_one` does for a transformer what its own forward does.

    It does not where somebody watches or changes what the last block computes (hooks, another attention), where blocks
    are compiled together, or where their activations are computed again in the backward pass.

    Args:
        transformer: of an open_clip tower.
    """
    if type(transformer) is not Transformer or not transformer.batch_first or transformer.grad_checkpointing:
        return False
    last: Any = transformer.resblocks[-1] if len(transformer.resblocks) else None
    return (
        transformer._compiled_call_impl is None
        and type(last) is ResidualAttentionBlock
        and type(last.attn) is nn.MultiheadAttention
        and not hasattr(last, "ln_1_kv")
        and not any(_is_watched(part) for part in (transformer, *transformer.resblocks, *last.modules()))
    )


def _is_watched(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def transform_one(transformer: Any, x: Tensor, token: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Run a transformer, of whose output one token a row is read.

    Args:
        transformer: for which :func:`reads_one_token` holds.
        x: [B, L, W] embedded tokens.
        token: [B] int64, the one that is read.
        attn_mask: [L, L] added to the logits of attention (minus infinity where a row must not look), or None.

    Returns:
        [B, W].
    """
    for block in transformer.resblocks[:-1]:
        x = block(x, attn_mask=attn_mask)
    last: Any = transformer.resblocks[-1]
    row = torch.arange(len(x), device=x.device)
    normal = last.ln_1(x)
    mask = None
    if attn_mask is not None:
        # Each row may look where its token may: [B, 1, L], and the same for every head.
        mask = attn_mask.to(x.dtype)[token].unsqueeze(1).repeat_interleave(last.attn.num_heads, dim=0)
    seen, _ = last.attn(normal[row, token].unsqueeze(1), normal, normal, need_weights=False, attn_mask=mask)
    one = x[row, token] + last.ls_1(seen.squeeze(1))
    return one + last.ls_2(last.mlp(last.ln_2(one)))


def class_token_tower(visual: Any) -> Any | None:
    """An open_clip ViT that is read off its class token alone; None for any other tower.

    Args:
        visual: an open_clip model's tower of pictures.
    """
    if type(visual) is not VisionTransformer or visual.attn_pool is not None or visual.output_tokens:
        return None
    plain = visual.pool_type == "tok" and visual._compiled_call_impl is None and not _is_watched(visual)
    return visual if plain and reads_one_token(visual.transformer) else None


def encode_class_token(tower: Any, pixels: Tensor) -> Tensor:
    """Encode pictures.

    Args:
        tower: of :func:`class_token_tower`.
        pixels: [B, 3, H, W] float, normalised.

    Returns:
        [B, D], not normalised.
    """
    x = tower._embeds(pixels)
    x = transform_one(tower.transformer, x, torch.zeros(len(x), dtype=torch.int64, device=x.device))
    x = tower.ln_post(x)
    return x if tower.proj is None else x @ tower.proj
