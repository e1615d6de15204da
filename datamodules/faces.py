"""The LightningDataModule of the social axis: ordinary pairs, and beside them labelled pictures of people."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from datamodules.catalogue import Catalogue
from datamodules.decode import decode_and_fit
from datamodules.errors import DataError, SampleError, Skip
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.people_plan import PeoplePlan, PeopleSpec, Sampling
from datamodules.picture_ring import Slot
from datamodules.plan import MixingPlan, MixSpec
from datamodules.remote import Location, is_remote
from datamodules.stream import MAX_SPARES, MixedStream, as_tensor

log = logging.getLogger(__name__)

_AUGMENT = 102


class FacesPlan(MixingPlan):
    """A mixing plan of pairs with a plan of people beside it.

    Attributes:
        people: who stands in the slots of people.
    """

    def __init__(self, catalogue: Catalogue, spec: MixSpec, people: PeoplePlan) -> None:
        super().__init__(catalogue, spec)
        self.people = people

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What the fingerprint is made of, the people's plan included."""
        parts = {**super().fingerprint_parts, **self.people.fingerprint_parts}
        text = json.dumps(parts, sort_keys=True)
        return {**parts, "plan": hashlib.sha256(text.encode()).hexdigest()[:16]}


@dataclass
class FacesStream(MixedStream):
    """Device batches of pairs and people; see :class:`datamodules.stream.MixedStream`."""

    plan: FacesPlan
    _asked: set[int] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check that ranks share pairs and people evenly."""
        super().__post_init__()
        if self.plan.people.spec.batch_size % self.world_size:
            raise DataError(
                f"data.people_batch_size = {self.plan.people.spec.batch_size} is the global batch of people and must "
                f"be a multiple of the {self.world_size} processes"
            )

    def batch(self, step: int, slot: Slot | None = None) -> dict[str, Any]:
        """Make this rank's part of one global batch.

        Returns:
            What :meth:`MixedStream.batch` does, and person uint8 [P, 3, H, W], person_group int64 [P],
            person_attributes int64 [P, A], person_key list of P. ``skipped`` counts people too.
        """
        batch = super().batch(step, slot)
        plan, catalogue = self.plan.people, self.plan.people.catalogue
        size = plan.spec.batch_size // self.world_size
        slots = plan.slots(step)
        mine = slice(self.rank * size, (self.rank + 1) * size)
        places, groups = catalogue.places(slots.picture[mine]), slots.group[mine]
        attributes = slots.attributes[mine].copy()
        crops = self._draw_crops(_AUGMENT, slots.sample[mine], slots.epoch[mine])
        images, sent = self._room(size, slot)
        names: list[str] = []
        for row in range(size):
            picture, place = int(slots.picture[mine][row]), places[row]
            for attempt in range(MAX_SPARES):
                name = catalogue.name(picture)
                try:
                    decode_and_fit(place.read(), self.image_size, name, crops[row], images[row])
                    break
                except SampleError as error:
                    batch["skipped"].append(Skip(error.kind, str(error)))
                    position = self.rank * size + row
                    picture, _, attributes[row] = plan.spare(step, position, attempt, int(groups[row]))
                    (place,) = catalogue.places(np.array([picture]))
            else:
                raise DataError(
                    f"{MAX_SPARES} pictures of people in a row could not be read, the last: "
                    f"{batch['skipped'][-1].message}"
                )
            names.append(name)
        return {
            **batch,
            "person": sent or as_tensor(images),
            "person_group": torch.from_numpy(groups.copy()),  # a spare is of the same
            "person_attributes": torch.from_numpy(attributes),
            "person_key": names,
        }

    def _read_ahead(self, step: int, asked: set[int], reader: int, readers: int) -> set[int]:
        wanted = self.plan.people.shards_ahead(step).tolist()
        mine = [shard for shard in wanted if shard % readers == reader and shard not in self._asked]
        if mine:
            self.plan.people.catalogue.prefetch(np.array(mine, dtype=np.int64))
        self._asked = set(wanted)
        return super()._read_ahead(step, asked, reader, readers)

    def _store_counts(self) -> Counter[str]:
        return super()._store_counts() + self.plan.people.catalogue.store_counts()


class FacesDataModule(MixedSourceDataModule):
    """Streams ordinary pairs, and beside them labelled pictures of people for losses against social bias.

    People have no captions: they are no part of the contrastive loss, and ordinary pairs (``train``) are always needed
    beside them. Every batch holds each group's exact quota of them, and which person stands in which slot depends on
    seed and step alone, as for pairs: so a run resumes at any step, on any number of ranks and workers. A picture of a
    person that cannot be used is replaced by one of the same group and counted with the others.

    A label says what somebody saw in a picture, not who the person is.

    Args:
        people: folders of shards whose samples say groups of people, as `bias-train shards import faces` writes them.
        attribute: whose groups are told apart: ``race``, or crossed ``race x gender``.
        people_batch_size: pictures of people in a global batch, over all processes.
        sampling: ``balanced``, ``pool`` or ``weights``, see :class:`datamodules.people_plan.PeopleSpec`.
        minimum: groups with fewer pictures are left out.
        independent_of: with ``weights``, attributes that the groups shall be uncorrelated with.
        options: those of :class:`datamodules.mixed_source.MixedSourceDataModule`.

    Raises:
        DataError: from :meth:`setup`, for anything that the shards cannot give.
    """

    def __init__(
        self,
        people: Sequence[str] = (),
        attribute: str = "gender",
        people_batch_size: int = 64,
        sampling: Sampling = "balanced",
        minimum: int = 0,
        independent_of: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for location in people:
            if is_remote(location):
                Location.parse(location)  # refuses one that holds a secret, before any logger is told
        self.people_paths = tuple(people)
        self.attribute = attribute
        self._people = (attribute, people_batch_size, sampling, minimum, tuple(independent_of))
        PeopleSpec(*self._people)  # says what is wrong with the options before anything is read

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Names of the groups by their numbers in a batch; None before the plan is made."""
        return self.plan.people.groups if isinstance(self.plan, FacesPlan) else None

    def make_plan(self) -> FacesPlan:
        """Make the plan of training, which needs neither a retriever nor a picture.

        Raises:
            DataError: for anything that the shards cannot give.
        """
        if not self.people_paths:
            raise DataError(
                "data.people is empty: give folders of shards of people, made by `bias-train shards import faces`; "
                "without people take datamodules.mixed_source.MixedSourceDataModule"
            )
        if not self.train_paths:
            raise DataError(
                "data.train is empty: pictures of people have no captions to learn from, and a retriever trained on "
                "them alone forgets what it knows; give folders of shards with ordinary pairs"
            )
        pairs = super().make_plan()
        spec = PeopleSpec(*self._people, shuffle_shards=pairs.spec.shuffle_shards, seed=pairs.spec.seed)
        plan = FacesPlan(pairs.catalogue, pairs.spec, PeoplePlan(self._catalogue(self.people_paths), spec))
        held = ", ".join(
            f"{name} {count}" for name, count in zip(plan.people.groups, plan.people.counts.tolist(), strict=True)
        )
        log.info("people by %s: %s; %d pictures left out", self.attribute, held, plan.people.left_out)
        return plan

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Count pictures that could not be read, and stop where they are too many."""
        if "person" in batch:
            self.seen += len(batch["person"])
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def _stream(self, rank: int, world_size: int) -> FacesStream:
        assert isinstance(self.plan, FacesPlan)
        assert self.image_size is not None
        return FacesStream(
            self.plan, self.image_size, self.tokenize, self.augment, rank, world_size, self.start, *self._local_place()
        )

    def _most_pictures(self, world_size: int) -> int:
        return super()._most_pictures(world_size) + self._people[1] // world_size
