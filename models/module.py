"""Training: one step of any set of losses, at any world size, and the embedding of a gallery for evaluation."""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from losses.base import Features, LossError
from models.edits import EditedFeatures, Edits
from models.embedded import EmbeddedSet, Evaluation, RowCollector
from models.erasure import LinearEraser, folded
from models.errors import ModelError
from models.gather import gather_with_gradient
from models.optim import OptimizerConfig, ScheduleConfig, build_optimizer, parameter_groups
from models.passes import in_passes, refuse_batch_norm
from models.prompts import PromptConfig, Prompts
from models.retriever import MAX_LOGIT_SCALE, Retriever
from models.step_scalars import StepScalars
from models.terms import LossTerm
from models.words import Words

Batch = dict[str, Any]


@dataclass(frozen=True)
class _Twins:
    images: Tensor  # uint8 [R, 3, H, W], those that some loss reads in this step
    row: Tensor  # int64 [R], their anchors' rows
    index: Tensor  # int64 [T], the rows of all anchors that carry a twin
    source: Tensor  # int64 [T]


@dataclass(frozen=True)
class _People:
    images: Tensor  # uint8 [P, 3, H, W]
    labels: Tensor  # int64 [P, 1 + A], the group and that by each attribute


@dataclass(frozen=True)
class _Queries:
    """Embedded prompts of a step, and the frozen start's."""

    neutral: Tensor | None = None
    of_groups: Tensor | None = None
    group: Tensor | None = None
    taught_neutral: Tensor | None = None
    taught_of_groups: Tensor | None = None


