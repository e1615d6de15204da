"""Losses on a picture on which a wrong word was written: its embedding stays, and its caption stays true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from losses.base import Features, Loss, LossError
from losses.options import one_of
from losses.scores import cosine_matrix, cosine_of_rows, own_column

Target = Literal["teacher", "anchor"]
TARGETS: tuple[Target, ...] = ("teacher", "anchor")
Against = Literal["both", "caption", "prompt"]
AGAINST: tuple[Against, ...] = ("both", "caption", "prompt")


class OverlayInvariance(Loss):
    """Embed a picture with a word written on it where the picture without the word is embedded.

    **Optimises**: the cosine between the written picture's embedding and a fixed embedding of the clean anchor.

    **Formula**: ``mean_i [1 - cos(f(tau(x_i, w_i)), z_i)]`` over the rows of the global batch with an overlay, where
    tau writes the word w_i on the anchor x_i, and z_i is the clean anchor's embedding by the frozen start
    (``target="teacher"``) or by the model itself, without gradient (``target="anchor"``).

    **Reference**: our own construction. The word goes on as in Defense-Prefix (Azuma and Matsui, ICCVW 2023); the
    frozen target is embedding distillation, the one without gradient follows SimSiam (Chen and He 2021, equation 3).

    **Requirements**: overlays in the batch (``datamodules.text_spotting.TextSpottingDataModule``); edits of another
    data module, which change what a picture shows, must not be pulled together like this. For ``"teacher"`` the
    module's frozen copy of the starting retriever, which embeds the anchors alone.

    **Inputs**: ``edit``, ``has_edit``, and ``teacher_image`` or ``image``. Term: ``overlay_invariance``, in [0, 2].

    **Relation to other losses**: `TypographicNegative` asks for the right order of three captions, this for an equal
    embedding, hence equal scores by every caption: also by those that are about the text, so that retrieval of pictures
    by what is written in them falls with it. With ``"teacher"`` it keeps the clean space at the start's as well, as
    ``KeepStart(of=["pictures"])`` does; with ``"anchor"`` it follows training, and alone it is lowest where all
    pictures share one embedding, so it needs a contrastive loss beside it.

    Args:
        target: ``"teacher"`` or ``"anchor"``.

    Example:
        >>> import torch
        >>> from losses import Features, OverlayInvariance
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=torch.zeros(2, dtype=torch.int64),
        ...     group=ids, caption_id=ids, teacher_image=eye,
        ...     edit=torch.tensor([[0.6, 0.8], [0.0, 0.0]]), has_edit=torch.tensor([True, False]),
        ... )
        >>> OverlayInvariance()(features)["overlay_invariance"]
        tensor(0.4000)
    """

    needs_edit = True

    def __init__(self, target: Target = "teacher") -> None:
        super().__init__()
        one_of(self, "target", target, TARGETS)
        self.target = target
        self.needs_teacher = target == "teacher"

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"overlay_invariance": []}``; zero with a graph where no row has an overlay.

        Raises:
            LossError: if the batch carries no overlays, or ``"teacher"`` is asked for and no teacher embedded it.
        """
        overlay, written = _overlays(self, features)
        target = features.image
        if self.target == "teacher":
            if features.teacher_image is None:
                raise LossError(
                    "OverlayInvariance(target='teacher') needs a frozen teacher's embeddings, and the step's features "
                    "hold none: train with models.module.RetrieverModule, which keeps one, fill "
                    "Features.teacher_image, or take target='anchor'"
                )
            target = features.teacher_image
        local = features.local
        distance = 1 - cosine_of_rows(overlay[local], target[local].detach())
        return {"overlay_invariance": features.mean_over(distance, written)}


