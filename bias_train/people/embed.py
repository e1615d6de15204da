"""Embed labelled pictures of people, neutral words and prompts that name groups with a retriever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from bias_train.embed import embed_pictures, embed_texts
from bias_train.people.vectors import GroupPrompts, People, Words
from datamodules.catalogue import Catalogue
from datamodules.errors import DataError
from datamodules.evaluation import EvaluationSet
from datamodules.groups import Grouping, groupings_of
from datamodules.hashing import mix
from datamodules.index import ShardIndex
from datamodules.people import labelled_people
from datamodules.taxonomy import Entry, GroupPrompt, Prompt, attribute_prompts, group_prompts
from models.retriever import Retriever


def embed_people(
    retriever: Retriever,
    shards: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> People:
    """Embed the pictures of people that some shard sets hold.

    Taken are the anchors of samples that say a group (`datamodules.groups.META`); views are left out, since they show
    the same people again.

    Args:
        retriever: the dual encoder; moved to ``device`` and put into evaluation mode.
        shards: folders or URLs of shard sets.
        limit: at most this many pictures, drawn at random; None takes all.
        batch_size: pictures at once.
        workers: loader processes.
        device: where to compute.
        seed: of the choice under a limit.

    Returns:
        L2-normalised float32 vectors on the CPU, in the order of the shards.

    Raises:
        DataError: for shards that cannot be read or that hold nobody's group, or a picture that cannot be decoded.
    """
    asked, groupings = people_set(shards, limit=limit, seed=seed)
    image = embed_pictures(retriever, asked, batch_size=batch_size, workers=workers, device=device)
    return People(image, asked.keys, groupings)


def people_set(
    shards: Sequence[str], *, limit: int | None = None, seed: int = 0
) -> tuple[EvaluationSet, tuple[Grouping, ...]]:
    """Find what :func:`embed_people` embeds: the pictures, without a query, and their groups."""
    catalogue = Catalogue.of([ShardIndex.load(location) for location in shards])
    samples, groups = labelled_people(catalogue)
    if not len(samples):
        raise DataError(
            f"{', '.join(map(str, shards))}: no sample says a group of people; import labelled pictures with "
            "`bias-train shards import faces`"
        )
    if limit is not None:
        chosen = np.sort(np.argsort(mix(seed, 9, samples), kind="stable")[:limit])
        samples, groups = samples[chosen], [groups[row] for row in chosen.tolist()]
    picture = catalogue.anchor[samples].astype(np.int64)
    nothing = np.empty(0, dtype=np.int64)
    asked = EvaluationSet(
        keys=tuple(catalogue.name(int(one)) for one in picture),
        picture=picture,
        target=samples,
        source=catalogue.picture_source[picture].astype(np.int64),
        sources=catalogue.sources,
        queries=(),
        query_target=nothing,
        query_slot=nothing,
        relevance="pair",
        target_names=(),
        corpus=catalogue,
    )
    return asked, groupings_of(groups)


def embed_words(
    retriever: Retriever,
    prompts: Sequence[Prompt],
    *,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
) -> Words:
    """Embed neutral words as they are asked with.

    Args:
        retriever: the dual encoder; moved to ``device`` and put into evaluation mode.
        prompts: of :func:`datamodules.taxonomy.word_prompts`.
        batch_size: prompts at once.
        device: where to compute.

    Returns:
        A row for each prompt, in their order.

    Raises:
        DataError: for no prompts.
    """
    if not prompts:
        raise DataError("there are no words to ask with")
    return Words(
        embed_texts(retriever, [prompt.text for prompt in prompts], batch_size=batch_size, device=device),
        tuple(prompt.word for prompt in prompts),
        tuple(prompt.category for prompt in prompts),
        tuple(prompt.text for prompt in prompts),
        tuple(prompt.tier for prompt in prompts),
    )


def embed_group_prompts(
    retriever: Retriever,
    attribute: str,
    labels: Sequence[str],
    *,
    mode: Literal["article", "bare"] = "article",
    own: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    words: Sequence[Entry] | None = None,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
) -> GroupPrompts:
    """Embed prompts that name groups.

    Args:
        retriever: the dual encoder; moved to ``device`` and put into evaluation mode.
        attribute: such as ``"gender"`` or ``"race x gender"``.
        labels: its groups.
        mode: see :func:`datamodules.taxonomy.group_prompts`.
        own: prompts of the user's own, likewise.
        words: name the groups together with each of these ("A photo of a female doctor."), see
            :func:`datamodules.taxonomy.attribute_prompts`; None names them alone.
        batch_size: prompts at once.
        device: where to compute.

    Raises:
        DataError: for a group that has no words.
    """
    prompts: Sequence[GroupPrompt]
    if words is None:
        prompts = group_prompts(attribute, labels, mode, own=own)
    else:
        prompts = attribute_prompts(attribute, labels, words)
    if not prompts:
        raise DataError(f"there are no groups of {attribute} to name")
    return GroupPrompts(
        embed_texts(retriever, [prompt.text for prompt in prompts], batch_size=batch_size, device=device),
        attribute,
        tuple(prompt.group for prompt in prompts),
        tuple(prompt.text for prompt in prompts),
    )
