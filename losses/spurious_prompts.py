"""Keep a caption that leaves an object out away from the query that names the object."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.base import Features, Loss, LossError
from losses.edited_pairs import ANCHORS, EDITS, EditedPairs
from losses.scores import cosine_matrix, cosine_of_rows


class SpuriousPrompts(Loss):
    """Let no caption be nearer to an object that it leaves out than captions are at large.

    **Optimises**: the cosine between the caption without the object and the query that names it ("a photo of a dog"),
    where it is above what other captions have.

    **Formula**: with the query p_i of an edit's object and the caption c_i that does not mention it, the mean over the
    edited rows of the global batch of ``max(0, |cos(c_i, p_i)| - mean_j |cos(t_j, p_i)|)``, where t_j are the captions
    of all other anchors of the batch, without gradient. c_i is the edited caption where the object was taken out, and
    the anchor's where it was pasted in.

    **Reference**: Yang et al. 2023, "Mitigating Spurious Correlations in Multi-modal Models during Fine-tuning" (after
    the authors' code): the mean of ``|cos|`` between class prompts and spurious prompts. Edited captions in place of
    class prompts, and the floor, are our port to retrieval: sentences of one language all have something in common, and
    an absolute zero would tear them apart.

    **Requirements**: edits in the batch, with queries that name their objects
    (``datamodules.decorrelated.DecorrelatedDataModule``), and a contrastive loss beside it.

    **Inputs**: ``text``, ``edit_text``, ``has_edit``, ``edit_added``, ``edit_prompt``. Term: ``spurious_prompts``, in
    [0, 1]. Pictures and the logit scale play no part.

    **Relation to other losses**: the others here compare a picture's captions; this one works on the words alone, and
    so reaches what the text tower has learnt of co-occurrence, but nothing in the image tower.

    Example:
        >>> import torch
        >>> from losses import Features, SpuriousPrompts
        >>> eye, ids = torch.eye(2), torch.arange(2)
        >>> features = Features(
        ...     image=eye, text=eye, logit_scale=torch.tensor(1.0), source=ids, group=ids, caption_id=ids,
        ...     edit=eye, edit_text=torch.tensor([[0.6, 0.8], [0.0, 0.0]]), has_edit=torch.tensor([True, False]),
        ...     edit_added=torch.tensor([False, False]), edit_prompt=torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        ... )
        >>> SpuriousPrompts()(features)["spurious_prompts"]  # 0.6, and the other caption has 0
        tensor(0.6000)
    """

    needs_edit = True
    needs_edit_prompt = True

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"spurious_prompts": []}``; zero with a graph where no row is edited.

        Raises:
            LossError: if the batch carries no edits or no queries for them.
        """
        pairs = EditedPairs.of(features)
        if features.edit_prompt is None:
            raise LossError(
                "SpuriousPrompts reads queries that name the objects of edits, but the step's features hold none: "
                "train with models.module.RetrieverModule, which embeds them, or fill Features.edit_prompt"
            )
        local, count = features.local, len(features.text)
        anchor, edit = pairs.text[:, local]
        omits = torch.where(pairs.fuller[ANCHORS, local, None], edit, anchor)
        prompt = features.edit_prompt[local]
        own = cosine_of_rows(omits, prompt).abs()
        text, query = features.text.detach(), prompt.detach()
        everyone = cosine_matrix(query, text).abs().sum(dim=1)
        others = everyone - cosine_of_rows(query, text[local]).abs()
        floor = others / max(count - 1, 1)
        return {"spurious_prompts": features.mean_over((own - floor).clamp(min=0), pairs.exists[EDITS])}
