"""Puts overlaid pictures, their captions and rendered words side by side, as the spelling projection is fitted."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bias_train.audit.text.rendering import Rendering, embed_rendered
from bias_train.audit.text.text_set import TextSet
from bias_train.errors import RunError
from datamodules.lettering.canvas import STYLES
from models.retriever import Retriever
from models.text_remedies.spelling import SpellingFeatures

QUERY = "query for a written word"  # names the template in a set's record


def written_words(asked: TextSet) -> tuple[str, ...]:
    """The wrong word on each overlaid picture, [N], taken from the query that names it.

    Raises:
        RunError: for a set without overlaid pictures.
    """
    over = asked.questions.overlays
    if over is None:
        raise RunError("--shards: holds no picture with a wrong word; make some with `bias-train synthesize overlay`")
    before, after = str(asked.record[QUERY]).split("{word}")
    texts = [asked.texts[row] for row in over.query.tolist()]
    return tuple(text[len(before) : len(text) - len(after)] for text in texts)


def spelling_features(
    retriever: Retriever,
    asked: TextSet,
    vectors: tuple[Tensor, Tensor],
    *,
    styles: tuple[str, ...] = tuple(STYLES),
    batch_size: int = 64,
    device: str = "cpu",
) -> SpellingFeatures:
    """One row a caption of an overlaid picture.

    The word of a row is rendered in one of the styles, in turn; words that the font cannot write are left out.

    Args:
        retriever: that embedded the set.
        asked: a set with overlaid pictures.
        vectors: (image [N, D], text [T, D]) of it.
        styles: of the rendered words.
        batch_size: rendered words at once.
        device: where to compute.

    Raises:
        RunError: for a set without overlaid pictures, or with fewer than two words on them.
    """
    image, text = vectors
    words = written_words(asked)
    over = asked.questions.overlays
    assert over is not None
    rendering = Rendering(words, styles=styles, fit=True)
    rendered = embed_rendered(retriever, rendering, batch_size=batch_size, device=device)
    number = {word: place for place, word in enumerate(rendering.words)}
    own = np.array([number.get(word, -1) for word in words])[over.caption_of]
    kept = np.flatnonzero(own >= 0)
    picture, caption, word = over.caption_of[kept], over.caption[kept], own[kept]
    style = np.arange(len(kept)) % len(styles)
    # Rows of one scene, or of one caption that two scenes share, are no negatives of each other.
    _, told = np.unique(caption, return_inverse=True)
    return SpellingFeatures(
        image=image[torch.from_numpy(over.clean[picture])],
        written=image[torch.from_numpy(over.written[picture])],
        caption=text[torch.from_numpy(caption)],
        rendered=rendered[torch.from_numpy(style * len(rendering.words) + word)],
        word=text[torch.from_numpy(over.query[picture])],
        picture=torch.from_numpy(_joined(over.target[picture], told.ravel())),
        writing=torch.from_numpy(word),
    )


def _joined(scene: np.ndarray, caption: np.ndarray) -> np.ndarray:
    """[n] one number for all rows that a chain of equal scenes or equal captions connects."""
    _, group = np.unique(scene, return_inverse=True)
    group = group.ravel().astype(np.int64)
    while True:
        before = group.copy()
        for ids in (caption, scene):
            _, place = np.unique(ids, return_inverse=True)
            least = np.full(int(place.max()) + 1, np.iinfo(np.int64).max)
            np.minimum.at(least, place.ravel(), group)
            group = least[place.ravel()]
        if np.array_equal(before, group):
            return group
