"""Embed shards with a retriever, outside of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bias_train.embeddings import REAL, Embeddings
from datamodules.catalogue import Catalogue
from datamodules.evaluation import EvaluationSet, EvaluationStream, Relevance, Transform, evaluation_set
from datamodules.index import ShardIndex
from datamodules.workers import end_with_trainer, worker_context
from models.retriever import Retriever


def embed_shards(
    retriever: Retriever,
    shards: Sequence[str],
    *,
    relevance: Relevance = "auto",
    prompts: Sequence[str] = ("a photo of a {label}",),
    limit: int | None = None,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Embeddings:
    """Embed every picture and query of some shard sets.

    Args:
        retriever: the dual encoder; moved to ``device`` and put into evaluation mode.
        shards: folders or URLs of shard sets, photos and generated pictures together or apart.
        relevance: what counts as relevant, see :func:`datamodules.evaluation.evaluation_set`.
        prompts: class prompts where relevance is by label.
        limit: at most this many samples per source.
        batch_size: pictures at once; queries go four times as many at once.
        workers: loader processes.
        device: where to compute.
        seed: of the choice under a limit.

    Returns:
        L2-normalised float32 vectors on the CPU.

    Raises:
        DataError: for shards that cannot be read, or a picture that cannot be decoded.
    """
    catalogue = Catalogue.of([ShardIndex.load(location) for location in shards])
    asked = evaluation_set(catalogue, relevance=relevance, prompts=prompts, limit=limit, seed=seed)
    image = embed_pictures(retriever, asked, batch_size=batch_size, workers=workers, device=device)
    return as_embeddings(asked, image, embed_texts(retriever, asked.queries, batch_size=4 * batch_size, device=device))


@torch.inference_mode()
def embed_pictures(
    retriever: Retriever,
    asked: EvaluationSet,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "cpu",
    transform: Transform | None = None,
) -> Tensor:
    """Embed the pictures of an evaluation set.

    Args:
        retriever: the dual encoder; moved to ``device`` and put into evaluation mode.
        asked: whose pictures.
        batch_size: pictures at once.
        workers: loader processes.
        device: where to compute.
        transform: changes every picture before it is resized, see `EvaluationStream`.

    Returns:
        [M, D] float32 on the CPU, L2-normalised, in the set's order.

    Raises:
        DataError: for a picture that cannot be decoded.
    """
    retriever = retriever.to(device).eval()
    loader = DataLoader(
        EvaluationStream(asked, retriever.image_size, batch_size, transform=transform),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=end_with_trainer,
        multiprocessing_context=worker_context(retriever.tokenize) if workers else None,
    )
    image = torch.empty(len(asked), retriever.embed_dim)
    for batch in loader:
        image[batch["index"]] = retriever.encode_image(batch["image"].to(device)).float().cpu()
    return image


@torch.inference_mode()
def embed_texts(
    retriever: Retriever, texts: Sequence[str], *, batch_size: int = 256, device: str | torch.device = "cpu"
) -> Tensor:
    """Embed texts.

    Args:
        retriever: the dual encoder; moved to ``device`` and put into evaluation mode.
        texts: [Q], at least one.
        batch_size: texts at once.
        device: where to compute.

    Returns:
        [Q, D] float32 on the CPU, L2-normalised.
    """
    retriever = retriever.to(device).eval()
    parts = [list(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
    return torch.cat([retriever.encode_text(retriever.tokenize(part).to(device)).float().cpu() for part in parts])


def as_embeddings(asked: EvaluationSet, image: Tensor, text: Tensor | None) -> Embeddings:
    """Put the vectors of an evaluation set beside what they are of.

    Args:
        asked: pictures and queries.
        image: [M, D] float32 on the CPU, in the set's order.
        text: [Q, D] likewise, or None for the pictures alone.
    """
    found = Embeddings(
        image=image,
        image_key=asked.keys,
        image_target=asked.target,
        image_source=asked.source,
        sources=(REAL, *asked.sources[1:]),
        relevance="label" if asked.relevance == "label" else "pair",
        target_names=asked.target_names,
    )
    if text is None:
        return found
    return replace(found, text=text, query=asked.queries, query_target=asked.query_target, query_slot=asked.query_slot)
