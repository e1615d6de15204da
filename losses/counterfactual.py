"""Losses on a picture, its counterfactual with an object taken out or pasted in, and the captions of both."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.base import Features, Loss, LossError
from losses.edited_pairs import ANCHORS, EDITS, EditedPairs, cross_entropy
from losses.options import at_least
from losses.scores import cosine_of_rows


class CounterfactualContrast(Loss):
    """Let the score move with the object: a caption that mentions it must leave the picture that lost it.

    **Optimises**: four two-way choices within the picture x+ that shows the object, the picture x- that does not, the
    caption t+ that mentions it and the caption t- that does not.

    **Formula**: with ``s = logit_scale * cos`` and ``CE(s, s') = -log(exp(s) / (exp(s) + exp(s')))``, the mean over the
    edited rows of the global batch of ``(a1 A1 + a2 A2 + b1 B1 + b2 B2) / 4``:

    - ``A1 = CE(s(x-, t-), s(x-, t+))``: given x-, its own caption. Strictly right, t+ is false of x-.
    - ``A2 = CE(s(x+, t+), s(x-, t+))``: given t+, its own picture. Strictly right, for the same reason.
    - ``B1 = CE(s(x+, t+), s(x+, t-))``: given x+, the caption that says more. A preference only: t- is true of x+.
    - ``B2 = CE(s(x-, t-), s(x+, t-))``: given t-, the picture that shows less. A preference only: t- is true of both.

    The asymmetry is the point of the weights: B1 and B2 push a true caption away from its picture, and a full weight
    teaches that a picture must show nothing that its caption leaves out, which captions do all the time. Where the
    object was taken out, the anchor is (x+, t+) and the edit (x-, t-). Where it was pasted in the roles turn: the edit
    is (x+, t+) and the anchor (x-, t-).

    **Reference**: our own construction, in the spirit of arXiv 2304.03391, of which we have read the abstract only. No
    reproduction.

    **Requirements**: edits in the batch (``datamodules.decorrelated.DecorrelatedDataModule``), and a contrastive loss
    beside it: `InfoNCE` or `CounterfactualInfoNCE`.

    **Inputs**: ``image``, ``text``, ``edit``, ``edit_text``, ``has_edit``, ``edit_added``, ``logit_scale``. The scale
    is a unit here, without gradient: wrong choices could otherwise be made cheaper by shrinking it. Terms: those of
    ``a1``, ``a2``, ``b1``, ``b2`` whose weight is above 0, weighted as in the formula; each weight times ``log 2 / 4``
    for embeddings that do not see the object. Figure: ``follows``, the share of edited rows in which both strictly
    right choices are made, ties being wrong.

    **Relation to other losses**: `HardNegativeCaptions` and `CounterfactualInfoNCE` put the same false pairs among a
    batch's other negatives, where they weigh the less the larger the batch. `OHDMargins` asks for a margin.

    Args:
        a1: weight of A1.
        a2: weight of A2.
        b1: weight of B1; keep it below those of A1 and A2.
        b2: weight of B2; likewise.

    Example:
        >>> import torch
        >>> from losses import CounterfactualContrast, Features
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(1.0), source=torch.zeros(2, dtype=torch.int64),
        ...     group=ids, caption_id=ids, edit=eye.flip(0), edit_text=eye.flip(0),
        ...     has_edit=torch.tensor([True, False]), edit_added=torch.tensor([False, False]),
        ... )
        >>> CounterfactualContrast()(features)["a1"]  # log(1 + exp(-1)) / 4
        tensor(0.0783)
    """

    needs_edit = True

    def __init__(self, a1: float = 1.0, a2: float = 1.0, b1: float = 0.0, b2: float = 0.0) -> None:
        super().__init__()
        self.weights = {"a1": a1, "a2": a2, "b1": b1, "b2": b2}
        for name, weight in self.weights.items():
            at_least(self, name, weight, 0.0)
        if not any(self.weights.values()):
            raise LossError("CounterfactualContrast: every weight is 0, which asks for nothing; give a1 or a2 one")

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return the terms whose weight is above 0; zero with a graph where no row is edited.

        Raises:
            LossError: if the batch carries no edits.
        """
        pairs = EditedPairs.of(features)
        local, edited = features.local, pairs.exists[EDITS]
        # Rows without an edit come out as whatever they are, and are not counted.
        anchor_is_fuller = pairs.fuller[ANCHORS, local, None]
        anchor, edit = pairs.picture[:, local]
        shows, lacks = torch.where(anchor_is_fuller, anchor, edit), torch.where(anchor_is_fuller, edit, anchor)
        anchor, edit = pairs.text[:, local]
        mentions, omits = torch.where(anchor_is_fuller, anchor, edit), torch.where(anchor_is_fuller, edit, anchor)
        scale = features.logit_scale.detach()
        full, plain, false = (
            scale * cosine_of_rows(*pair) for pair in ((shows, mentions), (lacks, omits), (lacks, mentions))
        )
        weaker = scale * cosine_of_rows(shows, omits)
        choices = {"a1": (plain, false), "a2": (full, false), "b1": (full, weaker), "b2": (plain, weaker)}
        right = (plain > false) & (full > false)
        self.figures = {"follows": features.mean_over(right.to(full.dtype), edited)}
        return {
            name: weight / 4 * features.mean_over(F.softplus(choices[name][1] - choices[name][0]), edited)
            for name, weight in self.weights.items()
            if weight
        }


