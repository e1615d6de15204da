"""Reads shards of written-on and erased pictures as questions about text, without a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_train.audit.text.rendering import Rendering, check_prompt, embed_rendered
from bias_train.audit.text.sample_reader import LABEL, SampleReader
from bias_train.embed import embed_pictures, embed_texts
from bias_train.metrics.functional.text.questions import TextQuestions
from bias_train.stats import Ints
from datamodules.catalogue import Catalogue
from datamodules.errors import DataError
from datamodules.evaluation import EvaluationSet
from datamodules.hashing import mix
from datamodules.index import ShardIndex
from models.retriever import Retriever


@dataclass(frozen=True)
class TextSet:
    """Pictures, rendered words and texts, and what is asked of them.

    Attributes:
        pictures: all pictures of shards, in the order of the questions' rows.
        rendering: rendered words, whose rows follow those of the pictures; None for none.
        texts: all texts, each once: two equal captions must have equal scores.
        questions: which rows are what.
        counts: what was taken and what was left out, by reason.
        record: templates, engines and fonts, by name.
    """

    pictures: EvaluationSet
    rendering: Rendering | None
    texts: tuple[str, ...]
    questions: TextQuestions
    counts: dict[str, int]
    record: dict[str, Any]


def text_set(
    shards: Sequence[str] = (),
    *,
    rendering: Rendering | None = None,
    pairs: Sequence[str] = (),
    reading: Sequence[str] = (),
    attack: Sequence[str] = (),
    query: str = "a photo of a {word}",
    label_prompt: str = "a photo of a {label}",
    limit: int | None = None,
    seed: int = 0,
) -> TextSet:
    """Find what is asked about text.

    A picture with a wrong word is a view ``overlay`` of a picture, or an anchor on which a misleading word was written
    and whose view ``clean`` is the picture before. Words that a caption of the picture says are left out, and counted;
    so are words on pictures of which nobody kept how they were before.

    Args:
        shards: sets of pictures with ``overlay`` or ``erased`` views (`bias-train synthesize overlay`, ``erase``).
        rendering: words to render; None asks nothing of rendered words.
        pairs: sets of ordinary pictures and captions; none takes the clean pictures of ``shards``.
        reading: sets of pictures whose captions are about the text in them; where every sample has a label, what is
            written, or a single caption, pictures and captions of one label or caption answer each other.
        attack: sets of labelled pictures with a wrong word on them.
        query: how a written word is asked for, with ``{word}``.
        label_prompt: how a class is asked for, with ``{label}``.
        limit: at most this many pictures of each set of sets, drawn at random; None takes all.
        seed: of the choice under a limit.

    Raises:
        DataError: for shards that cannot be read or hold nothing to ask with.
        RunError: for a template without a place for its word.
    """
    check_prompt(query, "query")
    check_prompt(label_prompt, "label_prompt", LABEL)
    roles = {"shards": shards, "pairs": pairs, "reading": reading, "attack": attack}
    locations = list(dict.fromkeys(map(str, (one for sets in roles.values() for one in sets))))
    if not shards and not pairs:
        raise DataError("no pictures with captions were given: name shards, or pairs")
    indexes = {location: ShardIndex.load(location) for location in locations}
    catalogue = Catalogue.of(list(indexes.values()))
    ends = np.cumsum([0, *(len(index) for index in indexes.values())])
    first = dict(zip(locations, ends, strict=False))

    def rows(sets: Sequence[str]) -> Ints:
        found = [np.arange(first[one], first[one] + len(indexes[one])) for one in dict.fromkeys(map(str, sets))]
        whole = np.concatenate(found).astype(np.int64) if found else np.empty(0, dtype=np.int64)
        if limit is not None:
            whole = np.sort(whole[np.argsort(mix(seed, 9, whole), kind="stable")[:limit]])
        return whole

    reader = SampleReader(catalogue, query, label_prompt)
    overlays, erasures = reader.edited(rows(shards))
    if shards and overlays is None and not erasures:
        raise DataError(
            f"{', '.join(map(str, shards))}: holds no picture with a wrong word and none with text removed; make some "
            "with `bias-train synthesize overlay` or `bias-train synthesize erase`, or name the sets as pairs"
        )
    questions = TextQuestions(
        reader.pairs(rows(pairs or shards), "ordinary", pairs or shards),
        overlays=overlays,
        reading=reader.pairs(rows(reading), "reading", reading, clean=False) if reading else None,
        attacks=reader.attacks(rows(attack), attack) if attack else None,
        erasures=erasures,
    )
    if rendering is not None:  # last, since its rows follow those of all pictures
        questions = replace(questions, words=reader.words(rendering))
    record = reader.record(reading=bool(reading))
    return TextSet(reader.pictures(), rendering, reader.texts(), questions, dict(reader.counts), record)


@torch.inference_mode()
def embed_text_set(
    retriever: Retriever, asked: TextSet, *, batch_size: int = 64, workers: int = 0, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Embed a set with a retriever.

    Args:
        retriever: the dual encoder; moved to ``device`` and put into evaluation mode.
        asked: what to embed.
        batch_size: pictures at once.
        workers: loader processes.
        device: where to compute.

    Returns:
        ``(image, text)``, [N, D] and [T, D] float32 on the CPU, L2-normalised, in the order of the questions' rows.
    """
    image = embed_pictures(retriever, asked.pictures, batch_size=batch_size, workers=workers, device=device)
    if asked.rendering is not None:
        image = torch.cat([image, embed_rendered(retriever, asked.rendering, batch_size=batch_size, device=device)])
    return image, embed_texts(retriever, asked.texts, device=device)
