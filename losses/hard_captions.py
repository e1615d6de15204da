"""Captions that were edited to be false, among a batch's negatives."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from losses.base import Features, Loss
from losses.edited_pairs import ANCHORS, EDITS, EditedPairs, cross_entropy
from losses.options import at_least, one_of

Rows = Literal["picture", "caption"]
ROWS: tuple[Rows, ...] = ("picture", "caption")
Sign = Literal["above", "below"]
SIGNS: tuple[Sign, ...] = ("above", "below")


class HardNegativeCaptions(Loss):
    """Contrast every picture with all captions and all false ones of the global batch.

    **Optimises**: the rank of the own caption among the batch's captions, edited ones included, and of the own picture
    among the anchors' pictures.

    **Formula**: pictures are the N anchors and the R pictures that an object was taken out of, captions those of the
    anchors and all E edited ones. ``(rows + columns) / 2``, with

    - rows, the mean over the N + R pictures of the cross-entropy of the own caption over the N + E captions,
    - columns, the mean over the anchors' N captions of the cross-entropy of the own picture over the N anchors.

    False of its picture is a caption with a pasted object, for the anchor, and the anchor's own caption, for the
    picture that lost the object. The caption of an anchor with the object left out is true of it, and is left out of
    the anchor's row.

    **Reference**: the form of NegCLIP (Yuksekgonul et al. 2023, "When and Why Vision-Language Models Behave Like
    Bags-of-Words, and What to Do About It", after a summary of the authors' code): N pictures and N hard pictures, all
    their captions and a false one for each, columns of true captions only. There false captions have words swapped and
    hard pictures are near ones; edits in their place are ours.

    **Requirements**: edits in the batch (``datamodules.decorrelated.DecorrelatedDataModule``). Pasted objects alone
    give false captions without the use of an edited picture, as in NegCLIP.

    **Inputs**: as `CounterfactualInfoNCE`. Term: ``hard_negative_captions``.

    **Relation to other losses**: takes the place of `InfoNCE`. Unlike in `CounterfactualInfoNCE`, no edited picture is
    ever a negative, and pictures with a pasted object are not read: what it teaches of objects, it teaches by captions.

    Example:
        >>> import torch
        >>> from losses import Features, HardNegativeCaptions
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye[:1], text=eye[:1], logit_scale=torch.tensor(1.0), source=ids[:1], group=ids[:1],
        ...     caption_id=ids[:1], edit=eye[1:], edit_text=eye[1:], has_edit=torch.tensor([True]),
        ...     edit_added=torch.tensor([True]),
        ... )
        >>> HardNegativeCaptions()(features)["hard_negative_captions"]  # log(1 + exp(-1)) / 2
        tensor(0.1566)
    """

    needs_edit = True

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"hard_negative_captions": []}``.

        Raises:
            LossError: if the batch carries no edits.
        """
        pairs = EditedPairs.of(features)
        scale = features.logit_scale
        positive = scale * pairs.own(pairs.picture, pairs.text)
        false = pairs.only(scale * pairs.own(pairs.picture, pairs.text.flip(0)), pairs.plainer)
        rows = cross_entropy(positive, pairs.others(pairs.picture, pairs.text, (ANCHORS, EDITS)), false)
        columns = cross_entropy(positive, pairs.others(pairs.text, pairs.picture, (ANCHORS,)))
        each = pairs.mean_over(rows, _true_pairs(pairs)), pairs.mean_over(columns, _anchors(pairs))
        return {"hard_negative_captions": (each[0] + each[1]) / 2}


