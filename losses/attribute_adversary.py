"""Train the image tower against small heads that tell what groups a person belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.base import Features, Loss, LossError
from losses.options import at_least
from losses.people import balance, check_groups
from losses.reversal import judge, make_head, reverse, rising


class AttributeAdversary(Loss):
    """Leave nothing in a picture's embedding that tells which groups of people it shows.

    **Optimises**: a head for each attribute (gender, race, age) lowers its cross-entropy in telling the group from the
    embedding; the image tower, behind a gradient reversal, raises it.

    **Formula**: ``sum_a mean_g mean_{i in g} CE(h_a(sqrt(D) * person_i), g)`` over the attributes a and the groups g of
    each in the global batch, which so weigh alike at any share. The reversal is that of `SourceAdversary`.

    **Reference**: Seth et al. 2023, "DeAR: Debiasing Vision-Language Models with Additive Residuals" (after a summary
    of the paper). There a residual is added to a frozen tower's embedding, ``z' = z + phi(z)``, and learns by
    ``|z - z'|^2 - sum_a CE(classifier_a(z'))``. Here the difference to the frozen start is the residual: this term is
    the classifiers' part, and `KeepStart` with ``of: [people]`` the distance; the remedy
    ``models.remedies.trained_adversarial.AttributeResidual`` has the residual itself. The equal weights of groups and a
    reversal for both sides at once are ours.

    **Requirements**: people of at least two groups of an attribute in the batch (`FacesDataModule`); an attribute with
    fewer counts zero. The module calls `prepare`, which makes the heads. `KeepStart` or a contrastive loss beside it.

    **Inputs**: ``person``; ``person_group`` for one attribute, ``person_attributes`` for several. The logit scale plays
    no part. Term: ``attribute_adversary``, in nats; ``sum_a log G_a`` is heads that know nothing, which is the aim.
    Figure: ``accuracy``, of the heads on average, groups weighing alike.

    **State**: the heads' weights, as in `SourceAdversary`.

    **Relation to other losses**: the strongest demand: equal scores by every query, also by explicit ones, so that
    watch whether "a woman" still finds women. `PromptAdversary` and `GroupScores` only ask it of neutral queries.

    Args:
        groups: how many groups each attribute has: one number for ``data.attribute`` as it is, or one for each
            attribute that it is crossed of, in its order ([7, 2] for ``race x gender``).
        hidden: the width of the heads' hidden layer; 0 for linear heads, against which the tower finds its way more
            easily.
        strength: the factor on the reversed gradient, not below 0; 0 only watches.
        warmup_steps: optimiser steps until the full strength.

    Example:
        >>> import torch
        >>> from losses import AttributeAdversary, Features
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=ids, group=ids, caption_id=ids,
        ...     person=eye, person_group=ids,
        ... )
        >>> loss = AttributeAdversary(groups=[2])
        >>> loss.prepare(embed_dim=2, seed=0)
        >>> _ = torch.nn.init.zeros_(loss.heads[0][-1].weight)
        >>> loss(features)["attribute_adversary"].detach()  # log 2
        tensor(0.6931)
    """

    needs_people = True

    def __init__(
        self, groups: Sequence[int] = (2,), hidden: int = 64, strength: float = 1.0, warmup_steps: int = 0
    ) -> None:
        super().__init__()
        if not groups:
            raise LossError("AttributeAdversary: groups is empty: give the number of groups of each attribute")
        for number in groups:
            at_least(self, "groups", number, 2)
        at_least(self, "hidden", hidden, 0)
        at_least(self, "strength", strength, 0.0)
        at_least(self, "warmup_steps", warmup_steps, 0)
        self.groups = tuple(groups)
        self.hidden = hidden
        self.strength = strength
        self.warmup_steps = warmup_steps
        self.heads = nn.ModuleList()

    def prepare(self, embed_dim: int, seed: int, prompts: int = 0) -> None:
        """Make the heads, with weights that are a function of the options, the width and the seed."""
        generator = torch.Generator().manual_seed(seed)
        hidden = [self.hidden] if self.hidden else []
        self.heads = nn.ModuleList(make_head([embed_dim, *hidden, number], generator) for number in self.groups)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"attribute_adversary": []}``; zero with a graph where no attribute has two groups.

        Raises:
            LossError: if people are missing, their attributes are not those of ``groups``, or the heads have not been
                made.
        """
        person, _ = features.people()
        if not len(self.heads):
            raise LossError(
                "AttributeAdversary has no heads yet: call prepare(embed_dim, seed) once, as models.module does, "
                "before the optimiser is made"
            )
        local = features.local_people
        # Rows of length 1 have entries of about 1 / sqrt(D): a head takes long to see a difference among them.
        read = reverse(person[local], rising(self.strength, self.warmup_steps, features.step))
        read = read * math.sqrt(person.shape[1])
        total, accuracy = person.sum() * 0.0, torch.zeros((), device=person.device)
        for head, number, group in zip(self.heads, self.groups, self._attributes(features), strict=True):
            assert isinstance(head, nn.Sequential)
            check_groups(self, group, number, "groups")
            balanced = balance(group)
            logit = judge(head, read)
            entropy = F.cross_entropy(logit, group[local].clamp(min=0), reduction="none")
            total = total + features.mean_over_people(entropy, balanced.weight) * balanced.compared
            right = (logit.detach().argmax(dim=1) == group[local]).to(entropy.dtype)
            accuracy = accuracy + features.mean_over_people(right, balanced.weight) / len(self.heads)
        self.figures = {"accuracy": accuracy}
        return {"attribute_adversary": total}

    def _attributes(self, features: Features) -> list[Tensor]:
        """The groups by each attribute: A times [P]."""
        if len(self.groups) == 1:
            return [features.people()[1]]
        columns = features.person_attributes
        if columns is None or columns.shape[1] != len(self.groups):
            have = 1 if columns is None else columns.shape[1]
            raise LossError(
                f"AttributeAdversary: groups gives {len(self.groups)} attributes, but data.attribute has {have}; "
                "cross as many, as in 'race x gender'"
            )
        return list(columns.unbind(dim=1))