class TypographicNegative(Loss):
    """Let the caption win over the written word, on a picture with a wrong word written on it.

    **Optimises**: a choice between the picture's caption, the caption that says the word as well, and a query for the
    word alone.

    **Formula**: for the picture x' = tau(x, w) with the caption t of x and ``s = logit_scale * cos``, the mean over the
    rows of the global batch with an overlay of the cross-entropy of t among {t, "t with the word w", "a photo of a w"}:
    ``log(exp s(x', t) + exp s(x', t_w) + exp s(x', p_w)) - s(x', t)``. ``against`` leaves out one of the wrong choices.
    With ``calibrated`` each s is less its mean over the texts of the same kind of all other rows with an overlay.

    **Reference**: our own construction; the target of a misleading picture is that of Defense-Prefix (Azuma and Matsui,
    ICCVW 2023), which has class prompts in place of the three.

    **Requirements**: overlays in the batch, with captions and queries that say the word
    (``datamodules.text_spotting.TextSpottingDataModule``), and a contrastive loss beside it.

    The two wrong choices are not alike. "A photo of a w" is false of the picture, on which a w is written and not
    shown. "t with the word w" is true of it: to push it down is a preference for what a picture shows, and costs the
    retrieval of pictures by what is written in them. ``against="prompt"`` leaves that alone.

    The wrong choices also share phrases that no caption has ("with the word"). A text tower that learns to put aside
    whatever holds them lowers the term without reading any less: a small one, trained from scratch, took 20 steps to a
    term of 0 and kept every other sign of reading. ``calibrated`` compares how much better a text fits than others of
    its kind, in which all that is common cancels.

    **Inputs**: ``text``, ``edit``, ``edit_text``, ``edit_prompt``, ``has_edit``, ``logit_scale``. The scale is a unit
    here, without gradient: a wrong choice could otherwise be made cheaper by shrinking it. Term:
    ``typographic_negative``; log 3 (log 2 with one wrong choice) for embeddings that do not tell them apart. Figure:
    ``caption_wins``, the share of rows with an overlay whose caption is above the wrong choices, ties being wrong.

    **Relation to other losses**: `OverlayInvariance` asks for equal scores by every caption. `CounterfactualContrast`
    reads the same rows the other way, as pasted objects: there the picture with the word is to prefer the caption that
    says it. The two work against each other.

    Args:
        against: ``"both"``, ``"caption"`` (t with the word) or ``"prompt"`` (the query for the word).
        calibrated: compare scores with those of other rows' texts; needs two rows with an overlay, and is zero with a
            graph where there is one.

    Example:
        >>> import torch
        >>> from losses import Features, TypographicNegative
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(1.0), source=torch.zeros(2, dtype=torch.int64),
        ...     group=ids, caption_id=ids, edit=eye, edit_text=eye.flip(0), edit_prompt=eye.flip(0),
        ...     has_edit=torch.tensor([True, False]),
        ... )
        >>> TypographicNegative()(features)["typographic_negative"]  # log(exp(1) + 2) - 1
        tensor(0.5514)
    """

    needs_edit = True

    def __init__(self, against: Against = "both", calibrated: bool = False) -> None:
        super().__init__()
        one_of(self, "against", against, AGAINST)
        self.against, self.calibrated = against, calibrated
        self.needs_edit_prompt = against != "caption"

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"typographic_negative": []}``; zero with a graph where no row has an overlay.

        Raises:
            LossError: if the batch carries no overlays, or lacks the captions or queries that say the word.
        """
        overlay, written = _overlays(self, features)
        local, wrong = features.local, []
        if self.against != "prompt":
            wrong.append(_said(self, "edit_text", features.edit_text))
        if self.against != "caption":
            wrong.append(_said(self, "edit_prompt", features.edit_prompt))
        choices = (features.text, *wrong)
        cosines = [cosine_of_rows(overlay[local], said[local]) for said in choices]
        if self.calibrated:
            cosines = [cosine - mean for cosine, mean in zip(cosines, self._others(features, choices), strict=True)]
            written = written & (written.sum() > 1)  # a row alone has no others
        logits = features.logit_scale.detach() * torch.stack(cosines, dim=1)
        # The stacked row holds the true caption first.
        wins = (logits[:, :1] > logits[:, 1:]).all(dim=1)
        self.figures = {"caption_wins": features.mean_over(wins.to(logits.dtype), written)}
        value = torch.logsumexp(logits, dim=1) - logits[:, 0]
        return {"typographic_negative": features.mean_over(value, written)}

    def _others(self, features: Features, choices: Sequence[Tensor]) -> list[Tensor]:
        """Mean cosine of each local overlay with each kind of choice of the other rows with an overlay: [B] each."""
        overlay, written = _overlays(self, features)
        other = written[None, :] & ~own_column(features)
        count = other.sum(dim=1).clamp(min=1)
        scores = [cosine_matrix(overlay[features.local], said) for said in choices]
        return [torch.where(other, score, torch.zeros_like(score)).sum(dim=1) / count for score in scores]


def _overlays(loss: Loss, features: Features) -> tuple[Tensor, Tensor]:
    """The written pictures [N, D], and which rows have one [N]."""
    if features.edit is None or features.has_edit is None:
        raise LossError(
            f"{type(loss).__name__} reads pictures with a word written on them, but the batch carries none: take "
            "datamodules.text_spotting.TextSpottingDataModule with data.overlay_share above 0"
        )
    return features.edit, features.has_edit


def _said(loss: Loss, name: str, text: Tensor | None) -> Tensor:
    if text is None:
        raise LossError(
            f"{type(loss).__name__} reads captions and queries that say the written word, but the step's features hold "
            f"no {name}: train with models.module.RetrieverModule on datamodules.text_spotting.TextSpottingDataModule, "
            f"or fill Features.{name}"
        )
    return text
