"""Train the image tower against a small head that tells photos from generated pictures."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.base import REAL, Features, Loss, LossError
from losses.options import above, at_least, one_of
from losses.reversal import judge, make_head, reverse, rising

Head = Literal["linear", "mlp"]
HEADS: tuple[Head, ...] = ("linear", "mlp")
Condition = Literal["none", "caption"]
CONDITIONS: tuple[Condition, ...] = ("none", "caption")


class SourceAdversary(Loss):
    """Leave nothing in a picture's embedding that tells its source.

    **Optimises**: the head lowers its cross-entropy in telling generated pictures from photos; the image tower, behind
    a gradient reversal, raises it.

    **Formula**: with the head's logit ``z`` of "generated",
    ``(1/2) mean_{photos} softplus(z) + (1/2) mean_{generated} softplus(-z)`` over all anchors and drawn twins of the
    global batch: both sources weigh alike at any share. The head reads ``sqrt(D) * image``; conditioned on the caption,
    also the elementwise product ``D * image * text``, whose sum is the score. The reversal passes embeddings on
    unchanged, and multiplies their gradient by ``-strength(step)``, where the strength rises linearly from 0 over
    ``warmup_steps``.

    **Reference**: Ganin and Lempitsky 2015, "Unsupervised Domain Adaptation by Backpropagation", equations 4 to 9
    (paper), with the source as the domain. The condition follows Long et al. 2018, "Conditional Adversarial Domain
    Adaptation", with the caption's embedding for their classifier's output and an elementwise product. The equal weight
    of the sources and the linear rise are ours.

    **Requirements**: both sources among a batch's pictures; the term is zero where one is missing. The two sources'
    contents must be alike, else the term erases a true difference. The module calls `prepare`, which makes the head.

    **Inputs**: ``image``, ``source``; ``twin``, ``has_twin`` and ``twin_source`` where the batch carries them (some
    other loss asks for twins, then); ``text``, without gradient, where conditioned on it. The logit scale plays no
    part. Term: ``source_adversary``, in nats; log 2 is a head that knows nothing, which is the aim.

    **State**: the head's weights, trained by the module's optimiser (its matrices decay like others), saved with a
    checkpoint, and no part of the retriever that a run writes. They are drawn from the run's seed alone.

    **Relation to other losses**: `SourceMMD` and `SourceCORAL` compare the two sources by fixed statistics, where this
    one learns what tells them apart; a linear head is a match of means along its direction. Without the
    condition it sees a source only as a whole: pictures of one may still lie nearer to their captions than those of the
    other, and lead by it. AdamW makes the head's own pace independent of the
    term's weight, so weight and strength matter to the tower by their product; warm up ``strength``, and the head is
    trained from the first step.

    Args:
        head: ``"linear"``, or ``"mlp"`` with one hidden layer and a ReLU.
        condition: ``"none"`` judges a picture by itself, ``"caption"`` beside its caption.
        hidden: the width of the hidden layer, from 1.
        strength: the factor on the reversed gradient, not below 0; 0 only watches.
        warmup_steps: optimiser steps until the full strength.

    Example:
        >>> import torch
        >>> from losses import Features, SourceAdversary
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=ids, group=ids, caption_id=ids
        ... )
        >>> loss = SourceAdversary(head="linear")
        >>> loss.prepare(embed_dim=2, seed=0)
        >>> _ = torch.nn.init.zeros_(loss.head[0].weight)
        >>> loss(features)["source_adversary"].detach()  # log 2
        tensor(0.6931)
    """

    def __init__(
        self,
        head: Head = "mlp",
        condition: Condition = "none",
        hidden: int = 64,
        strength: float = 1.0,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        one_of(self, "head", head, HEADS)
        one_of(self, "condition", condition, CONDITIONS)
        above(self, "hidden", hidden, 0)
        at_least(self, "strength", strength, 0.0)
        at_least(self, "warmup_steps", warmup_steps, 0)
        self.kind: Head = head
        self.condition: Condition = condition
        self.hidden = hidden
        self.strength = strength
        self.warmup_steps = warmup_steps
        self.head = nn.Sequential()

    def prepare(self, embed_dim: int, seed: int, prompts: int = 0) -> None:
        """Make the head, with weights that are a function of the options, the width and the seed."""
        read = 2 * embed_dim if self.condition == "caption" else embed_dim
        widths = [read, 1] if self.kind == "linear" else [read, self.hidden, 1]
        self.head = make_head(widths, torch.Generator().manual_seed(seed))

    def strength_at(self, step: int) -> float:
        """The factor on the reversed gradient at an optimiser step (0 is the first)."""
        return rising(self.strength, self.warmup_steps, step)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"source_adversary": []}``; zero with a graph where a source is missing.

        Raises:
            LossError: if the head has not been made.
        """
        if not len(self.head):
            raise LossError(
                "SourceAdversary has no head yet: call prepare(embed_dim, seed) once, as models.module does, "
                "before the optimiser is made"
            )
        strength = self.strength_at(features.step)
        pictures = [(features.image, features.source, torch.ones_like(features.source, dtype=torch.bool))]
        if features.twin is not None and features.has_twin is not None:
            source = (features.source == REAL).long() if features.twin_source is None else features.twin_source
            pictures.append((features.twin, source, features.has_twin))
        known = torch.stack([present for _, _, present in pictures])
        generated = torch.stack([source != REAL for _, source, _ in pictures])
        of_generated, of_real = (known & generated).sum(), (known & ~generated).sum()
        total = features.image.sum() * 0.0
        for embedding, source, present in pictures:
            logit = self._judge(embedding[features.local], features.text[features.local].detach(), strength)
            fake = source != REAL
            real_part = features.sum_over(F.softplus(logit), present & ~fake) / of_real.clamp(min=1)
            fake_part = features.sum_over(F.softplus(-logit), present & fake) / of_generated.clamp(min=1)
            total = total + (real_part + fake_part) / 2
        both = (of_generated > 0) & (of_real > 0)
        return {"source_adversary": total * both}

    def _judge(self, embedding: Tensor, caption: Tensor, strength: float) -> Tensor:
        """[B, D] pictures and their captions to [B] logits of "generated"."""
        # Rows of length 1 have entries of about 1 / sqrt(D): a head takes long to see a difference among them.
        root = math.sqrt(embedding.shape[1])
        scaled = reverse(embedding, strength) * root
        if self.condition == "caption":
            scaled = torch.cat([scaled, scaled * caption * root], dim=1)
        return judge(self.head, scaled).squeeze(1)
