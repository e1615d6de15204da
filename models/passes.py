"""A batch that passes a tower in parts, of which one at a time is held.

Losses that are coupled over the batch need all embeddings at once, but not all activations: embeddings are computed
part by part, the losses' gradient with respect to them is taken, and each part is computed again when it is its turn in
the backward pass, with the random numbers of the first time (dropout draws alike). The gradient is that of the whole
batch; adding up the gradients of smaller batches (``trainer.accumulate_grad_batches``) is another objective. This is
the gradient cache of Gao et al. 2021 (arXiv 2101.06983), by PyTorch's checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from models.errors import ModelError


def in_passes(encode: Callable[[Tensor], Tensor], inputs: Tensor, rows: int) -> Tensor:
    """Encode some rows at a time.

    Args:
        encode: takes [b, ...], returns [b, D]; a row's output depends on the row alone.
        inputs: [B, ...].
        rows: how many at a time; 0 takes all, and computes nothing twice.

    Returns:
        [B, D].
    """
    if not rows or len(inputs) <= rows:
        return encode(inputs)
    parts = inputs.split(rows)
    if not torch.is_grad_enabled():
        return torch.cat([encode(part) for part in parts])
    return torch.cat([checkpoint(encode, part, use_reentrant=False) for part in parts])


def refuse_batch_norm(module: nn.Module) -> None:
    """Refuse a tower whose rows depend on each other.

    Raises:
        ModelError: if a batch norm is in training: it would see a part of the batch at a time, and count it twice.
    """
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and part.training:
            raise ModelError(
                f"model.encode_batch_size takes a batch in parts, but the batch norm {name} makes an embedding depend "
                "on the others of its part: leave the option out, take a tower without batch norm (a ViT), or "
                "freeze the tower (lock_image: true)"
            )
