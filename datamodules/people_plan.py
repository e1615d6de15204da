"""Which person stands in which slot of a batch of people, as a pure function of (seed, step, position, plan)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np

from datamodules.balance import balancing_weights, copies
from datamodules.catalogue import Catalogue, Ints
from datamodules.errors import DataError
from datamodules.groups import CROSS, Grouping, attribute, groupings_of
from datamodules.hashing import mix
from datamodules.order import ShuffledOrder
from datamodules.people import labelled_people
from datamodules.quota import Quota, divide

Sampling = Literal["balanced", "pool", "weights"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)

# Of the rules that turn a specification into slots: raised when they change, so that no run goes on under other rules.
_RELEASE = "1"

# What a hash is drawn for; apart from the numbers of the mixing plan, which has the same seed.
_ORDER, _SPARE, _DEAL, _COPIES = range(51, 55)

# Weights become copies: so many for each picture, unless there are millions.
_COPIES_EACH, _MOST_COPIES = 8, 2**22


@dataclass(frozen=True)
class PeopleSpec:
    """Whom to draw and how.

    Attributes:
        attribute: groups that quotas are held for, such as ``"gender"``, or crossed, ``"race x gender"``.
        batch_size: people in a global batch, over all ranks.
        sampling: ``balanced``: every group has the same share of every batch. ``pool``: its share of the labelled
            pictures. ``weights``: the groups have about equal shares, and pictures are drawn so often that groups and
            the attributes ``independent_of`` are uncorrelated, see `datamodules.balance`.
        minimum: groups with fewer pictures are left out.
        independent_of: attributes for ``weights``.
        shuffle_shards: as in :class:`datamodules.plan.MixSpec`.
        seed: of every draw.
    """

    attribute: str = "gender"
    batch_size: int = 64
    sampling: Sampling = "balanced"
    minimum: int = 0
    independent_of: tuple[str, ...] = ()
    shuffle_shards: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError(f"data.people_batch_size must be at least 1, got {self.batch_size}")
        if self.sampling not in SAMPLINGS:
            raise DataError(f"data.sampling is {self.sampling!r}; choose {', '.join(SAMPLINGS)}")
        if (self.sampling == "weights") != bool(self.independent_of):
            raise DataError(
                "data.sampling = weights and data.independent_of go together: name the attributes that the groups of "
                "data.attribute shall be uncorrelated with, such as [age]"
            )
        if own := sorted(set(self.attribute.split(CROSS)) & set(self.independent_of)):
            raise DataError(f"data.independent_of names {own[0]}, which data.attribute has too; leave it out of one")


@dataclass(frozen=True)
class PeopleSlots:
    """The people of one global batch, B slots.

    Attributes:
        picture: [B] picture id.
        sample: [B] its sample.
        group: [B] its group.
        attributes: [B, A] its group by each attribute that the groups are crossed of.
        epoch: [B] passes over the group's pictures that were complete before this one.
    """

    picture: Ints
    sample: Ints
    group: Ints
    attributes: Ints
    epoch: Ints


class PeoplePlan:
    """Slots of every step for one catalogue of people and one specification.

    Every block of a batch (the largest of 8, 4, 2, 1 parts that divide it), and so every device batch of as many ranks,
    holds the floor or the ceiling of each group's due; over a run no group strays from its due by a whole picture. A
    group's pictures are gone through in shuffled passes.

    Attributes:
        catalogue: the shards of people.
        spec: whom to draw.
        groups: [G] names.
        counts: [G] int64, labelled pictures of each group.
        left_out: pictures that say no group, are unknown to the attribute, or are of a group below the minimum.

    Raises:
        DataError: where nobody is labelled, an attribute is missing, or there are fewer than two groups.
    """

    def __init__(self, catalogue: Catalogue, spec: PeopleSpec) -> None:
        self.catalogue = catalogue
        self.spec = spec
        samples, labels = labelled_people(catalogue)
        if not len(samples):
            raise DataError(
                "the shards of data.people say no groups of people; import labelled pictures with `bias-train shards "
                "import faces`"
            )
        available = groupings_of(labels)
        whole = attribute(available, spec.attribute, spec.minimum)
        if len(whole) < 2:
            raise DataError(
                f"data.attribute = {spec.attribute} has the one group {whole.labels[0]} in the shards of data.people; "
                "there is nothing to balance. Lower data.minimum, or give other shards"
            )
        known = whole.known
        self.groups = whole.labels
        self.counts = whole.counts
        self.left_out = len(catalogue.anchor) - int(known.sum())
        self._sample: Ints = samples[known]
        self._group: Ints = whole.code[known]
        self._attributes = _parts(available, whole)[known]
        self.copies = self._copies([part.rows(known) for part in available])
        rows = np.repeat(np.arange(len(self._sample)), self.copies)
        self._pools = [rows[self._group[rows] == code] for code in range(len(self.groups))]
        drawn = np.array([len(pool) for pool in self._pools], dtype=np.float64)
        shares = np.full(len(drawn), 1.0 / len(drawn)) if spec.sampling == "balanced" else drawn / drawn.sum()
        self.quota = Quota.of(shares.tolist(), spec.batch_size)
        self.blocks = next(parts for parts in (8, 4, 2, 1) if spec.batch_size % parts == 0)
        self._orders = [
            ShuffledOrder(catalogue.sample_shard[self._sample[pool]], spec.shuffle_shards, spec.seed, _ORDER, code)
            for code, pool in enumerate(self._pools)
        ]

    def _copies(self, available: Sequence[Grouping]) -> Ints:
        """How often each picture stands in its group's pool: [M] int64."""
        size = len(self._sample)
        if self.spec.sampling != "weights":
            return np.ones(size, dtype=np.int64)
        others = [_indicators(attribute(available, name)) for name in self.spec.independent_of]
        count = len(self.groups)
        found = balancing_weights(np.eye(count)[self._group], np.concatenate(others, axis=1), np.full(count, 1 / count))
        total = size * max(1, min(_COPIES_EACH, _MOST_COPIES // size))
        return copies(found.weight, self._group, total, self.spec.seed, _COPIES)

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What determines the slots, to compare two plans; names begin with ``people.``."""
        parts = {f"people.{key}": json.dumps(value, sort_keys=True) for key, value in asdict(self.spec).items()}
        return {**parts, "people.order": _RELEASE, "people.shards": self.catalogue.digest}

    def slots(self, step: int) -> PeopleSlots:
        """Fill one global batch, in an order that every rank takes its contiguous part of."""
        counts = divide(self.quota.between(step, step + 1), self.blocks, self.spec.seed, _DEAL, step)
        group = np.concatenate([np.repeat(np.arange(len(self.groups)), block) for block in counts])
        before = self.quota.cumulative(step)
        row, epoch = np.empty_like(group), np.empty_like(group)
        for code in np.unique(group).tolist():
            here = np.flatnonzero(group == code)
            places, epoch[here] = self._orders[code].take(before[code] + np.arange(len(here), dtype=np.int64))
            row[here] = self._pools[code][places]
        sample = self._sample[row]
        return PeopleSlots(self.catalogue.anchor[sample].astype(np.int64), sample, group, self._attributes[row], epoch)

    def spare(self, step: int, position: int, attempt: int, group: int) -> tuple[int, int, Ints]:
        """Choose who stands in for a picture that cannot be used; pure, so every rank count makes the same choice.

        Args:
            step: global batch.
            position: slot in the global batch.
            attempt: from 0, higher where spares cannot be used either.
            group: of the broken picture; the spare is of the same, so that the quota holds.

        Returns:
            ``(picture, sample, attributes [A])``.
        """
        pool = self._pools[group]
        draw = mix(self.spec.seed, _SPARE, step * self.spec.batch_size + position, attempt)
        row = int(pool[int(draw % np.uint64(len(pool)))])
        sample = int(self._sample[row])
        return int(self.catalogue.anchor[sample]), sample, self._attributes[row]

    def shards_ahead(self, step: int) -> Ints:
        """Shards that a batch and the ones soon after it are read from: numbers of the catalogue."""
        before = self.quota.cumulative(step)
        due = [code for code, part in enumerate(self.quota.parts) if part]
        return np.unique(np.concatenate([self._orders[code].shards_ahead(int(before[code])) for code in due]))


def _parts(available: Sequence[Grouping], whole: Grouping) -> Ints:
    """The group by each attribute that some groups are crossed of: [M, A]; the groups themselves where of one."""
    codes = {part.name: part.code for part in available}
    if whole.name in codes:
        return whole.code[:, None]
    return np.stack([codes[name] for name in whole.name.split(CROSS)], axis=1)


def _indicators(part: Grouping) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """[M, G] 1 where a picture is of a group, in no column where that is not known."""
    return (part.code[:, None] == np.arange(len(part))).astype(np.float64)