class RetrieverModule(L.LightningModule):
    """Trains a retriever on named, weighted losses.

    A training batch is a dict with ``image`` uint8 [B, 3, H, W], ``tokens`` int64 [B, L], ``source``, ``group`` and
    ``caption_id`` int64 [B], and, where the data draws twins, ``twin`` uint8 [T, 3, H, W] with ``twin_index`` and
    ``twin_source`` int64 [T], the row of each twin's anchor and the twin's source (T may differ by step and rank, and
    may be 0). Where the data brings people, ``person`` uint8 [P, 3, H, W] with ``person_group`` int64 [P] and
    ``person_attributes`` int64 [P, A], P alike on all ranks. Where it brings edits of anchors, ``edit`` uint8
    [E, 3, H, W] with ``edit_index`` int64 [E], ``edit_tokens`` int64 [E, L], ``edit_added`` bool [E],
    ``edit_caption_id`` int64 [E] and ``edit_prompt_tokens`` int64 [E, L]; E may differ by step and rank, and may be 0.
    Where it brings rendered words, ``word`` uint8 [W, 3, H, W] with ``word_tokens`` int64 [W, L], alike on all ranks. A
    validation batch has ``image`` and ``index`` int64 [b], the row in ``trainer.datamodule.evaluation``.

    Every rank embeds its own rows, gathers all ranks' embeddings with gradient and scores its own rows against all
    (see ``losses.base`` for the reduction contract): the step is the one that a single process would take on the
    global batch, but for batch norm, whose statistics are each rank's own unless ``trainer.sync_batchnorm`` is set.

    Gradient clipping, precision and accumulation are the trainer's. Accumulation makes another objective of any loss
    that is coupled over the batch; ``encode_batch_size`` saves the memory and keeps the objective.

    Prompts (neutral queries, and such as name groups) are embedded anew at every step, the same on every rank.

    Logged each step: ``train/loss``, ``train/<name>/<term>`` and a loss's figures likewise, ``train/<name>/weight``,
    ``train/logit_scale``, ``train/lr``; and every ``gradient_share_every`` steps ``train/<name>/gradient_share``: the
    norm of the weighted loss's gradient with respect to all embeddings of the global batch, over the sum of these norms
    (our own measure).

    Args:
        retriever: the dual encoder.
        losses: by the name that they are logged under.
        optimizer: AdamW's options.
        schedule: of the learning rate.
        gradient_share_every: steps between two measurements of the gradient shares; 0 for never.
        max_logit_scale: cap on the logit scale, applied after each optimiser step.
        query_batch_size: queries encoded at a time in validation.
        encode_batch_size: rows of a training batch that a tower holds at a time, on each rank; the others' activations
            are computed again in the backward pass. 0 holds all. A large batch then needs memory for its embeddings
            (and for a loss's scores, see the losses' ``chunk``), at about a third more time.
        prompts: queries that losses on people read.
    """

    def __init__(
        self,
        retriever: Retriever,
        losses: dict[str, LossTerm],
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
        gradient_share_every: int = 50,
        max_logit_scale: float = MAX_LOGIT_SCALE,
        query_batch_size: int = 256,
        encode_batch_size: int = 0,
        prompts: PromptConfig | None = None,
    ) -> None:
        super().__init__()
        if not losses:
            raise ModelError("model.losses is empty: name at least one loss, such as contrastive")
        for name in losses:
            if not name or "." in name or "/" in name:
                raise ModelError(f"model.losses has the name {name!r}; a name is logged, and holds no '.' and no '/'")
        self.retriever = retriever
        self.terms = dict(losses)
        # Registered beside the terms, so that a loss with parameters or buffers is trained, moved and saved.
        self.losses = nn.ModuleDict({name: term.loss for name, term in losses.items()})
        self.prompt_config = prompts or PromptConfig()
        self._prompts = Prompts.of(self.prompt_config, retriever.tokenize)
        for name, term in losses.items():
            if term.loss.needs_prompts and not len(self._prompts.neutral):
                raise ModelError(
                    f"model.losses.{name} reads neutral queries, but there are none: set model.prompts.neutral or "
                    "model.prompts.words"
                )
            term.loss.prepare(retriever.embed_dim, _run_seed(), len(self._prompts.neutral))
        self.optimizer_config = optimizer or OptimizerConfig()
        self.schedule_config = schedule or ScheduleConfig()
        self.gradient_share_every = gradient_share_every
        self.max_logit_scale = max_logit_scale
        self.query_batch_size = query_batch_size
        if encode_batch_size < 0:
            raise ModelError(
                f"model.encode_batch_size is {encode_batch_size}; it counts rows: give 0 (for all) or more"
            )
        self.encode_batch_size = encode_batch_size
        self.teacher: Retriever | None = None
        if any(term.loss.needs_teacher for term in losses.values()):
            # Saved with the checkpoint: a resumed run must not depend on the starting weights' file being there still.
            self.teacher = copy.deepcopy(retriever).requires_grad_(False).eval()
        self._taught_prompts: tuple[Tensor, Tensor] | None = None
        self._scalars = StepScalars()
        self._images = RowCollector()
        self._queries = RowCollector()
        self._embedded: EmbeddedSet | None = None
        self.eraser: LinearEraser | None = None
        """Takes something out of the gallery's embeddings in evaluation; training never sees it."""
        self.fold_eraser = True
        """Whether the retriever is written with the eraser in its weights."""
        self._erased: EmbeddedSet | None = None
        self._embedding_evaluation: Evaluation | None = None

    @property
    def needs_twin(self) -> bool:
        """Whether some loss compares a picture with its twin; without one, drawn twins are not encoded."""
        return any(term.loss.needs_twin for term in self.terms.values())

    @property
    def needs_edit(self) -> bool:
        """Whether some loss reads edited pictures; without one, those that the data brings are not encoded."""
        return any(term.loss.needs_edit for term in self.terms.values())

    @property
    def needs_words(self) -> bool:
        """Whether some loss reads rendered words; without one, those that the data brings are not encoded."""
        return any(term.loss.needs_words for term in self.terms.values())

    @property
    def needs_people(self) -> bool:
        """Whether some loss is about pictures of people; without one, those that the data brings are not encoded."""
        return any(term.loss.needs_people for term in self.terms.values())

    def train(self, mode: bool = True) -> RetrieverModule:
        """Switch the mode; the teacher stays as it was made."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    # Training

    def on_fit_start(self) -> None:
        """Refuse, before the first step, data that lacks what a loss needs."""
        share = self._twin_share()
        if self.needs_twin and share is not None and share <= 0:
            raise self._no_twins()
        self._name_groups()
        if self.encode_batch_size:
            refuse_batch_norm(self.retriever.train())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; returns this rank's part of the loss."""
        features = self.features(batch)
        step = self.global_step
        values: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            try:
                with record_function("losses"):
                    terms = term.loss(features)
            except LossError as error:  # the loss knows its class, but not which entry of the configuration it is
                raise ModelError(f"model.losses.{name}: {error}") from error
            if not terms:
                raise ModelError(f"the loss {name!r} returned no terms")
            values |= {f"train/{name}/{key}": value for key, value in {**terms, **term.loss.figures}.items()}
            weighted[name] = term.weight_at(step) * torch.stack([*terms.values()]).sum()
        total = torch.stack([*weighted.values()]).sum()
        values |= {"train/loss": total, "train/logit_scale": features.logit_scale}
        means = self._mean_over_ranks(values)
        self._scalars.put(step, [*values], means)
        self._keep_weights_from(means)
        if self.gradient_share_every and step % self.gradient_share_every == 0:
            shares = {f"train/{k}/gradient_share": v for k, v in self.gradient_shares(features, weighted).items()}
            for logger in self.loggers:  # log() would repeat a measurement at every step up to the next one
                logger.log_metrics(shares, step=step)
        # At other steps Lightning would take the numbers in, at some cost, and drop them.
        if (step + 1) % max(int(self.trainer.log_every_n_steps), 1) == 0:  # type: ignore[attr-defined]
            logged: dict[str, Any] = dict(zip(values, means, strict=True))
            for name, term in self.terms.items():
                logged[f"train/{name}/weight"] = term.weight_at(step)
            logged["train/lr"] = float(self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"])  # type: ignore[union-attr]
            self.log_dict(logged, batch_size=batch["image"].shape[0])
            self.log("loss", logged["train/loss"], prog_bar=True, logger=False, batch_size=batch["image"].shape[0])
        return self._reach_every_parameter(total)

    def features(self, batch: Batch) -> Features:
        """Embed a training batch and gather it over ranks (a collective call).

        Anchors, twins, edits, people and rendered words pass the image tower in one concatenated forward: in separate
        passes batch norm would give each source statistics of its own, and hide from the debias loss what the tower
        does at test time.

        Args:
            batch: this rank's rows, as described above.

        Returns:
            The global batch's features; ``rows`` marks this rank's.
        """
        images = batch["image"]
        size, start = images.shape[0], self.global_rank * images.shape[0]
        labels = [batch["source"], batch["group"], batch["caption_id"]]
        twins = self._twins(batch) if self.needs_twin else None
        if twins is not None:
            labels += [torch.zeros_like(batch["source"]).index_copy(0, twins.index, twins.source)]
            labels += [torch.zeros_like(batch["source"]).index_fill(0, twins.index, 1)]
        people = self._people(batch) if self.needs_people else None
        edits = self._edits(batch) if self.needs_edit else None
        if edits is not None:
            labels += edits.labels(size)
        words = Words.of(batch, self._names("needs_words")) if self.needs_words else None
        joined = _joined(images, twins, edits, people, words)
        with record_function("encode pictures"):
            encoded = in_passes(self.retriever.encode_image, joined, self.encode_batch_size)
        image, twin, edit, person, word = _split(encoded, size, twins, edits, people)
        taught, taught_twin, taught_person = self._teach(images, twins, people)
        queries = self._ask()
        label = gather_with_gradient(torch.stack(labels, dim=1))
        has_twin = label[:, 4].bool() if twins is not None else None
        if has_twin is not None and self.global_step == 0 and self._twin_share() is None and not bool(has_twin.any()):
            raise self._no_twins()  # of data that does not tell its share, the first batch must do
        groups = gather_with_gradient(people.labels) if people is not None else None
        edited = self._of_edits(edits, edit, label[:, -3:])
        with record_function("encode captions"):
            text = self._encode_captions(batch)
        return Features(
            image=gather_with_gradient(image),
            text=gather_with_gradient(text),
            logit_scale=self.retriever.logit_scale,
            logit_bias=self.retriever.logit_bias,
            source=label[:, 0],
            group=label[:, 1],
            caption_id=label[:, 2],
            twin=gather_with_gradient(twin) if twin is not None else None,
            has_twin=has_twin,
            twin_source=label[:, 3] if twins is not None else None,
            teacher_image=taught,
            teacher_twin=taught_twin,
            teacher_text=self._teach_captions(batch["tokens"]),
            person=gather_with_gradient(person) if people is not None else None,
            person_group=groups[:, 0] if groups is not None else None,
            person_attributes=groups[:, 1:] if groups is not None else None,
            teacher_person=taught_person,
            prompt=queries.neutral,
            group_prompt=queries.of_groups,
            group_prompt_of=queries.group,
            teacher_prompt=queries.taught_neutral,
            teacher_group_prompt=queries.taught_of_groups,
            edit=edited.edit,
            edit_text=edited.edit_text,
            has_edit=edited.has_edit,
            edit_added=edited.edit_added,
            edit_caption_id=edited.edit_caption_id,
            edit_prompt=edited.edit_prompt,
            word_image=word if words is not None else None,
            word_text=words.text(self._encode_text) if words is not None else None,
            rows=slice(start, start + size),
            person_rows=self._own_people(people),
            step=self.global_step,
            seed=_run_seed(),
        )

    def gradient_shares(self, features: Features, weighted: dict[str, Tensor]) -> dict[str, float]:
        """Each named loss's share of the gradient on the shared embedding (a collective call).

        Args:
            features: the step's embeddings, still attached to the graph.
            weighted: [] weighted losses by name, on this rank.

        Returns:
            Shares by name, which sum to 1; all 0 where no loss has any gradient.
        """
        pictures, queries = (features.image, features.twin, features.person), (features.prompt, features.group_prompt)
        edits = (features.edit, features.edit_text, features.edit_prompt)
        words = (features.word_image, features.word_text)
        inputs = [t for t in (features.text, *pictures, *queries, *edits, *words) if t is not None and t.requires_grad]
        norms: dict[str, float] = {}
        for name, loss in weighted.items():
            gradients = [torch.zeros_like(t, dtype=torch.float32) for t in inputs]
            if loss.requires_grad and inputs:
                found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
                gradients = [zero if g is None else g.float() for zero, g in zip(gradients, found, strict=True)]
            flat = torch.cat([g.flatten() for g in gradients]) if gradients else torch.zeros(1, device=self.device)
            if _world_size() > 1:
                dist.all_reduce(flat)  # each rank has scored its own rows; the factor 1/W cancels in the share
            norms[name] = float(flat.norm())
        total = sum(norms.values())
        return {name: norm / total if total else 0.0 for name, norm in norms.items()}

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step, then bring the logit scale back into its range, before anything reads or averages the weights."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.retriever.clamp_logit_scale(self.max_logit_scale)

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, stepped every optimiser step."""
        groups = parameter_groups(self, self.optimizer_config, self._tower_of)
        fused = not isinstance(self.trainer.precision_plugin, MixedPrecision)
        optimizer: Optimizer = build_optimizer(groups, self.optimizer_config, fused)
        scheduler = LambdaLR(optimizer, self.schedule_config.factor(self._total_steps()))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Forget the last evaluation, and embed the queries.

        Here and not when they are first asked for: a callback that swaps the weights in for the evaluation swaps them
        back before its neighbours run.
        """
        self._images, self._queries = RowCollector(), RowCollector()
        self._embedded = self._erased = None
        evaluation = getattr(getattr(self.trainer, "datamodule", None), "evaluation", None)
        self._embedding_evaluation = evaluation
        if evaluation is None or (self.trainer.sanity_checking and not math.isinf(self.trainer.num_sanity_val_steps)):
            return  # a sanity check of a few batches has no table to fill; one of all is an evaluation like any other
        mine = torch.arange(self.global_rank, len(evaluation.queries), _world_size())
        for index in mine.split(self.query_batch_size):
            tokens = self.retriever.tokenize([evaluation.queries[i] for i in index.tolist()])
            self._queries.add(index, self.retriever.encode_text(tokens.to(self.device)))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Embed gallery pictures."""
        self._images.add(batch["index"], self.retriever.encode_image(batch["image"]))

    def embedded_set(self, erased: bool = True) -> EmbeddedSet:
        """The last validation's gallery and queries (a collective call at first, then cached).

        Args:
            erased: through ``eraser``, where one is set.

        Returns:
            Every gallery picture and query once, complete on every rank.

        Raises:
            ModelError: if there is no evaluation set, or validation has seen only a part of it.
        """
        if self._embedded is None:
            evaluation = self._embedding_evaluation
            if evaluation is None:
                raise ModelError("nothing has been embedded: validate with a datamodule that has an evaluation set")
            width = self.retriever.embed_dim
            self._embedded = EmbeddedSet(
                image=self._images.table(len(evaluation.keys), width, "gallery pictures", self.device),
                text=self._queries.table(len(evaluation.queries), width, "queries", self.device),
                evaluation=evaluation,
            )
        if self.eraser is None or not erased:
            return self._embedded
        if self._erased is None:
            self._erased = replace(self._embedded, image=self.eraser.apply(self._embedded.image))
        return self._erased

    def write_retriever(self, folder: Path) -> None:
        """Write ``retriever.safetensors``, where an eraser is set with it in the projection.

        The weights as they were trained are then ``retriever_unerased.safetensors``.
        """
        path = folder / "retriever.safetensors"
        if self.eraser is None or not self.fold_eraser:
            self.retriever.save_weights(str(path))
            return
        self.retriever.save_weights(str(path.with_stem("retriever_unerased")))
        with folded(self.retriever, self.eraser):
            self.retriever.save_weights(str(path))

    # Parts

    def _encode_captions(self, batch: Batch) -> Tensor:
        """[B, D]. With class prompts a batch holds few distinct captions, which are then encoded once each."""
        tokens = batch["tokens"]
        if "distinct" not in batch:
            return self._encode_text(tokens)
        distinct = tokens.index_select(0, batch["distinct"])
        # index_select and not [row], whose backward adds up in an order of its own choosing.
        return self._encode_text(distinct).index_select(0, batch["distinct_of"])

    def _encode_text(self, tokens: Tensor) -> Tensor:
        """[b, L] of a training batch to [b, D], no more of them at a time than a tower is to hold."""
        return in_passes(self.retriever.encode_text, tokens, self.encode_batch_size)

    def _twins(self, batch: Batch) -> _Twins:
        """The batch's twins; of the pictures only those that some loss reads in this step."""
        if "twin" not in batch:
            raise self._no_twins()
        images, index, source = batch["twin"], batch["twin_index"], batch["twin_source"]
        drawn = self._drawn_twins(len(batch["image"]))
        if drawn is None or not len(index):
            return _Twins(images, index, index, source)
        rows = batch["twin_rows"] if "twin_rows" in batch else index.tolist()  # asking a device would hold it up
        kept = [place for place, row in enumerate(rows) if drawn[row]]
        place = torch.tensor(kept, dtype=torch.int64, device=index.device)
        return _Twins(images.index_select(0, place), index.index_select(0, place), index, source)

    def _drawn_twins(self, size: int) -> list[bool] | None:
        """Which of this rank's rows have a twin that some loss reads in this step; None for all."""
        drawn = torch.zeros(size * _world_size(), dtype=torch.bool)
        for term in self.terms.values():
            if term.loss.needs_twin:
                read = term.loss.twins_read(len(drawn), seed=_run_seed(), step=self.global_step)
                if read is None:
                    return None
                drawn |= read
        found: list[bool] = drawn[self.global_rank * size : (self.global_rank + 1) * size].tolist()
        return found

    def _people(self, batch: Batch) -> _People:
        if "person" not in batch:
            raise ModelError(
                f"the loss {self._names('needs_people')} is about pictures of people, but the data brings none: take "
                "datamodules.faces.FacesDataModule and give shards of people in data.people, or leave the loss out"
            )
        group = batch["person_group"].unsqueeze(1)
        return _People(batch["person"], torch.cat([group, batch.get("person_attributes", group)], dim=1))

    def _edits(self, batch: Batch) -> Edits:
        if "edit" not in batch:
            raise ModelError(
                f"the loss {self._names('needs_edit')} reads edited pictures and captions, but the data brings none: "
                "take datamodules.decorrelated.DecorrelatedDataModule and give shards with edits in data.edited, or "
                "datamodules.text_spotting.TextSpottingDataModule with data.overlay_share above 0 for pictures with a "
                "word written on them, or leave the loss out"
            )
        return Edits.of(batch, prompts=any(term.loss.needs_edit_prompt for term in self.terms.values()))

    def _of_edits(self, edits: Edits | None, edit: Tensor, label: Tensor) -> EditedFeatures:
        """Gather the edits' pictures [B, D], and embed and gather their captions; ``label`` [N, 3] is gathered."""
        if edits is None:
            return EditedFeatures()
        encode = self._encode_text
        prompt = None
        if edits.prompt_tokens is not None:
            prompt = gather_with_gradient(edits.encoded(encode, edits.prompt_tokens, edit))
        return EditedFeatures(
            edit=gather_with_gradient(edit),
            edit_text=gather_with_gradient(edits.encoded(encode, edits.tokens, edit)),
            has_edit=label[:, 0].bool(),
            edit_added=label[:, 1].bool(),
            edit_caption_id=label[:, 2],
            edit_prompt=prompt,
        )

    def _own_people(self, people: _People | None) -> slice | None:
        if people is None:
            return None
        count = len(people.images)
        return slice(self.global_rank * count, (self.global_rank + 1) * count)

    def _teach(
        self, images: Tensor, twins: _Twins | None, people: _People | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The teacher's embeddings of all ranks' anchors, twins and people, without gradient."""
        if self.teacher is None:
            return None, None, None
        with torch.no_grad():
            encoded = self.teacher.encode_image(_joined(images, twins, None, people, None))
            image, twin, _, person, _ = _split(encoded, len(images), twins, None, people)
            return (
                gather_with_gradient(image),
                gather_with_gradient(twin) if twin is not None else None,
                gather_with_gradient(person) if people is not None else None,
            )

    @torch.no_grad()
    def _teach_captions(self, tokens: Tensor) -> Tensor | None:
        """The teacher's embeddings of all ranks' captions, where a loss asks for them."""
        if self.teacher is None or not any(term.loss.needs_teacher_text for term in self.terms.values()):
            return None
        return gather_with_gradient(self.teacher.encode_text(tokens))

    def _name_groups(self) -> None:
        """Make the prompts that name groups, once the data has said which groups there are."""
        if len(self._prompts.group) or not any(term.loss.needs_group_prompts for term in self.terms.values()):
            return
        data = getattr(self._trainer, "datamodule", None)
        queries = self.prompt_config.queries_of_groups(getattr(data, "attribute", None), getattr(data, "groups", None))
        self._prompts.name_groups(queries, self.retriever.tokenize)

    def _ask(self) -> _Queries:
        """Embed the step's prompts. Every rank embeds all of them: they are few, and need no gathering."""
        self._name_groups()
        prompts, device = self._prompts, self.device
        neutral = of_groups = taught_neutral = taught_of_groups = None
        row = prompts.drawn(_run_seed(), self.global_step)
        if any(term.loss.needs_prompts for term in self.terms.values()):
            neutral = self.retriever.encode_text(prompts.neutral[row].to(device))
        if len(prompts.group):
            of_groups = self.retriever.encode_text(prompts.of_groups.to(device))
        if self.teacher is not None and (neutral is not None or of_groups is not None):
            if self._taught_prompts is None:  # they never change
                self._taught_prompts = (self._taught(prompts.neutral), self._taught(prompts.of_groups))
            taught_neutral = self._taught_prompts[0][row.to(device)] if neutral is not None else None
            taught_of_groups = self._taught_prompts[1] if of_groups is not None else None
        group = prompts.group.to(device) if of_groups is not None else None
        return _Queries(neutral, of_groups, group, taught_neutral, taught_of_groups)

    @torch.no_grad()
    def _taught(self, tokens: Tensor) -> Tensor:
        """The teacher's embeddings of prompts: [n, L] to [n, D]."""
        assert self.teacher is not None
        if not len(tokens):
            return torch.empty(0, self.retriever.embed_dim, device=self.device)
        parts = tokens.split(self.query_batch_size)
        return torch.cat([self.teacher.encode_text(part.to(self.device)) for part in parts])

    def _mean_over_ranks(self, values: dict[str, Tensor]) -> Tensor:
        """[n]. What is not finite on one rank is then so on all, which stop at the same step."""
        stacked = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        if _world_size() > 1:
            dist.all_reduce(stacked)
            stacked /= _world_size()
        return stacked

    def _keep_weights_from(self, scalars: Tensor) -> None:
        """Have the optimiser leave the weights as they are where a number is not finite.

        On an accelerator the host learns of it a step later. A fused optimiser reads the flag on the device (it is what
        gradient scaling sets); mixed precision has its own.
        """
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        if scalars.device.type != "cpu" and optimizer.defaults.get("fused"):
            optimizer.found_inf = (~torch.isfinite(scalars).all()).float()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Judge the last step's numbers before anything is kept of it."""
        self._scalars.settle()

    def on_train_end(self) -> None:
        """Judge the last step's numbers."""
        self._scalars.settle()

    def _reach_every_parameter(self, total: Tensor) -> Tensor:
        # A set of losses that leaves out the logit scale or bias would make DistributedDataParallel wait for their
        # gradients. Times zero they get a gradient of zero, and being exempt from decay they stay as they are.
        for scalar in (self.retriever.logit_scale, self.retriever.logit_bias):
            if scalar is not None and scalar.requires_grad:
                total = total + 0.0 * scalar
        return total

    def _tower_of(self, name: str) -> Any:
        return self.retriever.tower_of(name.removeprefix("retriever.")) if name.startswith("retriever.") else "head"

    def _total_steps(self) -> int:
        # The trainer's estimate makes the training loader, here before a checkpoint is restored: a stream that starts
        # where the trainer stands would start anew. So it is the last one to be asked.
        total: float = self.schedule_config.total_steps or self.trainer.max_steps
        if total <= 0:
            total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total) or total <= 0:
            raise ModelError("the length of the run is unknown: set trainer.max_steps or model.schedule.total_steps")
        return int(total)

    def _twin_share(self) -> float | None:
        return getattr(getattr(self._trainer, "datamodule", None), "twin_share", None)

    def _names(self, need: str) -> str:
        """Names of the losses that have a need, for an error."""
        return ", ".join(name for name, term in self.terms.items() if getattr(term.loss, need))

    def _no_twins(self) -> ModelError:
        return ModelError(
            f"the loss {self._names('needs_twin')} compares a picture with its twin, but the data draws no twins: "
            "set data.twin_share above 0 and use shards that hold twins, or leave the loss out"
        )


def _run_seed() -> int:
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _joined(
    images: Tensor, twins: _Twins | None, edits: Edits | None, people: _People | None, words: Words | None
) -> Tensor:
    """[B + T + E + P + W, 3, H, W]: anchors, then twins, then edits, then people, then words."""
    more = [part.images for part in (twins, edits, people, words) if part is not None and len(part.images)]
    return torch.cat([images, *more]) if more else images


def _split(
    embedded: Tensor, size: int, twins: _Twins | None, edits: Edits | None, people: _People | None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """Undo :func:`_joined`.

    Returns:
        Anchors [B, D]; twins [B, D] in their anchors' rows, zeros where none was read, None where there are none at
        all; edits [B, D] likewise; people [P, D]; words [W, D].
    """
    counts = [size, *(len(part.images) if part is not None else 0 for part in (twins, edits, people))]
    image, twin, edit, person, word = embedded.tensor_split([*itertools.accumulate(counts)])
    in_rows = torch.zeros_like(image).index_copy(0, twins.row, twin) if twins is not None else None
    return image, in_rows, edits.in_rows(edit, image) if edits is not None else edit, person, word
