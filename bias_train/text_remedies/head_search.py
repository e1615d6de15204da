"""Searches a ViT for heads that look at text, on overlaid pictures of captioned shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_train.audit.text.text_set import TextSet
from bias_train.errors import RunError
from bias_train.text_remedies.measure import Embedding, answers_of, attack_and_clean
from bias_train.text_remedies.spelling_features import written_words
from datamodules.decode import decode_and_fit
from datamodules.hashing import mix
from datamodules.lettering.overlay import Lettering, write
from models.retriever import Retriever
from models.text_remedies.heads import (
    ChosenHeads,
    Head,
    ablated,
    bottom_rows,
    choose_heads,
    text_attention,
    vision_transformer,
)

ROWS = 2
"""Rows of patches that text is pasted on, as in the paper."""
PICTURES = 10_000
"""At most so many pictures score the heads, as in the paper."""
_STREAM = 502


def find_heads(
    retriever: Retriever,
    asked: TextSet,
    embedding: Embedding,
    *,
    drop: float = 0.01,
    skips: int = 10,
    seed: int = 0,
) -> tuple[ChosenHeads, dict[str, Any]]:
    """Score heads on pictures with a word pasted on their lowest patches, and choose those to take out.

    Dyslexify searches by accuracy on labelled pictures. Here, where there are captions, what must hold is R@1 of
    ordinary pairs (the mean of both directions), and what must rise is the share of captions that beat the written
    word: our choice.

    Args:
        retriever: an open_clip one with a ViT; left as it is.
        asked: a set with overlaid pictures, whose clean ones are taken to hold no text.
        embedding: how.
        drop: see :func:`models.text_remedies.heads.choose_heads`.
        skips: likewise.
        seed: of the choice of pictures, where there are many.

    Returns:
        The choice, and how it was made.

    Raises:
        ModelError: for another tower.
        RunError: for a set without overlaid pictures.
        DataError: for a picture that cannot be decoded.
    """
    vision_transformer(retriever)
    pictures = pasted(asked, retriever.image_size, _height(retriever), seed=seed)
    retriever.to(embedding.device)
    scores = text_attention(retriever, pictures, bottom_rows(retriever, ROWS), embedding.batch_size)

    def measure(heads: tuple[Head, ...]) -> tuple[float, float]:
        with ablated(retriever, heads):
            attack, clean = attack_and_clean(answers_of(asked, embedding.of(retriever, asked)))
        return clean, 1 - attack

    chosen = choose_heads(scores, measure, drop=drop, skips=skips)
    about = {
        "method": "head ablation",
        "heads": [list(head) for head in chosen.heads],
        "of": scores.numel(),
        "scored on": len(pictures),
        "drop": drop,
        "skips": skips,
        "clean R@1 before and after": [chosen.before[0], chosen.after[0]],
        "captions that beat the word before and after": [chosen.before[1], chosen.after[1]],
        "tried": [
            {"head": list(one.head), "T": one.score, "clean": one.clean, "attacked": one.attacked, "kept": one.kept}
            for one in chosen.tried
        ],
    }
    return chosen, about


def pasted(asked: TextSet, size: tuple[int, int], height: float, *, most: int = PICTURES, seed: int = 0) -> Tensor:
    """Clean pictures with their word written along the lower edge.

    Args:
        asked: a set with overlaid pictures.
        size: height and width of the pictures.
        height: em of the letters, as a share of the shorter side.
        most: pictures at most, drawn at random.
        seed: of the choice.

    Returns:
        [n, 3, H, W] uint8.

    Raises:
        RunError: for a set without overlaid pictures.
        DataError: for a picture that cannot be decoded.
    """
    words = written_words(asked)
    over = asked.questions.overlays
    if over is None:
        raise RunError("--shards: holds no picture with a wrong word")
    rows = np.arange(len(over.clean))
    rows = np.sort(rows[np.argsort(mix(seed, _STREAM, rows), kind="stable")[:most]])
    found = np.empty((len(rows), *size, 3), dtype=np.uint8)
    ids = asked.pictures.picture[over.clean[rows]]
    for out, row, place in zip(found, rows.tolist(), asked.pictures.corpus.places(ids), strict=True):
        picture = decode_and_fit(place.read(), size, asked.pictures.keys[over.clean[row]])
        out[:], _ = write(picture, Lettering(words[row], height=height, y=1.0))
    return torch.from_numpy(found).permute(0, 3, 1, 2)


def _height(retriever: Retriever) -> float:
    """Em with which a line of text, with its edge, is no higher than the rows of patches."""
    visual = vision_transformer(retriever)
    # Letters with what rises above and hangs below them take about 1.2 em with their edge.
    return ROWS * visual.patch_size[0] / min(retriever.image_size) / 1.3
