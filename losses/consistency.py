"""Pull the embedding of a generated picture to that of its photo."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from losses.base import REAL, Features, Loss, LossError
from losses.options import one_of
from losses.scores import cosine_of_rows

Teacher = Literal["stop_gradient", "frozen"]
TEACHERS: tuple[Teacher, ...] = ("stop_gradient", "frozen")


class TwinConsistency(Loss):
    """Embed a generated picture where its photo is embedded.

    **Optimises**: the cosine between the generated picture's embedding and a fixed target of its pair.

    **Formula**: ``mean_i [1 - cos(generated_i, target_i)]`` over the P pairs of the global batch, where the target is
    the photo's embedding without gradient (``"stop_gradient"``), or a frozen teacher's embedding of the photo
    (``"frozen"``).

    **Reference**: ours for this use. The target without gradient follows SimSiam (Chen and He 2021, equation 3), the
    frozen one is embedding distillation.

    **Requirements**: pairs in the batch (``data.twin_share`` above 0, shards with twins); for ``"frozen"`` the module's
    frozen copy of the starting retriever.

    **Inputs**: ``image``, ``source``, ``twin``, ``has_twin``; for ``"frozen"`` also ``teacher_image`` and
    ``teacher_twin``. Without ``teacher_twin`` only pairs whose anchor is the photo count. Term: ``twin_consistency``,
    in [0, 2].

    **Relation to other losses**: `RankHinge` asks for equal scores by one caption, this term for equal embeddings,
    which gives equal scores by every caption; the stronger demand, and it also erases true differences of the twin.
    Photos are not moved to generated pictures, so their retrieval is left to `InfoNCE`. It needs a contrastive loss
    beside it: alone it is lowest where all pictures share one embedding.

    Args:
        teacher: ``"stop_gradient"`` follows the photo's embedding as it is tuned; ``"frozen"`` keeps the
            starting point's.

    Example:
        >>> import torch
        >>> from losses import Features, TwinConsistency
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(10.0), source=torch.zeros(2, dtype=torch.int64),
        ...     group=ids, caption_id=ids,
        ...     twin=torch.tensor([[0.6, 0.8], [0.0, 0.0]]), has_twin=torch.tensor([True, False]),
        ... )
        >>> TwinConsistency()(features)["twin_consistency"]
        tensor(0.4000)
    """

    needs_twin = True

    def __init__(self, teacher: Teacher = "stop_gradient") -> None:
        super().__init__()
        one_of(self, "teacher", teacher, TEACHERS)
        self.teacher = teacher
        self.needs_teacher = teacher == "frozen"

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"twin_consistency": []}``; zero with a graph where no pair counts.

        Raises:
            LossError: if the batch carries no twins, or ``"frozen"`` is asked for and no teacher embedded it.
        """
        real, generated, paired = features.sources_of_pairs()
        target = real.detach()
        if self.teacher == "frozen":
            target, known = _frozen_photo(features)
            paired = paired & known
        local = features.local
        distance = 1 - cosine_of_rows(generated[local], target[local])
        return {"twin_consistency": features.mean_over(distance, paired)}


def _frozen_photo(features: Features) -> tuple[Tensor, Tensor]:
    """The teacher's embedding of each pair's photo [N, D], and where it is known [N]."""
    if features.teacher_image is None:
        raise LossError(
            "TwinConsistency(teacher='frozen') needs a frozen teacher's embeddings, and the step's features hold none: "
            "train with models.module.RetrieverModule, which keeps one, or fill Features.teacher_image"
        )
    anchor_is_photo = features.source == REAL
    if features.teacher_twin is None:
        return features.teacher_image.detach(), anchor_is_photo
    photo = torch.where(anchor_is_photo.unsqueeze(1), features.teacher_image, features.teacher_twin)
    return photo.detach(), torch.ones_like(anchor_is_photo)