class OHDMargins(Loss):
    """Contrast pairs with a false caption each, and keep margins between true, false and other captions.

    **Optimises**: the own caption above the false one and above the batch's, and the false one above (or below) the
    batch's.

    **Formula**: pairs are the N anchors' and those of the R pictures that an object was taken out of. With the logits
    ``s+`` of a pair, ``s_neg`` of its picture with its false caption, and ``s_batch`` the highest with an anchor of
    another row, the sum of the terms

    - ``contrastive``: ``(L_i2t + L_t2i) / 2``, cross-entropies over the anchors of other rows; ``s_neg`` stands in the
      denominator of one of them,
    - ``margin_true``: ``l1 * mean [max(0, tau1 - s+ + s_neg) + max(0, tau1 - s+ + s_batch)]``,
    - ``margin_false``: ``l2 * mean max(0, tau2 - s_neg + s_batch)`` with ``sign="above"``, or
      ``l2 * mean max(0, tau2 + s_neg - s_batch)`` with ``sign="below"``,

    each mean over the pairs that have what is compared; the first of ``margin_true`` and ``margin_false`` over those
    with a false caption. The false caption is as in `HardNegativeCaptions`.

    **Reference**: arXiv 2410.03176, after a reading of paper and released code, which disagree: the paper has the false
    captions in the picture's row (``rows="picture"``) and above the batch's, being partly true (``sign="above"``); the
    code has them in the caption's row (``rows="caption"``: ``s_neg`` beside the caption's other pictures, and
    ``s_batch`` over these) and below the hardest of the batch (``sign="below"``). Say which one a number used. There a
    picture has 27 false captions by a language model and ``s*`` in the first margin is "either": one edited caption,
    and both margins added up with the hardest of the batch for ``s_batch``, are ours.

    **Requirements**: edits in the batch (``datamodules.decorrelated.DecorrelatedDataModule``).

    **Inputs**: as `CounterfactualInfoNCE`. Margins are in logits, as in the reference, but do not move the scale.

    **Relation to other losses**: takes the place of `InfoNCE`. `HardNegativeCaptions` is its contrastive part with
    everybody's false captions and no margins.

    Args:
        l1: weight of the margins of the true caption.
        l2: weight of the margin of the false one.
        tau1: margin of the true caption, in logits.
        tau2: margin of the false one.
        rows: whose denominator holds the false caption, and what ``s_batch`` runs over.
        sign: where the false caption stands to the batch's.

    Example:
        >>> import torch
        >>> from losses import Features, OHDMargins
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye[:1], text=eye[:1], logit_scale=torch.tensor(1.0), source=ids[:1], group=ids[:1],
        ...     caption_id=ids[:1], edit=eye[1:], edit_text=eye[1:], has_edit=torch.tensor([True]),
        ...     edit_added=torch.tensor([True]),
        ... )
        >>> OHDMargins()(features)["margin_true"]  # 0.1 * (2 - 1 + 0), and no other row
        tensor(0.1000)
    """

    needs_edit = True

    def __init__(
        self,
        l1: float = 0.1,
        l2: float = 0.1,
        tau1: float = 2.0,
        tau2: float = 2.0,
        rows: Rows = "picture",
        sign: Sign = "above",
    ) -> None:
        super().__init__()
        for name, value in (("l1", l1), ("l2", l2), ("tau1", tau1), ("tau2", tau2)):
            at_least(self, name, value, 0.0)
        one_of(self, "rows", rows, ROWS)
        one_of(self, "sign", sign, SIGNS)
        self.l1, self.l2, self.tau1, self.tau2 = l1, l2, tau1, tau2
        self.rows, self.sign = rows, sign

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"contrastive": [], "margin_true": [], "margin_false": []}``.

        Raises:
            LossError: if the batch carries no edits.
        """
        pairs = EditedPairs.of(features)
        scale = features.logit_scale
        counted, with_false = _true_pairs(pairs), pairs.plainer
        positive = scale * pairs.own(pairs.picture, pairs.text)
        negative = scale * pairs.own(pairs.picture, pairs.text.flip(0))
        captions = pairs.others(pairs.picture, pairs.text, (ANCHORS,))
        pictures = pairs.others(pairs.text, pairs.picture, (ANCHORS,))
        false = pairs.only(negative, with_false)
        if self.rows == "picture":
            entropy = cross_entropy(positive, captions, false) + cross_entropy(positive, pictures)
        else:
            entropy = cross_entropy(positive, captions) + cross_entropy(positive, pictures, false)
        hardest = (captions if self.rows == "picture" else pictures).amax(dim=2)
        compared = pairs.has_others(ANCHORS)
        hardest = hardest.masked_fill(~compared[:, pairs.local], 0.0)
        unit = scale.detach() / scale  # 1, and takes the scale's gradient out of what it is multiplied with
        over_false = self.tau1 + unit * (negative - positive)
        over_batch = self.tau1 + unit * (hardest - positive)
        apart = self.tau2 + unit * (hardest - negative) * (1 if self.sign == "above" else -1)
        margin_true = pairs.mean_over(over_false.clamp(min=0), with_false)
        margin_true = margin_true + pairs.mean_over(over_batch.clamp(min=0), counted & compared)
        return {
            "contrastive": pairs.mean_over(entropy / 2, counted),
            "margin_true": self.l1 * margin_true,
            "margin_false": self.l2 * pairs.mean_over(apart.clamp(min=0), with_false & compared),
        }


def _anchors(pairs: EditedPairs) -> Tensor:
    """[2, N] bool: the anchors' pairs."""
    return torch.stack([pairs.exists[ANCHORS], torch.zeros_like(pairs.exists[EDITS])])


def _true_pairs(pairs: EditedPairs) -> Tensor:
    """[2, N] bool: the anchors' pairs, and those of pictures that an object was taken out of."""
    return torch.stack([pairs.exists[ANCHORS], pairs.plainer[EDITS]])
