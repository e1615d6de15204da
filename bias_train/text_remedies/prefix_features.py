"""Embeds labelled pictures with and without a wrong class name, as a prefix is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bias_train.audit.text.text_set import text_set
from bias_train.embed import embed_pictures
from bias_train.errors import RunError
from bias_train.text_remedies.measure import Embedding
from models.retriever import Retriever

_PROMPT = "{label}"


@dataclass(frozen=True)
class PrefixFeatures:
    """What a prefix is trained on.

    Attributes:
        labels: [C] classes: all labels and all written words.
        attacked: [n, D] float32 pictures with another class's name on them.
        clean: [m, D] of those that have it, the same pictures before.
        label: [n] int64 what the attacked ones show.
    """

    labels: tuple[str, ...]
    attacked: Tensor
    clean: Tensor
    label: Tensor


def prefix_features(
    retriever: Retriever, attack: Sequence[str], embedding: Embedding, *, limit: int | None = None, seed: int = 0
) -> PrefixFeatures:
    """Embed sets of attacked pictures.

    Args:
        retriever: the dual encoder.
        attack: sets of labelled pictures with a wrong word.
        embedding: how.
        limit: at most this many pictures, drawn at random.
        seed: of the choice.

    Raises:
        DataError: for shards that cannot be read or hold no attacked picture.
        RunError: where no picture is there as it was before.
    """
    asked = text_set(pairs=attack, attack=attack, label_prompt=_PROMPT, limit=limit, seed=seed)
    found = asked.questions.attacks
    assert found is not None  # text_set has seen to it
    has = found.clean >= 0
    if not has.any():
        raise RunError(
            f"--attack {', '.join(map(str, attack))}: no picture is there without its word (a view clean, or an anchor "
            "of a view overlay), by which clean pictures are kept as they are"
        )
    image = embed_pictures(
        retriever, asked.pictures, batch_size=embedding.batch_size, workers=embedding.workers, device=embedding.device
    )
    return PrefixFeatures(
        labels=tuple(asked.texts[row] for row in found.prompt.tolist()),
        attacked=image[torch.from_numpy(found.attacked)],
        clean=image[torch.from_numpy(np.unique(found.clean[has]))],
        label=torch.from_numpy(found.label),
    )
