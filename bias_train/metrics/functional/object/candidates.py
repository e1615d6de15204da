"""One true caption among altered ones: does a retriever put it first, and could it without the picture.

The evaluations of OHD-Caps (arXiv 2410.03176: one caption and 27 altered ones, the share of pictures for which the true
one ranks first) and RoCOCO (altered captions put into the gallery; false rate: share of pictures whose first caption is
an altered one), on files that a user brings. Altered captions are edits of the true one, which is therefore the one
most like all others: a choice that never sees the picture finds it in three of four cases. So that choice stands
beside every score.

Legend of the shapes: S sets of candidates, n altered captions of a set, P pictures, T texts, D dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.metrics.functional.inputs import check_cutoffs, check_embeddings
from bias_train.metrics.functional.ranking import first_relevant, score_chunks, top_list
from bias_train.stats import Floats, Ints

# Vectors gathered at once: 64 MiB of float64.
_GATHERED = 1 << 23


def normalised_caption(caption: str) -> str:
    """Lower-case a caption, put single blanks, and strip the punctuation at its end.

    Altered captions are often written without capitals and full stops, which tells them apart for no good reason.

    >>> normalised_caption("A man  on a Horse . ")
    'a man on a horse'
    """
    return re.sub(r"[\s.,;:!?]+$", "", " ".join(caption.lower().split()))


def first_among(image: Tensor, text: Tensor, picture: Ints, true: Ints, altered: Ints) -> Floats:
    """Whether the true caption scores highest among its candidates.

    Args:
        image: [P, D] float embeddings.
        text: [T, D].
        picture: [S] int64 rows of the pictures.
        true: [S] rows of the true captions.
        altered: [S, n] rows of the altered ones, -1 where a set has fewer.

    Returns:
        [S] float64: 1 or 0, and 1/(e + 1) where e altered ones tie with a true one that none beats; NaN for a set
        without an altered caption.

    Raises:
        ValueError: for embeddings that are empty, non-finite or zero.

    >>> found = first_among(torch.eye(2), torch.eye(2), np.array([0, 1]), np.array([0, 0]), np.array([[1], [1]]))
    >>> found.tolist()
    [1.0, 0.0]
    """
    check_embeddings(image=image, text=text)
    found = np.full(len(picture), np.nan)
    step = max(1, _GATHERED // max(1, altered.shape[1] * image.shape[1]))
    for start in range(0, len(picture), step):
        rows = slice(start, start + step)
        own = image[torch.from_numpy(picture[rows])].double()
        wrong = torch.from_numpy(altered[rows])
        # Rounded as `score_chunks` rounds, so that equal captions tie.
        mine = (own * text[torch.from_numpy(true[rows])].double()).sum(dim=1).float()
        theirs = torch.einsum("sd,snd->sn", own, text[wrong.clamp(min=0)].double()).float()
        theirs = theirs.masked_fill(wrong < 0, -torch.inf)
        beaten = (theirs > mine[:, None]).any(dim=1)
        tied = (theirs == mine[:, None]).sum(dim=1)
        share = torch.where(beaten, 0.0, 1.0 / (1.0 + tied))
        found[rows] = torch.where((wrong >= 0).any(dim=1), share, torch.nan).cpu().numpy()
    return found


def blind_choice(candidates: Sequence[str]) -> int:
    """Choose a caption by the others alone: the one whose words are most like those of all others.

    The likeness of two captions is the Jaccard index of their sets of words, lower-case and without punctuation. Own
    measurement, which no retriever that scores one caption at a time can make use of.

    Args:
        candidates: two captions or more.

    Returns:
        The place of the chosen one, -1 where several are as good.

    >>> blind_choice(["a dog", "a dog and a cat", "a cat"]), blind_choice(["a dog", "a cat"])
    (1, -1)
    """
    words = [frozenset(re.findall(r"\w+", caption.lower())) for caption in candidates]
    likeness = [
        sum(_jaccard(mine, theirs) for other, theirs in enumerate(words) if other != at)
        for at, mine in enumerate(words)
    ]
    best = max(likeness)
    # Sums of the same numbers in another order differ in their last bits.
    places = [at for at, value in enumerate(likeness) if value >= best - 1e-9]
    return places[0] if len(places) == 1 else -1


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    either = len(first | second)
    return len(first & second) / either if either else 1.0


def in_gallery(
    image: Tensor, text: Tensor, owner: Ints, altered: NDArray[np.bool_], ks: Sequence[int] = (1, 5, 10)
) -> tuple[Floats, Floats]:
    """Search all captions, altered ones among them.

    Args:
        image: [P, D] float embeddings; picture p asks.
        text: [T, D].
        owner: [T] int64, the picture that each caption is of.
        altered: [T] bool, which captions are altered and answer nobody.
        ks: K cut-offs; beyond T they are capped.

    Returns:
        R@k [P, K], NaN for a picture without a true caption, and the chance [P] that an altered caption stands first;
        both with ties in expectation over random order.

    Raises:
        ValueError: for embeddings that are empty, non-finite or zero, or a cut-off below 1.
    """
    check_embeddings(image=image, text=text)
    check_cutoffs("ks", tuple(ks))
    of, wrong = torch.from_numpy(owner), torch.from_numpy(altered)
    recall, false = np.full((len(image), len(ks)), np.nan), np.empty(len(image))
    for rows, scores in score_chunks(image, text):
        relevant = (torch.arange(rows.start, rows.stop)[:, None] == of) & ~wrong
        first = first_relevant(scores, relevant)
        hits = torch.stack([first.hit(min(k, len(text))) for k in ks], dim=1)
        recall[rows] = torch.where(relevant.any(dim=1, keepdim=True), hits, torch.nan).numpy()
        false[rows] = top_list(scores, relevant, wrong.long(), 2, 1).kind[:, 0, 1].numpy()
    return recall, false
