"""The LightningDataModule of the object axis: ordinary pairs, and among them anchors that carry an edit."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from datamodules.catalogue import Catalogue, Codes, Ints
from datamodules.decode import decode_and_fit
from datamodules.edit_plan import KINDS, PREFIX, EditPlan, EditSpec, Kind
from datamodules.errors import DataError, SampleError, Skip
from datamodules.hashing import string_id
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.picture_ring import Slot
from datamodules.plan import MixingPlan, MixSpec, Slots
from datamodules.remote import Location, is_remote
from datamodules.stream import MixedStream, as_tensor

log = logging.getLogger(__name__)

_AUGMENT = 101  # an edit is cropped like its anchor


class DecorrelatedPlan(MixingPlan):
    """A mixing plan of ordinary pairs in which edited anchors take the place of some.

    Attributes:
        edits: which slots they take, and with which edit.
    """

    def __init__(self, catalogue: Catalogue, ordinary: int, spec: MixSpec, edits: EditSpec) -> None:
        """Make the plan.

        Args:
            catalogue: of all shards, the ordinary ones first.
            ordinary: how many samples are ordinary.
            spec: of the ordinary pairs.
            edits: of the edited anchors.
        """
        self._ordinary = ordinary
        super().__init__(catalogue, spec)
        edited = np.arange(ordinary, len(catalogue.anchor), dtype=np.int64)
        self.edits = EditPlan(catalogue, edited, edits, spec.batch_size, self.blocks, spec.shuffle_shards, spec.seed)
        # A spare is an ordinary photo, never an edited view.
        self._spares[0] = catalogue.anchor[self._pools[0]]

    def _selectable(self) -> int:
        return self._ordinary

    def _make_pools(self) -> list[Codes]:
        photos = self.catalogue.photos[self.catalogue.photos < self._ordinary]
        if not len(photos):
            raise DataError("the shards of data.train hold no photos that could be used; check data.train")
        return [photos]

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What the fingerprint is made of, the edits' plan included."""
        parts = {**super().fingerprint_parts, **self.edits.fingerprint_parts}
        text = json.dumps(parts, sort_keys=True)
        return {**parts, "plan": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def slots(self, step: int) -> Slots:
        """Fill one global batch; where an edited anchor stands, everything is the edited anchor's."""
        slots, edits = super().slots(step), self.edits.slots(step)
        picture, sample, caption, epoch = (x.copy() for x in (slots.picture, slots.sample, slots.caption, slots.epoch))
        picture[edits.position] = self.catalogue.anchor[edits.sample]
        sample[edits.position], caption[edits.position] = edits.sample, edits.caption
        epoch[edits.position] = edits.epoch
        return replace(slots, picture=picture, sample=sample, caption=caption, epoch=epoch)

    def shards_ahead(self, step: int) -> Ints:
        """Shards that a batch and the ones soon after it are read from: numbers of the catalogue."""
        return np.union1d(super().shards_ahead(step), self.edits.shards_ahead(step))


@dataclass
class DecorrelatedStream(MixedStream):
    """Device batches in which some anchors carry an edit; see :class:`datamodules.stream.MixedStream`.

    Attributes:
        prompt: names an edit's object, with ``{object}``.
    """

    plan: DecorrelatedPlan
    prompt: str = "a photo of a {object}"

    def batch(self, step: int, slot: Slot | None = None) -> dict[str, Any]:
        """Make this rank's part of one global batch.

        Returns:
            What :meth:`MixedStream.batch` does, and edit uint8 [E, 3, H, W], edit_index int64 [E] (row of the anchor),
            edit_added bool [E], edit_caption_id int64 [E], edit_caption and edit_key lists of E, and with a tokenizer
            edit_tokens and edit_prompt_tokens int64 [E, L]. An edit that cannot be read, or whose anchor cannot, is
            left out.
        """
        batch = super().batch(step, slot)
        plan, catalogue = self.plan, self.plan.catalogue
        size = plan.spec.batch_size // self.world_size
        edits = plan.edits.slots(step)
        here = np.flatnonzero(edits.position // size == self.rank)
        crops = self._draw_crops(_AUGMENT, edits.sample[here], edits.epoch[here])
        places = catalogue.places(edits.view[here])
        images, sent = self._room(len(here), slot)
        index: list[int] = []
        added: list[bool] = []
        texts: list[str] = []
        names: list[str] = []
        prompts: list[str] = []
        for at, place, crop in zip(here.tolist(), places, crops, strict=True):
            row, view, sample = (
                int(x) for x in (edits.position[at] - self.rank * size, edits.view[at], edits.sample[at])
            )
            number = int(edits.caption[at])
            planned = catalogue.key(sample), catalogue.caption(int(catalogue.anchor[sample]), number)
            if planned != (batch["key"][row], batch["caption"][row]):
                continue  # a spare took the anchor's place
            name = catalogue.name(view)
            try:
                decode_and_fit(place.read(), self.image_size, name, crop, images[len(index)])
            except SampleError as error:
                batch["skipped"].append(Skip(error.kind, str(error)))
                continue
            caption = catalogue.caption(view, number)
            assert caption is not None  # the plan has seen that it differs from the anchor's
            index.append(row)
            added.append(bool(edits.added[at]))
            texts.append(caption)
            names.append(name)
            prompts.append(_prompt(self.prompt, catalogue.view_names[catalogue.picture_view[view]]))
        batch |= {
            "edit": sent.first(len(index)) if sent else as_tensor(images[: len(index)]),
            "edit_index": torch.tensor(index, dtype=torch.int64),
            "edit_added": torch.tensor(added, dtype=torch.bool),
            "edit_caption_id": torch.tensor([string_id(text) for text in texts], dtype=torch.int64),
            "edit_caption": texts,
            "edit_key": names,
        }
        if self.tokenize is not None:
            nothing = batch["tokens"][:0]  # not every tokenizer takes an empty list
            batch["edit_tokens"] = self.tokenize(texts) if texts else nothing
            batch["edit_prompt_tokens"] = self.tokenize(prompts) if prompts else nothing
        return batch


@lru_cache(maxsize=1024)
def _prompt(template: str, view: str) -> str:
    prefix = next(prefix for prefix in PREFIX.values() if view.startswith(prefix))
    return template.format(object=view.removeprefix(prefix).replace("-", " "))


class DecorrelatedDataModule(MixedSourceDataModule):
    """Streams ordinary pairs, and among them anchors with a counterfactual view: an object taken out, or pasted in.

    An edited anchor takes the slot of an ordinary pair and is one: its own picture and a caption that the edit changes.
    The edit goes along beside it. So a batch has as many pairs at every share, and a loss that reads no edits
    (`losses.InfoNCE`) trains on the very same pairs: the control with equal steps. Which slots hold an edited anchor,
    which one, which view and which caption depend on seed and step alone; so a run resumes at any step, on any number
    of ranks and workers. The share is exact in every block of the batch, and the ordinary pairs that are left at one
    share are left at every lower one.

    An edit that cannot be read is left out and counted, and so is that of an anchor for which another picture had to
    stand in. Views of other kinds (controls, overlays) are never drawn.

    Args:
        edited: folders of shards whose samples hold edits, as `bias-train synthesize decorrelated` writes them.
        edit_share: share of the anchors that carry an edit, in [0, 1].
        kinds: ``removed``, ``added`` or both.
        edit_prompt: a query that names the object of an edit, with ``{object}``; read by `losses.SpuriousPrompts`.
        options: those of :class:`datamodules.mixed_source.MixedSourceDataModule`, but for generated pictures, which
            have no place here: ``share`` and ``twin_share`` must be 0.

    Raises:
        DataError: from :meth:`setup`, for anything that the shards cannot give.
    """

    def __init__(
        self,
        edited: Sequence[str] = (),
        edit_share: float = 0.25,
        kinds: Sequence[Kind] = KINDS,
        edit_prompt: str = "a photo of a {object}",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for location in edited:
            if is_remote(location):
                Location.parse(location)  # refuses one that holds a secret, before any logger is told
        for name in ("share", "twin_share"):
            if getattr(self.spec, name) > 0:
                raise DataError(
                    f"data.{name} is {getattr(self.spec, name):g}, but DecorrelatedDataModule mixes photos with edited "
                    "photos alone; set it to 0, or take datamodules.mixed_source.MixedSourceDataModule"
                )
        if "{object}" not in edit_prompt:
            raise DataError(
                f"data.edit_prompt: {edit_prompt!r} has no place for the object; write {{object}} where it goes"
            )
        self.edited_paths = tuple(edited)
        self.edit_spec = EditSpec(edit_share, tuple(dict.fromkeys(kinds)))
        self.edit_prompt = edit_prompt

    def make_plan(self) -> DecorrelatedPlan:
        """Make the plan of training, which needs neither a retriever nor a picture.

        Raises:
            DataError: for anything that the shards cannot give.
        """
        if not self.edited_paths:
            raise DataError(
                "data.edited is empty: give folders of shards with edits, made by `bias-train synthesize "
                "decorrelated`, or take datamodules.mixed_source.MixedSourceDataModule"
            )
        ordinary = super().make_plan()
        both = Catalogue.of([*ordinary.catalogue.indexes, *self._catalogue(self.edited_paths).indexes])
        plan = DecorrelatedPlan(both, len(ordinary.catalogue.anchor), ordinary.spec, self.edit_spec)
        log.info(
            "edited anchors: %d with %s views; %d views without a changed caption left out",
            len(plan.edits.samples),
            ", ".join(f"{count} {kind}" for kind, count in plan.edits.views.items()),
            plan.edits.left_out,
        )
        return plan

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Count pictures that could not be read, and stop where they are too many."""
        if "edit" in batch:
            self.seen += len(batch["edit"])
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def _stream(self, rank: int, world_size: int) -> DecorrelatedStream:
        assert isinstance(self.plan, DecorrelatedPlan)
        assert self.image_size is not None
        return DecorrelatedStream(
            self.plan, self.image_size, self.tokenize, self.augment, rank, world_size, self.start, *self._local_place(),
            prompt=self.edit_prompt,
        )  # fmt: skip

    def _most_pictures(self, world_size: int) -> int:
        own = self.spec.batch_size // world_size
        assert self.plan is not None
        return super()._most_pictures(world_size) + min(own, math.ceil(own * self.edit_spec.share) + self.plan.blocks)
