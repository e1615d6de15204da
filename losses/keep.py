"""Stay near the starting retriever's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from losses.base import Features, Loss, LossError
from losses.options import one_of
from losses.scores import at_least_float32

What = Literal["pictures", "captions", "people", "prompts", "group_prompts"]
WHAT: tuple[What, ...] = ("pictures", "captions", "people", "prompts", "group_prompts")


class KeepStart(Loss):
    """Embed things where the frozen starting retriever embeds them.

    **Optimises**: the distance that a debias term has moved embeddings.

    **Formula**: for each kind of thing, ``mean_i |z_i - z0_i|^2`` over the global batch, with ``z0`` of the frozen
    start. For unit vectors that is ``2 - 2 cos``.

    **Reference**: the squared distance to a frozen tower is the first term of DeAR (Seth et al. 2023, after a summary)
    for ``people``, and the reconstruction of SANER (Hirota et al. 2024, after a summary) for ``prompts``.
    ``pictures``, ``captions`` and ``group_prompts`` are ours.

    **Requirements**: the module's frozen copy of the starting retriever; people and prompts where they are named.

    **Inputs**: of each kind the embedding and the teacher's. Terms: ``keep_pictures``, ``keep_captions``,
    ``keep_people``, ``keep_prompts``, ``keep_group_prompts``, those that ``of`` names, each in [0, 4].

    **Relation to other losses**: beside `AttributeAdversary` it is DeAR's other half, beside `GroupSpread` SANER's.
    A contrastive loss keeps what the training pairs know; this keeps everything, debiased or not, so that its weight
    stands against the debias term's.

    Args:
        of: the kinds of things that are kept.

    Example:
        >>> import torch
        >>> from losses import Features, KeepStart
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=ids, group=ids, caption_id=ids,
        ...     person=torch.tensor([[0.6, 0.8]]), person_group=torch.tensor([0]), teacher_person=eye[:1],
        ... )
        >>> KeepStart(of=["people"])(features)["keep_people"]  # 0.4 ** 2 + 0.8 ** 2
        tensor(0.8000)
    """

    needs_teacher = True

    def __init__(self, of: Sequence[What] = ("people",)) -> None:
        super().__init__()
        if not of:
            raise LossError(f"KeepStart: of is empty: name some of {', '.join(WHAT)}")
        for what in of:
            one_of(self, "of", what, WHAT)
        self.of: tuple[What, ...] = tuple(dict.fromkeys(of))
        self.needs_teacher_text = "captions" in self.of
        self.needs_people = "people" in self.of
        self.needs_prompts = "prompts" in self.of
        self.needs_group_prompts = "group_prompts" in self.of

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return the terms of ``of``; zero with a graph where there is nothing of a kind.

        Raises:
            LossError: if something that is named is missing, or no teacher embedded it.
        """
        terms = {}
        for what in self.of:
            if what == "people":
                rows, teacher = features.local_people, features.teacher_person
                moved = _moved(what, features.people()[0], teacher)[rows]
                value = features.mean_over_people(moved, torch.ones(features.people()[0].shape[0], device=moved.device))
            elif what == "pictures":
                value = _moved(what, features.image, features.teacher_image)[features.local].mean()
            elif what == "captions":
                value = _moved(what, features.text, features.teacher_text)[features.local].mean()
            elif what == "prompts":
                value = _moved(what, features.prompts(), features.teacher_prompt).mean()
            else:
                value = _moved(what, features.prompts_of_groups()[0], features.teacher_group_prompt).mean()
            terms[f"keep_{what}"] = value
        return terms


def _moved(what: What, embedding: Tensor, teacher: Tensor | None) -> Tensor:
    """[n, D] twice to [n] squared distances."""
    if teacher is None:
        raise LossError(
            f"KeepStart needs a frozen teacher's embeddings of {what}, and the step's features hold none: train with "
            "models.module.RetrieverModule, which keeps one"
        )
    return (at_least_float32(embedding) - at_least_float32(teacher.detach())).square().sum(dim=1)
