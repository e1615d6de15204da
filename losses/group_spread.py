"""Keep neutral queries equally near to every group's own queries; needs no picture."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from losses.base import Features, Loss, LossError
from losses.options import one_of
from losses.scores import cosine_matrix

Spread = Literal["std", "range"]
SPREADS: tuple[Spread, ...] = ("std", "range")


class GroupSpread(Loss):
    """Let a neutral query lean to no group's queries more than to another's.

    **Optimises**: how far the similarities of a neutral query with the queries that name each group lie apart.

    **Formula**: with ``c_kg = mean_{v of group g} cos(prompt_k, frozen_v)``, over the G groups and the frozen start's
    embeddings of the queries that name them: ``mean_k std_g(c_kg)`` (divided by G), or ``mean_k [max_g - min_g]``.

    **Reference**: Hirota et al. 2024, "SANER: Annotation-free Societal Attribute Neutralizer for Debiasing CLIP" (after
    a summary of the paper): the spread over groups of ``cos(h(t), f(t_g))``, with the reconstruction of the text
    (`KeepStart` with ``of: [prompts]``) and a contrastive loss beside it. There ``t_g`` is the neutral text itself with
    the group's word put in, and ``h`` a residual network behind a frozen tower; here the queries of a group are the
    same for all neutral prompts, and the text tower learns. The remedy ``models.remedies.trained_saner.NeutralText``
    has the residual network.

    **Requirements**: neutral prompts, and prompts of two groups or more; the term is zero for one. The module's frozen
    copy of the starting retriever. No pictures and no labels.

    **Inputs**: ``prompt``, ``teacher_group_prompt``, ``group_prompt_of``. The logit scale plays no part. Term:
    ``group_spread``, in cosines.

    **Relation to other losses**: `GroupScores` evens out what pictures of the groups really score; this one what words
    for the groups suggest, which is not the same: queries may be neutral among words and not among pictures. Only the
    text tower learns from it.

    Args:
        spread: ``"std"`` or ``"range"``.

    Example:
        >>> import torch
        >>> from losses import Features, GroupSpread
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=ids, group=ids, caption_id=ids,
        ...     prompt=torch.tensor([[0.6, 0.8]]), group_prompt=eye, group_prompt_of=ids, teacher_group_prompt=eye,
        ... )
        >>> GroupSpread("range")(features)["group_spread"]
        tensor(0.2000)
    """

    needs_teacher = True
    needs_prompts = True
    needs_group_prompts = True

    def __init__(self, spread: Spread = "std") -> None:
        super().__init__()
        one_of(self, "spread", spread, SPREADS)
        self.spread: Spread = spread

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"group_spread": []}``; zero with a graph for one group.

        Raises:
            LossError: if prompts are missing, or no teacher embedded those of groups.
        """
        prompt = features.prompts()
        _, group = features.prompts_of_groups()
        if features.teacher_group_prompt is None:
            raise LossError(
                "GroupSpread needs a frozen teacher's embeddings of the groups' prompts, and the step's features hold "
                "none: train with models.module.RetrieverModule, which keeps one"
            )
        cosines = cosine_matrix(prompt, features.teacher_group_prompt.detach())
        found, member = torch.unique(group, return_inverse=True)
        of_group = torch.nn.functional.one_hot(member, len(found)).to(cosines.dtype)
        near = cosines @ (of_group / of_group.sum(dim=0))
        if self.spread == "range":
            apart = near.amax(dim=1) - near.amin(dim=1)
        else:
            # A norm, whose gradient at zero is zero; that of a variance's root is infinite there.
            centred = near - near.mean(dim=1, keepdim=True)
            apart = torch.linalg.vector_norm(centred, dim=1) / len(found) ** 0.5
        return {"group_spread": apart.mean()}
