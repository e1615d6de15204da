"""Embeds a set with every picture changed first: what OCR and blur at query time come to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bias_train.audit.text.rendering import Rendering
from bias_train.audit.text.text_set import TextSet
from bias_train.embed import embed_pictures
from datamodules.decode import fit
from datamodules.evaluation import Transform
from models.retriever import Retriever


@torch.inference_mode()
def embed_changed(
    retriever: Retriever,
    asked: TextSet,
    transform: Transform,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "cpu",
) -> Tensor:
    """Embed all pictures of a set, rendered words included, each changed before it is resized.

    Texts are as they were: a query has nothing written on it.

    Args:
        retriever: the dual encoder; moved to ``device`` and put into evaluation mode.
        asked: what to embed.
        transform: uint8 [H, W, 3] to the same; picklable where there are workers.
        batch_size: pictures at once.
        workers: loader processes.
        device: where to compute.

    Returns:
        [N, D] float32 on the CPU, L2-normalised, in the order of the questions' rows.
    """
    image = embed_pictures(
        retriever, asked.pictures, batch_size=batch_size, workers=workers, device=device, transform=transform
    )
    if asked.rendering is None:
        return image
    parts = [image]
    for rows in asked.rendering.batches(batch_size):
        pictures = _drawn(asked.rendering, rows, retriever.image_size, transform)
        parts.append(retriever.encode_image(pictures.to(device)).float().cpu())
    return torch.cat(parts)


def _drawn(rendering: Rendering, rows: np.ndarray, image_size: tuple[int, int], transform: Transform) -> Tensor:
    """[b, 3, H, W] uint8: canvases as they are drawn, changed, then resized."""
    canvases = rendering.pictures(rows, (rendering.size, rendering.size)).permute(0, 2, 3, 1).numpy()
    found = np.empty((len(rows), *image_size, 3), dtype=np.uint8)
    for out, canvas in zip(found, canvases, strict=True):
        fit(transform(np.ascontiguousarray(canvas)), image_size, out=out)
    return torch.from_numpy(found).permute(0, 3, 1, 2)
