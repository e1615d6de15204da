"""The contrastive losses that a retriever is tuned with; debias terms are added to one of them."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.base import Features, Loss, LossError
from losses.chunked import mean_over_rows
from losses.options import at_least, one_of
from losses.scores import cosine_matrix, own_column

Duplicates = Literal["mask", "positive", "negative"]
DUPLICATES: tuple[Duplicates, ...] = ("mask", "positive", "negative")


def duplicate_mask(features: Features, rows: slice | Tensor | None = None) -> Tensor:
    """Which other rows of the global batch show, or say, what a local row does.

    Args:
        features: the batch.
        rows: of the global batch, a slice or int64 [B]; None takes the local ones.

    Returns:
        [B, N] bool: row j has row i's ``group`` or its ``caption_id``, and is not row i. The relation is symmetric, so
        the one mask serves image-to-text and text-to-image scores alike.
    """
    rows = features.local if rows is None else rows
    own = torch.arange(rows.start, rows.stop, device=features.group.device) if isinstance(rows, slice) else rows
    same = features.group[own, None] == features.group[None, :]
    same |= features.caption_id[own, None] == features.caption_id[None, :]
    return same & (own[:, None] != torch.arange(same.shape[1], device=same.device))


class InfoNCE(Loss):
    """Contrast every picture with all captions of the global batch, and every caption with all pictures.

    **Optimises**: the rank of the own caption among the batch's captions, and of the own picture among its pictures.

    **Formula**: with logits ``S_ij = logit_scale * cos(image_i, text_j)`` over the N rows of the global batch,
    ``(1 / 2N) * sum_i [-log softmax_j(S_ij)_i - log softmax_j(S_ji)_i]``.

    **Reference**: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
    figure 3 (paper). The treatment of duplicates is ours for ``"mask"``; ``"positive"`` is the multi-positive target of
    Khosla et al. 2020, "Supervised Contrastive Learning", equation 2, across modalities as in Yang et al. 2022 (UniCL).

    **Requirements**: none; any batch.

    **Inputs**: ``image``, ``text``, ``logit_scale``, ``group``, ``caption_id``. Term: ``infonce``, about ``log N`` for
    embeddings that know nothing.

    **Relation to other losses**: `SigLIP` judges every picture-caption pair by itself and needs a bias. With
    ``duplicates="negative"`` this is the usual CLIP loss.

    Args:
        duplicates: what to do with another row j of the batch that has row i's group (the same photo, or its twin) or
            row i's caption (class prompts; captions like "a man"): such a pair matches, but does not stand on the
            diagonal.

            - ``"mask"`` (default): leave it out of the denominator; it is neither pulled nor pushed. Safe where ids say
              "same" and mean "about the same".
            - ``"positive"``: a target as good as the own one, each with an equal share of the target's weight. It is
              stronger, and right for class prompts, where every picture of the class fits; it also pulls pictures of a
              group to each other's captions.
            - ``"negative"``: push it away like any other; for comparison with code that does so.
        chunk: score so many rows at a time, and never hold the [B, N] matrix; 0 holds it. The same value and gradient,
            in a small part of the memory; the gradient cannot be differentiated again.

    Example:
        >>> import torch
        >>> from losses import Features, InfoNCE
        >>> eye, ids = torch.eye(3), torch.arange(3)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(1.0), source=ids, group=ids, caption_id=ids
        ... )
        >>> InfoNCE()(features)["infonce"]  # log(1 + 2 exp(-1))
        tensor(0.5514)
    """

    def __init__(self, duplicates: Duplicates = "mask", chunk: int = 0) -> None:
        super().__init__()
        one_of(self, "duplicates", duplicates, DUPLICATES)
        at_least(self, "chunk", chunk, 0)
        self.duplicates = duplicates
        self.chunk = chunk

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"infonce": []}``: the mean over this rank's rows of both directions."""
        local = features.local
        scale = features.logit_scale
        if self.chunk:
            sides = (features.image, features.text), (features.text, features.image)
            each = [
                mean_over_rows(rows[local], columns, scale, None, partial(self._judge, features), self.chunk)
                for rows, columns in sides
            ]
            return {"infonce": (each[0] + each[1]) / 2}
        image_to_text = scale * cosine_matrix(features.image[local], features.text)
        text_to_image = scale * cosine_matrix(features.text[local], features.image)
        loss = (self._cross_entropy(image_to_text, features) + self._cross_entropy(text_to_image, features)) / 2
        return {"infonce": loss}

    def _cross_entropy(self, logits: Tensor, features: Features) -> Tensor:
        """[B, N] logits against the diagonal, duplicates treated as the option says."""
        local = features.local
        if self.duplicates == "positive":
            positive = duplicate_mask(features) | own_column(features)
            log_share = torch.where(positive, F.log_softmax(logits, dim=1), 0.0)
            return -(log_share.sum(dim=1) / positive.sum(dim=1)).mean()
        if self.duplicates == "mask":
            logits = logits.masked_fill(duplicate_mask(features), float("-inf"))
        target = torch.arange(local.start, local.stop, device=logits.device)
        return F.cross_entropy(logits, target)

    def _judge(self, features: Features, logits: Tensor, start: int) -> Tensor:
        """What `_cross_entropy` does, for a few rows and with the gradient, see `losses.chunked.Judge`."""
        first = features.local.start + start
        row = torch.arange(len(logits), device=logits.device)
        own = row + first
        other = None
        if self.duplicates != "negative":
            other = duplicate_mask(features, slice(first, first + len(logits)))
        share = torch.ones(len(logits), dtype=logits.dtype, device=logits.device)
        wanted = logits[row, own]
        if self.duplicates == "positive" and other is not None:
            share /= 1 + other.sum(dim=1)
            wanted = share * (wanted + torch.where(other, logits, 0.0).sum(dim=1))
        elif other is not None:
            logits.masked_fill_(other, float("-inf"))
        largest = logits.amax(dim=1, keepdim=True)
        total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
        logits.div_(total)
        logits[row, own] -= share
        if self.duplicates == "positive" and other is not None:
            logits.sub_(other * share[:, None])
        return (largest.squeeze(1) + total.squeeze(1).log() - wanted).sum()


