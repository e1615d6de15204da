"""Train against a small head that tells a person's group by how neutral queries score the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.base import Features, Loss, LossError
from losses.options import above, at_least
from losses.people import balance, check_groups
from losses.reversal import judge, make_head, reverse, rising
from losses.scores import cosine_matrix

_LEAST_SPREAD = 1e-4  # of cosines; what differs by less is taken for equal


class PromptAdversary(Loss):
    """Leave nothing in the scores of neutral queries that tells which group of people a picture shows.

    **Optimises**: the head lowers its cross-entropy in telling a person's group from the scores that all neutral
    prompts give to the picture; both towers, behind a gradient reversal, raise it.

    **Formula**: with the scores ``s_ik = cos(person_i, prompt_k)``, standardised for each prompt over the step's people
    (``x_ik = (s_ik - mean_k) / std_k``, without gradient to mean and deviation), and the head's logits ``h(x_i)`` of
    the G groups: ``mean_g mean_{i in g} CE(h(x_i), g)`` over the groups in the global batch, which so weigh alike at
    any share. The head has four layers. The reversal passes scores on unchanged, and multiplies their gradient by
    ``-strength(step)``, which rises linearly from 0 over ``warmup_steps``.

    **Reference**: Berg et al. 2022, "A Prompt Array Keeps the Bias Away: Debiasing Vision-Language Models with
    Adversarial Learning" (paper): an adversary of that size on image-prompt scores, and neutral prompts. There the
    scores are logits over 20, an array of prompt tokens is all that learns, and the two sides take turns. One step for
    both by a gradient reversal (Ganin and Lempitsky 2015), standardised scores, equal weights of the groups, and
    training whatever of the towers is not frozen are ours.

    **Requirements**: people of at least two groups in the batch (`FacesDataModule`); the term is zero otherwise. Always
    the same prompts, all of them: no ``model.prompts.per_step``. The module calls `prepare`, which makes the head.

    **Inputs**: ``person``, ``person_group``, ``prompt``. The logit scale plays no part. Term: ``prompt_adversary``, in
    nats; log G is a head that knows nothing, which is the aim. Figure: ``accuracy``, of the head, groups weighing
    alike; 1/G is the aim.

    **State**: the head's weights, as in `SourceAdversary`.

    **Relation to other losses**: `GroupScores` compares the scores of each prompt by itself, without a head; this one
    also sees prompts together: two of which only the difference tells the group. `AttributeAdversary` judges the
    picture's whole embedding, and so also takes out what explicit queries ("a woman") live on; this one touches what
    the neutral prompts read. It needs a contrastive loss, or `KeepStart`, beside it.

    Args:
        groups: G, as many as ``data.attribute`` has.
        hidden: the width of the head's three hidden layers, from 1.
        strength: the factor on the reversed gradient, not below 0; 0 only watches.
        warmup_steps: optimiser steps until the full strength.

    Example:
        >>> import torch
        >>> from losses import Features, PromptAdversary
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=ids, group=ids, caption_id=ids,
        ...     person=eye, person_group=ids, prompt=torch.tensor([[0.6, 0.8]]),
        ... )
        >>> loss = PromptAdversary(groups=2)
        >>> loss.prepare(embed_dim=2, seed=0, prompts=1)
        >>> _ = torch.nn.init.zeros_(loss.head[-1].weight)
        >>> loss(features)["prompt_adversary"].detach()  # log 2
        tensor(0.6931)
    """

    needs_people = True
    needs_prompts = True

    def __init__(self, groups: int = 2, hidden: int = 32, strength: float = 1.0, warmup_steps: int = 0) -> None:
        super().__init__()
        at_least(self, "groups", groups, 2)
        above(self, "hidden", hidden, 0)
        at_least(self, "strength", strength, 0.0)
        at_least(self, "warmup_steps", warmup_steps, 0)
        self.groups = groups
        self.hidden = hidden
        self.strength = strength
        self.warmup_steps = warmup_steps
        self.head = nn.Sequential()

    def prepare(self, embed_dim: int, seed: int, prompts: int = 0) -> None:
        """Make the head, with weights that are a function of the options, the number of prompts and the seed.

        Raises:
            LossError: if there are no prompts.
        """
        if prompts < 1:
            raise LossError("PromptAdversary judges by neutral queries, but there are none: set model.prompts.neutral")
        widths = [prompts, self.hidden, self.hidden, self.hidden, self.groups]
        self.head = make_head(widths, torch.Generator().manual_seed(seed))

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"prompt_adversary": []}``; zero with a graph where fewer than two groups are there.

        Raises:
            LossError: if people or prompts are missing, a group has too high a number, the head has not been made, or
                it was made for another number of prompts.
        """
        person, group = features.people()
        prompt = features.prompts()
        check_groups(self, group, self.groups, "groups")
        if not len(self.head):
            raise LossError(
                "PromptAdversary has no head yet: call prepare(embed_dim, seed, prompts) once, as models.module does, "
                "before the optimiser is made"
            )
        first = self.head[0]
        assert isinstance(first, nn.Linear)
        if len(prompt) != first.in_features:
            raise LossError(
                f"PromptAdversary reads the scores of all {first.in_features} neutral prompts at every step, but was "
                f"given {len(prompt)}: set model.prompts.per_step = 0"
            )
        balanced = balance(group)
        local = features.local_people
        mean, spread = _moments(cosine_matrix(person.detach(), prompt.detach()), balanced.weight)
        scores = reverse(cosine_matrix(person[local], prompt), rising(self.strength, self.warmup_steps, features.step))
        logit = judge(self.head, (scores - mean) / spread)
        entropy = F.cross_entropy(logit, group[local].clamp(min=0), reduction="none")
        right = (logit.detach().argmax(dim=1) == group[local]).to(entropy.dtype)
        self.figures = {"accuracy": features.mean_over_people(right, balanced.weight)}
        return {"prompt_adversary": features.mean_over_people(entropy, balanced.weight) * balanced.compared}


def _moments(scores: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each prompt's mean and standard deviation over the people: [P, K], [P] to [K], [K]."""
    share = (weight / weight.sum().clamp(min=1e-12)).to(scores.dtype)
    mean = share @ scores
    return mean, (share @ (scores - mean).square()).sqrt().clamp(min=_LEAST_SPREAD)
