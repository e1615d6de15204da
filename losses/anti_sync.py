"""Keep a word as a picture no nearer to the word as text than to other words."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from losses.base import Features, Loss, LossError
from losses.options import one_of
from losses.scores import cosine_matrix

Side = Literal["both", "image", "text"]
SIDES: tuple[Side, ...] = ("both", "image", "text")
Floor = Literal["fixed", "moving"]
FLOORS: tuple[Floor, ...] = ("fixed", "moving")


class AntiSync(Loss):
    """Let a rendered word match the word's text no better than it matches other words.

    **Optimises**: the cosine between a picture that holds nothing but a word and that word as text, where it is above
    the cosine of words that do not match.

    **Formula**: with ``s_ij = cos(f(render(w_i)), g(w_j))`` over the W words of the step, ``mean_i max(0, s_ii - m)``,
    where ``m = mean_{i != j} s_ij`` is a number without gradient (``floor="fixed"``), or has one (``"moving"``).

    **Reference**: our own construction against the Sync score of parrot captions (arXiv 2312.14232), which
    is ``mean_i s_ii``. That score is lowered by pushing rendered pictures away from all text; here nothing is gained
    below m, the null of a retriever that does not read. (As a number m takes no part in the gradient, so what all words
    have in common is pushed apart as well while any word is above it, and m follows down: a small retriever that was
    trained from scratch with weight 3 ended at ``s_ij = -1`` for all i and j. With ``floor="moving"`` what words have
    in common cancels.)

    **Requirements**: rendered words (``data.rendered_words`` of ``datamodules.text_spotting.TextSpottingDataModule``),
    at least two, and a contrastive loss beside it. ``KeepStart(of=["captions"])`` beside it stops the text tower from
    paying by moving the words' text, which all captions are made of; ``side="image"`` stops it altogether.

    **Inputs**: ``word_image``, ``word_text``, the same on all ranks, so that the term is computed in full on each.
    Term: ``anti_sync``, in [0, 2]. Figures: ``sync``, the mean of s_ii, and ``mismatched``, m. The logit scale plays no
    part.

    **Relation to other losses**: `OverlayInvariance` and `TypographicNegative` work on photos with a word on them and
    leave the reading of bare words alone; this one works on bare words alone, and so on what the probes of reading
    measure. It makes a retriever blind to text, and must be judged beside a task of reading.

    Args:
        side: which tower pays: ``"both"``, ``"image"`` or ``"text"``; the other's embeddings then get no gradient.
        floor: whether m is a number (``"fixed"``) or has a gradient (``"moving"``).

    Example:
        >>> import torch
        >>> from losses import AntiSync, Features
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=ids, group=ids, caption_id=ids,
        ...     word_image=eye, word_text=torch.tensor([[0.8, 0.6], [0.6, 0.8]]),
        ... )
        >>> AntiSync()(features)["anti_sync"]  # 0.8 - 0.6
        tensor(0.2000)
    """

    needs_words = True

    def __init__(self, side: Side = "both", floor: Floor = "fixed") -> None:
        super().__init__()
        one_of(self, "side", side, SIDES)
        one_of(self, "floor", floor, FLOORS)
        self.side, self.floor = side, floor

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"anti_sync": []}``; zero with a graph where no word is above the others.

        Raises:
            LossError: if the batch carries no rendered words, or a single one.
        """
        image, text = features.words()
        count = len(image)
        if count < 2:
            raise LossError(
                f"AntiSync compares a step's rendered words with each other, but there is {count}: set "
                "data.rendered_words to 2 or more"
            )
        if self.side == "image":
            text = text.detach()
        elif self.side == "text":
            image = image.detach()
        cosines = cosine_matrix(image, text)
        matched = cosines.diagonal()
        mismatched = (cosines.sum() - matched.sum()) / (count * (count - 1))
        self.figures = {"sync": matched.detach().mean(), "mismatched": mismatched.detach()}
        if self.floor == "fixed":
            mismatched = mismatched.detach()
        return {"anti_sync": (matched - mismatched).clamp(min=0).mean()}