class SigLIP(Loss):
    """Judge of every picture and every caption of the global batch, pair by pair, whether they fit.

    **Optimises**: the log-likelihood of "fits" on the diagonal and of "does not fit" elsewhere.

    **Formula**: ``-(1 / N) * sum_i sum_j log sigmoid(z_ij * (logit_scale * cos(image_i, text_j) + logit_bias))`` with
    ``z_ij`` = 1 where the caption fits and -1 elsewhere. One sum covers both directions.

    **Reference**: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", algorithm 1 (paper). The treatment
    of duplicates is ours.

    **Requirements**: a retriever with a learned bias (``logit_bias``; the paper starts it at -10 and the scale at 10).
    Without it the N - 1 negatives of each row outweigh its one positive at the start.

    **Inputs**: ``image``, ``text``, ``logit_scale``, ``logit_bias``, ``group``, ``caption_id``. Term: ``siglip``.

    **Relation to other losses**: an alternative to `InfoNCE`, which normalises over the batch. Adding both is possible,
    but they disagree about the scale.

    Args:
        duplicates: another row of the same group or caption is left out (``"mask"``, default), fits too
            (``"positive"``), or does not fit (``"negative"``); see `InfoNCE`.
        chunk: score so many rows at a time; 0 holds the whole matrix; see `InfoNCE`.

    Example:
        >>> import torch
        >>> from losses import Features, SigLIP
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), logit_bias=torch.tensor(-5.0),
        ...     source=ids, group=ids, caption_id=ids,
        ... )
        >>> SigLIP()(features)["siglip"]  # 2 softplus(-5)
        tensor(0.0134)
    """

    def __init__(self, duplicates: Duplicates = "mask", chunk: int = 0) -> None:
        super().__init__()
        one_of(self, "duplicates", duplicates, DUPLICATES)
        at_least(self, "chunk", chunk, 0)
        self.duplicates = duplicates
        self.chunk = chunk

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"siglip": []}``: this rank's pictures against all captions, a mean over the pictures.

        Raises:
            LossError: if the retriever has no bias.
        """
        if features.logit_bias is None:
            raise LossError(
                "SigLIP needs a learned logit bias, and this retriever has none: "
                "use an architecture that has one (open_clip: 'init_logit_bias' in the model's config), "
                "or losses.InfoNCE"
            )
        image, scale = features.image[features.local], features.logit_scale
        if self.chunk:
            judge = partial(self._judge, features)
            return {"siglip": mean_over_rows(image, features.text, scale, features.logit_bias, judge, self.chunk)}
        logits = scale * cosine_matrix(image, features.text)
        logits = logits + features.logit_bias
        fits = own_column(features)
        if self.duplicates == "positive":
            fits = fits | duplicate_mask(features)
        loss = F.softplus(torch.where(fits, -logits, logits))
        if self.duplicates == "mask":
            loss = loss.masked_fill(duplicate_mask(features), 0.0)
        return {"siglip": loss.sum(dim=1).mean()}

    def _judge(self, features: Features, logits: Tensor, start: int) -> Tensor:
        """What `forward` does, for a few rows and with the gradient, see `losses.chunked.Judge`."""
        first = features.local.start + start
        row = torch.arange(len(logits), device=logits.device)
        fits = torch.zeros_like(logits, dtype=torch.bool)
        other = fits
        if self.duplicates != "negative":
            other = duplicate_mask(features, slice(first, first + len(logits)))
        if self.duplicates == "positive":
            fits = other.clone()
        fits[row, row + first] = True
        # softplus(x) has the derivative sigmoid(x); x is the logit's negative where the pair fits.
        against = torch.where(fits, -logits, logits)
        loss = F.softplus(against)
        gradient = against.sigmoid_()
        if self.duplicates == "mask":
            loss.masked_fill_(other, 0.0)
            gradient.masked_fill_(other, 0.0)
        torch.where(fits, -gradient, gradient, out=logits)
        return loss.sum()
