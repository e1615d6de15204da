"""What every loss receives and returns.

Reduction contract. Features are gathered *with gradient* over all ranks before a loss sees them, and a loss may
score only this rank's rows. DistributedDataParallel averages parameter gradients over ranks, so the value that a rank
returns must be such that **the mean over ranks is the loss of the global batch on one process**:

- a mean over all N rows: return the mean over this rank's rows (all ranks hold equally many);
- a mean over some rows only (pairs, say): return ``Features.mean_over(values, mask)``, which divides by the *global*
  count, known on every rank;
- a sum over rows: return ``Features.sum_over(values, mask)``, the sum over the global batch;
- a term that cannot be split by rows (a sorted distribution, say): compute it in full on every rank.

Pictures of people are a second, independent set of rows with counterparts of all this (``Features.mean_over_people``).
Prompts and rendered words are not gathered: every rank embeds the same ones, so a term of them alone is computed in
full on every rank, and the mean of it over ranks is itself.

Then the gradient does not depend on the number of processes. A plain sum over local rows, or a mean over the local
count of a mask, breaks it silently.

Every rank must also reach the same gathered tensors: the gather's backward is a collective. So a term that has nothing
to score returns a zero that is still attached to the graph, never a constant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

import torch
from torch import Tensor, nn

# losses import nothing of the project but each other; numbers that stand for sources are given in the batch.
REAL = 0


class LossError(ValueError):
    """A loss was configured or fed wrongly; the message names the option or the input, and the remedy."""


@dataclass(frozen=True)
class Features:
    """Embeddings and labels of one training step over the global batch.

    N is the global batch, B = N / world_size the rows of this rank, D the shared embedding's width. There may be P
    pictures of people in the global batch, K neutral prompts, V prompts that name a group, and W rendered words.

    Attributes:
        image: [N, D] float, L2-normalised anchor pictures.
        text: [N, D] float, L2-normalised captions; row i is the caption of picture i.
        logit_scale: [] float, the factor on cosines (already exponentiated).
        source: [N] int64, 0 for a real photo, above 0 for generated (one code a generator).
        group: [N] int64; pictures of one group show the same thing and are no negatives of each other.
        caption_id: [N] int64; equal captions have equal ids and are no negatives of each other.
        logit_bias: [] float or None, SigLIP's bias.
        twin: [N, D] float, L2-normalised, or None; the caption's picture from the other source, zeros where absent or
            where no loss reads it (`Loss.twins_read`).
        has_twin: [N] bool, or None where ``twin`` is None.
        twin_source: [N] int64, the twin's source (any number where absent), or None: every twin is of the other kind,
            generated for a photo and a photo for a generated picture.
        teacher_image: [N, D] float without gradient, or None: a frozen teacher's embedding of the anchor.
        teacher_twin: [N, D] float without gradient, or None: its embedding of the twin, zeros where absent.
        teacher_text: [N, D] float without gradient, or None: its embedding of the caption.
        person: [P, D] float, L2-normalised pictures of people, or None. They have no captions and are in no way paired
            with the anchors.
        person_group: [P] int64, the group of people that a picture shows, from 0; -1 where it is not known. None where
            ``person`` is None.
        person_attributes: [P, A] int64 or None: the same by each of the A attributes that the groups are crossed of.
        teacher_person: [P, D] float without gradient, or None: a frozen teacher's embedding of the people.
        prompt: [K, D] float, L2-normalised neutral queries ("A photo of a smart person."), the same on all ranks, or
            None.
        group_prompt: [V, D] float, L2-normalised queries that name a group ("A photo of a woman."), likewise, or None.
        group_prompt_of: [V] int64, the group that each names; None where ``group_prompt`` is None.
        teacher_prompt: [K, D] float without gradient, or None: a frozen teacher's embedding of the neutral queries.
        teacher_group_prompt: [V, D] float without gradient, or None: likewise.
        edit: [N, D] float, L2-normalised, or None; the anchor's picture with an object taken out or pasted in, or with
            a word written on it (an overlay), zeros where absent.
        edit_text: [N, D] float, L2-normalised, or None where ``edit`` is; the row's caption, edited alike. Of an
            overlay it says the word as well, and the row's own caption is still true.
        has_edit: [N] bool, or None where ``edit`` is.
        edit_added: [N] bool, or None where ``edit`` is: the object or word was added, not taken out.
        edit_caption_id: [N] int64, or None where ``edit`` is: as ``caption_id``, of the edited captions; any number
            where absent.
        edit_prompt: [N, D] float, L2-normalised, or None: a query that names the edit's object or word, zeros where
            absent.
        word_image: [W, D] float, L2-normalised, or None: words rendered on empty canvases, the same on all ranks.
        word_text: [W, D] float, L2-normalised, or None where ``word_image`` is: the same words as text.
        rows: this rank's rows of the global batch; None means all of them (one process).
        person_rows: this rank's pictures of people; None means all of them (one process).
        step: optimiser step, for schedules and for draws that every rank makes alike.
        seed: the run's seed, for draws that every rank makes alike.
    """

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    source: Tensor
    group: Tensor
    caption_id: Tensor
    logit_bias: Tensor | None = None
    twin: Tensor | None = None
    has_twin: Tensor | None = None
    twin_source: Tensor | None = None
    teacher_image: Tensor | None = None
    teacher_twin: Tensor | None = None
    teacher_text: Tensor | None = None
    person: Tensor | None = None
    person_group: Tensor | None = None
    person_attributes: Tensor | None = None
    teacher_person: Tensor | None = None
    prompt: Tensor | None = None
    group_prompt: Tensor | None = None
    group_prompt_of: Tensor | None = None
    teacher_prompt: Tensor | None = None
    teacher_group_prompt: Tensor | None = None
    edit: Tensor | None = None
    edit_text: Tensor | None = None
    has_edit: Tensor | None = None
    edit_added: Tensor | None = None
    edit_caption_id: Tensor | None = None
    edit_prompt: Tensor | None = None
    word_image: Tensor | None = None
    word_text: Tensor | None = None
    rows: slice | None = None
    person_rows: slice | None = None
    step: int = 0
    seed: int = 0

    @property
    def local(self) -> slice:
        """This rank's rows as a slice with both ends set."""
        return self.rows if self.rows is not None else slice(0, self.image.shape[0])

    @property
    def world_size(self) -> int:
        """How many ranks share the global batch."""
        if self.rows is None:
            return 1
        return self.image.shape[0] // (self.rows.stop - self.rows.start)

    def mean_over(self, values: Tensor, mask: Tensor) -> Tensor:
        """This rank's part of a mean over the masked rows of the global batch.

        Args:
            values: [B] one value per local row.
            mask: [N] bool over the *global* batch: which rows count.

        Returns:
            [] ``world_size * sum(values[mask_local]) / count(mask)``; zero, still attached to the graph, where the
            mask is empty. The mean of it over ranks is the mean over the masked rows.
        """
        return self.sum_over(values, mask) / mask.sum().clamp(min=1)

    def sum_over(self, values: Tensor, mask: Tensor) -> Tensor:
        """This rank's part of a sum over the masked rows of the global batch.

        Args:
            values: [B] one value per local row.
            mask: [N] bool over the *global* batch: which rows count.

        Returns:
            [] ``world_size * sum(values[mask_local])``; zero, still attached to the graph, where no local row counts.
            The mean of it over ranks is the sum over the masked rows.
        """
        return torch.where(mask[self.local], values, torch.zeros_like(values)).sum() * self.world_size

    @property
    def local_people(self) -> slice:
        """This rank's pictures of people as a slice with both ends set; empty where there are none."""
        if self.person is None:
            return slice(0, 0)
        return self.person_rows if self.person_rows is not None else slice(0, self.person.shape[0])

    def people(self) -> tuple[Tensor, Tensor]:
        """Pictures of people [P, D] and their groups [P].

        Raises:
            LossError: if the batch carries no pictures of people.
        """
        if self.person is None or self.person_group is None:
            raise LossError(
                "this loss is about pictures of people, but the batch carries none: take "
                "datamodules.faces.FacesDataModule and give shards of people in data.people"
            )
        return self.person, self.person_group

    def prompts(self) -> Tensor:
        """Neutral queries [K, D].

        Raises:
            LossError: if there are none.
        """
        if self.prompt is None:
            raise LossError("this loss reads neutral queries, but there are none: give them in model.prompts.neutral")
        return self.prompt

    def prompts_of_groups(self) -> tuple[Tensor, Tensor]:
        """Queries that name a group [V, D], and the group that each names [V].

        Raises:
            LossError: if there are none.
        """
        if self.group_prompt is None or self.group_prompt_of is None:
            raise LossError(
                "this loss reads queries that name a group, but there are none: give them in model.prompts.groups"
            )
        return self.group_prompt, self.group_prompt_of

    def words(self) -> tuple[Tensor, Tensor]:
        """Rendered words as pictures and as text: [W, D] each.

        Raises:
            LossError: if the batch carries none.
        """
        if self.word_image is None or self.word_text is None:
            raise LossError(
                "this loss reads rendered words, but the batch carries none: take "
                "datamodules.text_spotting.TextSpottingDataModule and set data.rendered_words to 2 or more"
            )
        return self.word_image, self.word_text

    def mean_over_people(self, values: Tensor, weight: Tensor) -> Tensor:
        """This rank's part of a weighted mean over the people of the global batch.

        Args:
            values: [P / world_size] one value per local picture of a person.
            weight: [P] bool, or float not below 0, over the *global* batch.

        Returns:
            [] the part; zero, still attached to the graph, where no picture counts. The mean of it over ranks is
            ``sum(weight * values) / sum(weight)`` over the global batch.
        """
        weight = weight.to(values.dtype)
        local = self.local_people
        ranks = len(weight) // max(local.stop - local.start, 1)
        total = weight.sum()
        part = torch.where(weight[local] > 0, values * weight[local], torch.zeros_like(values)).sum() * ranks
        return part / torch.where(total > 0, total, torch.ones_like(total))

    def sources_of_pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The real and the generated picture of each caption.

        Returns:
            ``(real [N, D], generated [N, D], paired [N] bool)``. An anchor that is itself generated (``replace`` mode)
            has its photo as twin; the two are put in order here. Rows without a twin, or whose ``twin_source`` is of
            the same kind, are not paired and hold the anchor twice.

        Raises:
            LossError: if the batch carries no twins at all.
        """
        if self.twin is None or self.has_twin is None:
            raise LossError(
                "this loss compares a photo with its generated twin, but the batch carries no twins: "
                "set data.twin_share above 0 and use shards that hold twins"
            )
        generated = (self.source != REAL).unsqueeze(1)
        paired = self.has_twin
        if self.twin_source is not None:
            paired = paired & ((self.twin_source != REAL) != (self.source != REAL))
        twin = torch.where(paired.unsqueeze(1), self.twin, self.image)
        return torch.where(generated, twin, self.image), torch.where(generated, self.image, twin), paired


class Loss(nn.Module, ABC):
    """A pluggable loss: tensors in, named terms out.

    Calling it on a CPU checks the terms, so that a NaN stops the run at the tensor where it arose; which input and
    which rows are to blame is looked up only once the check has failed. Reading a number off an accelerator would hold
    it up at every step: there who sums the terms judges them, a step later.

    Attributes:
        needs_twin: the batch must carry twins; the module says so before training otherwise.
        needs_teacher: the module keeps a frozen copy of the starting retriever and fills ``teacher_image`` and the
            other teacher's embeddings, but for captions.
        needs_teacher_text: it also fills ``teacher_text``, which takes a pass of the text tower.
        needs_people: the batch must carry pictures of people.
        needs_prompts: the module must have neutral prompts.
        needs_group_prompts: the module must have prompts that name groups.
        needs_edit: the batch must carry edited pictures and captions.
        needs_edit_prompt: it must also carry queries that name the edits' objects or words.
        needs_words: the batch must carry rendered words.
        figures: [] numbers of the last call without gradient, which are logged beside the terms, follow the same
            reduction contract, and are no part of the loss.
    """

    needs_twin: bool = False
    needs_teacher: bool = False
    needs_teacher_text: bool = False
    needs_people: bool = False
    needs_prompts: bool = False
    needs_group_prompts: bool = False
    needs_edit: bool = False
    needs_edit_prompt: bool = False
    needs_words: bool = False
    figures: Mapping[str, Tensor] = MappingProxyType({})

    def prepare(self, embed_dim: int, seed: int, prompts: int = 0) -> None:
        """Make what depends on the retriever, such as a head on its embeddings; most losses need nothing.

        The module calls it once, when it is made: before there is an optimiser, and before weights are restored.

        Args:
            embed_dim: D, the width of the shared embedding.
            seed: the run's seed. Draw weights from a generator of that seed: numbers taken from torch's own would give
                the retriever other ones than it has without the loss.
            prompts: neutral prompts in all, 0 for none.
        """

    def twins_read(self, rows: int, *, seed: int, step: int) -> Tensor | None:
        """Which twins a step reads, so that others need not be encoded.

        Args:
            rows: N, of the global batch.
            seed: the run's seed.
            step: the optimiser step.

        Returns:
            [N] bool on the CPU, by the anchor's row; None (the default) for all that there are. A twin that is not read
            has an embedding of zeros, and ``has_twin`` all the same.
        """
        return None

    @abstractmethod
    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return the loss's terms by name, each a scalar that follows the module's reduction contract."""

    def __call__(self, features: Features) -> dict[str, Tensor]:
        """Return `forward`'s terms.

        Raises:
            LossError: if a term or a gathered embedding is not finite; the message names the inputs that are to blame.
                Over several ranks only the embeddings are judged, which all ranks hold alike: if a term overflowed on
                one rank alone and that rank stopped here, the others would wait for it in the next collective call.
                Who averages the terms over ranks sees that case.
        """
        terms: dict[str, Tensor] = super().__call__(features)
        if features.image.device.type != "cpu":
            return terms
        given = (
            features.twin,
            features.person,
            features.prompt,
            features.group_prompt,
            features.edit,
            features.edit_text,
            features.edit_prompt,
            features.word_image,
            features.word_text,
        )
        judged = [value.detach() for value in (features.image, features.text, *given) if value is not None]
        if features.world_size == 1:
            judged.extend(term.detach() for term in terms.values())
        if not bool(torch.isfinite(torch.stack([value.double().sum() for value in judged])).all()):
            raise LossError(_blame(type(self).__name__, features, terms))
        return terms


def _blame(loss: str, features: Features, terms: dict[str, Tensor]) -> str:
    """Say which inputs and which terms are not finite."""
    bad = [name for name, term in terms.items() if not bool(torch.isfinite(term.detach()))]
    inputs = []
    for field in fields(features):
        value = getattr(features, field.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            wrong = ~torch.isfinite(value.detach())
            if bool(wrong.any()):
                rows = wrong.reshape(wrong.shape[0], -1).any(dim=1).nonzero().flatten().tolist() if value.dim() else []
                where = f" ({len(rows)} of {value.shape[0]} rows, first: {rows[0]})" if rows else ""
                inputs.append(f"features.{field.name}{where}")
    found = (
        f"{', '.join(inputs)} came in NaN or infinite" if inputs else "its inputs are finite, so it overflowed itself"
    )
    spoilt = f"term {', '.join(repr(name) for name in bad)} is NaN or infinite; " if bad else ""
    return (
        f"{loss}, step {features.step}: {spoilt}{found}. "
        "Lower the learning rate or the term's weight, clip gradients, or train in bf16 or fp32 instead of fp16"
    )