class CounterfactualInfoNCE(Loss):
    """Contrast pictures and captions of the global batch with the edited ones among them as pairs of their own.

    **Optimises**: what `InfoNCE` does, over the anchors' pairs and the edits' pairs together.

    **Formula**: `InfoNCE` over the N anchors' and the E edits' pairs of the global batch, from which one kind of
    crossing is left out in both directions: the picture that shows the object with the caption of the same anchor that
    does not mention it. That caption is true of the picture, and would be a false negative. The other crossing, the
    caption that mentions the object with the picture that lost it (or never had it), is false and stays: the hardest
    negative there is.

    **Reference**: our own construction; `InfoNCE` is Radford et al. 2021.

    **Requirements**: edits in the batch (``datamodules.decorrelated.DecorrelatedDataModule``); without an edit in a
    step it is `InfoNCE` on the anchors.

    **Inputs**: ``image``, ``text``, ``edit``, ``edit_text``, ``has_edit``, ``edit_added``, ``edit_caption_id``,
    ``logit_scale``, ``group``, ``caption_id``. Other rows of the same group, and pairs of the same caption, are left
    out as by `InfoNCE`'s ``"mask"``. Term: ``counterfactual_infonce``.

    **Relation to other losses**: takes the place of `InfoNCE`; `CounterfactualContrast` beside it raises the weight of
    the false crossing.

    Example:
        >>> import torch
        >>> from losses import CounterfactualInfoNCE, Features
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye[:1], text=eye[:1], logit_scale=torch.tensor(1.0), source=ids[:1], group=ids[:1],
        ...     caption_id=ids[:1], edit=eye[1:], edit_text=eye[1:], has_edit=torch.tensor([True]),
        ...     edit_added=torch.tensor([False]),
        ... )
        >>> CounterfactualInfoNCE()(features)["counterfactual_infonce"]  # half the choices have one negative
        tensor(0.1566)
    """

    needs_edit = True

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"counterfactual_infonce": []}``.

        Raises:
            LossError: if the batch carries no edits.
        """
        pairs = EditedPairs.of(features)
        scale, both = features.logit_scale, (ANCHORS, EDITS)
        positive = scale * pairs.own(pairs.picture, pairs.text)
        captions = cross_entropy(
            positive,
            pairs.others(pairs.picture, pairs.text, both),
            pairs.only(scale * pairs.own(pairs.picture, pairs.text.flip(0)), pairs.plainer),
        )
        pictures = cross_entropy(
            positive,
            pairs.others(pairs.text, pairs.picture, both),
            pairs.only(scale * pairs.own(pairs.text, pairs.picture.flip(0)), pairs.fuller),
        )
        return {"counterfactual_infonce": pairs.mean_over((captions + pictures) / 2, pairs.exists)}
