"""Take the same thing out of pictures of a group as out of the words for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.base import Features, Loss, LossError
from losses.options import above, at_least
from losses.people import balance, check_groups
from losses.scores import at_least_float32, cosine_matrix


class JointAlignment(Loss):
    """Remove a group from both modalities at once, and the same of it from each.

    **Optimises**: that a picture fits the words for every group as well as it fitted those for its own, and that what
    pictures lost is what the words for their group lost.

    **Formula**: with people ``v_i`` and group queries ``t_gj`` (the j-th of group g), their frozen starts ``v0`` and
    ``t0``, temperature ``tau``, and means over people in which groups weigh alike:

    - distillation: ``mean_i CE(q_i, softmax_gj(v_i . t_gj / tau))`` where ``q_i`` is the starting retriever's
      distribution ``softmax_gj(v0_i . t0_gj / tau)``, averaged over the groups for each j.
    - alignment: ``mean_i KL(p_g(i) || softmax_m((v0_i - v_i) . v0_m / tau))`` over the batch's people m, with the
      target ``p_g = softmax_m(mean_j (t0_gj - t_gj) . v0_m / tau)``, which gets no gradient.

    **Reference**: the two losses of "Joint Vision-Language Social Bias Removal for CLIP" (CVPR 2025, paper), weighted
    0.3 and 0.7 as there: distributions of similarity with the removed parts, text as the target; and cross-entropy to
    the original distribution with a caption swapped for its counterfactual half the time. Simplified by us: captions
    are the queries that name the groups; the swap is replaced by its expectation over all groups, which needs no draw;
    what both removed parts are compared with are the batch's pictures, without a queue of earlier ones; no momentum
    copy of the target.

    **Requirements**: people of at least two groups in the batch (`FacesDataModule`), prompts of every group, equally
    many and in the same order ("A photo of a man." where the other group has "A photo of a woman."), and the module's
    frozen copy of the starting retriever. A contrastive loss or `KeepStart` beside it keeps the rest.

    **Inputs**: ``person``, ``person_group``, ``group_prompt``, ``group_prompt_of``, and their teachers'. The logit
    scale plays no part. Terms: ``joint_distillation``, ``joint_alignment``, each times its weight.

    **Relation to other losses**: like `AttributeAdversary` it makes explicit queries ("a woman") useless by design;
    `GroupScores` and `PromptAdversary` spare them. Distillation alone is met by words that all become one; alignment
    makes the pictures follow.

    Args:
        distillation: weight of the first term, not below 0.
        alignment: weight of the second, not below 0.
        temperature: tau, above 0.

    Example:
        >>> import torch
        >>> from losses import Features, JointAlignment
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=ids, group=ids, caption_id=ids,
        ...     person=eye, person_group=ids, group_prompt=eye, group_prompt_of=ids,
        ...     teacher_person=eye, teacher_group_prompt=eye,
        ... )
        >>> JointAlignment(distillation=1.0, temperature=1.0)(features)["joint_distillation"]  # log(1 + e) - 1/2
        tensor(0.8133)
    """

    needs_people = True
    needs_group_prompts = True
    needs_teacher = True

    def __init__(self, distillation: float = 0.3, alignment: float = 0.7, temperature: float = 0.07) -> None:
        super().__init__()
        at_least(self, "distillation", distillation, 0.0)
        at_least(self, "alignment", alignment, 0.0)
        above(self, "temperature", temperature, 0.0)
        self.distillation = distillation
        self.alignment = alignment
        self.temperature = temperature

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"joint_distillation": [], "joint_alignment": []}``; zero with a graph for fewer than two groups.

        Raises:
            LossError: if people, prompts or the teacher's embeddings are missing, or groups have unequally many
                prompts.
        """
        person, group = features.people()
        prompt, prompt_of = features.prompts_of_groups()
        if features.teacher_person is None or features.teacher_group_prompt is None:
            raise LossError(
                "JointAlignment needs a frozen teacher's embeddings of people and of the groups' prompts, and the "
                "step's features hold none: train with models.module.RetrieverModule, which keeps one"
            )
        size = torch.bincount(prompt_of)
        if len(size) == 0 or not bool((size == size[0]).all()):
            raise LossError(
                f"JointAlignment needs equally many prompts of every group, in the same order; there are "
                f"{size.tolist()}: mend model.prompts.groups"
            )
        groups = len(size)
        check_groups(self, group, groups, "model.prompts.groups")
        order = torch.argsort(prompt_of, stable=True)  # group by group, each in the order of its prompts
        prompt, first = prompt[order], features.teacher_group_prompt.detach()[order]
        start = features.teacher_person.detach()
        balanced, local, tau = balance(group), features.local_people, self.temperature

        original = (cosine_matrix(start[local], first) / tau).softmax(dim=1).unflatten(1, (groups, -1))
        target = original.mean(dim=1, keepdim=True).expand_as(original).flatten(1)
        fitted = (cosine_matrix(person[local], prompt) / tau).log_softmax(dim=1)
        entropy = -(target * fitted).sum(dim=1)

        lost = (at_least_float32(first) - at_least_float32(prompt)).unflatten(0, (groups, -1)).mean(dim=1)
        wanted = (cosine_matrix(lost.detach(), start) / tau).log_softmax(dim=1)[group[local].clamp(min=0)]
        taken = at_least_float32(start[local]) - at_least_float32(person[local])
        found = (cosine_matrix(taken, start) / tau).log_softmax(dim=1)
        divergence = F.kl_div(found, wanted, log_target=True, reduction="none").sum(dim=1)

        return {
            name: weight * features.mean_over_people(values, balanced.weight) * balanced.compared
            for name, weight, values in (
                ("joint_distillation", self.distillation, entropy),
                ("joint_alignment", self.alignment, divergence),
            )
        }
