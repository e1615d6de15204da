"""The mixing plan: which picture stands in which slot, as a pure function.

``MixingPlan.slots(step)`` depends on (seed, step, plan) alone, never on rank, worker or clock. Therefore a ratio is
exact in every device batch, order is bit-reproducible, a run resumes from a step number, and any number of ranks and
workers sees the same global batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from datamodules.catalogue import Catalogue, Codes, Ints
from datamodules.errors import DataError
from datamodules.hashing import generator, mix, uniform
from datamodules.order import ShuffledOrder
from datamodules.quota import Quota, divide
from datamodules.selection import Selected, Selection
from datamodules.weighted_order import WeightedOrder, weight_parts

Mode = Literal["replace", "add", "unpaired"]
Composition = Literal["mixed", "per_device_source", "per_batch_source"]

# Of the rules that turn a specification into slots: raised when they change, so that no run goes on under other rules.
_RELEASE = "3"

# What a hash is drawn for; part of every key, so that draws for different ends are independent.
_PRIORITY, _CAPTION, _TWIN, _TWIN_SOURCE, _ORDER, _SPARE, _BLOCKS, _DEAL = range(1, 9)


@dataclass(frozen=True)
class MixSpec:
    """What to mix and how.

    Attributes:
        share: share of generated pictures among anchors, in [0, 1].
        generators: relative weight of each generator by name; empty takes all that the shards hold, equally.
        mode: ``replace``: a twin stands in for its photo; captions, order and number of samples stay. ``add``: photos
            and their generated twins are separate streams, and the order of photos is that of share 0. ``unpaired``: as
            ``add``, for corpora that have nothing to do with each other.
        composition: ``mixed``: every block holds both; ``per_device_source``: a block is of one source;
            ``per_batch_source``: a global batch is of one source.
        batch_size: global batch, over all ranks.
        blocks: equal parts of the global batch in each of which the ratio is exact; 0 takes the largest of 8, 4, 2, 1
            that divides the batch. A device batch that is a union of blocks is exact too, so ranks should divide it.
        twin_share: share of anchors that carry their twin from the other source, for losses that compare the two.
        missing_twins: ``error``: refuse photos without a twin where one is needed; ``skip``: leave those photos out.
        shuffle_shards: shards (or stretches of 10,000 samples of larger ones) whose samples are shuffled together; more
            mixes better, fewer reads more sequentially.
        seed: of every draw.
        selection: file of weights and edited captions by sample, see :mod:`datamodules.selection`; None draws all
            samples equally.
    """

    share: float = 0.0
    generators: Mapping[str, float] = field(default_factory=dict)
    mode: Mode = "replace"
    composition: Composition = "mixed"
    batch_size: int = 256
    blocks: int = 0
    twin_share: float = 0.0
    missing_twins: Literal["error", "skip"] = "error"
    shuffle_shards: int = 16
    seed: int = 0
    selection: str | None = None


@dataclass(frozen=True)
class Slots:
    """One global batch, B slots.

    Attributes:
        picture: [B] picture id of the anchor.
        sample: [B] sample whose captions describe it.
        caption: [B] which of that sample's captions.
        twin: [B] picture id of the twin that goes along, -1 for none.
        epoch: [B] passes over its pool that were complete before this one.
    """

    picture: Ints
    sample: Ints
    caption: Ints
    twin: Ints
    epoch: Ints


class MixingPlan:
    """Slots of every step for one catalogue and one specification.

    A selection's weights act within each source, whose share of a batch stays exact: after any number of passes over a
    source's pictures each was drawn as often as its weight, relative to the source's largest, is due, to within one.

    Attributes:
        catalogue: of the shards.
        spec: what to mix and how.
        selected: what the specification's selection says of the samples, None without one.
        skipped_photos: photos left out for want of a twin.

    Raises:
        DataError: for a share outside [0, 1], an unknown generator, a batch that blocks do not divide, shards without
            photos or without generated pictures where the share needs them, a photo without a twin in ``replace`` mode;
            for a selection that was made of other shards or leaves nothing.
    """

    def __init__(self, catalogue: Catalogue, spec: MixSpec) -> None:
        self.selected: Selected | None = None
        if spec.selection is not None:
            self.selected = Selected.of(Selection.load(spec.selection), catalogue, self._selectable())
            catalogue = catalogue.without(self.selected.left_out)
        self.catalogue = catalogue
        self.spec = spec
        if spec.batch_size < 1:
            raise DataError(f"data.batch_size must be at least 1, got {spec.batch_size}")
        for name in ("share", "twin_share"):
            if not 0.0 <= getattr(spec, name) <= 1.0:
                raise DataError(f"data.{name} must lie in [0, 1], got {getattr(spec, name)}")
        self.blocks = spec.blocks or next(parts for parts in (8, 4, 2, 1) if spec.batch_size % parts == 0)
        if spec.batch_size % self.blocks:
            raise DataError(f"data.blocks = {self.blocks} does not divide data.batch_size = {spec.batch_size}")
        self._generators, weights = self._generator_weights()
        shares = [1.0 - spec.share, *(spec.share * weight for weight in weights)]
        size = spec.batch_size // self.blocks if spec.composition == "mixed" else 1
        self._quota = Quota.of(shares, size)
        # Blocks that go by a quota each; with more than two sources it is a whole batch's, which is then dealt out.
        self._at_once = self.blocks if spec.composition != "per_batch_source" and self._quota.sources > 2 else 1
        if self._at_once > 1:
            self._quota = Quota.of(shares, size * self.blocks)
        self._twin_quota = Quota.of([1.0 - spec.twin_share, spec.twin_share], spec.batch_size // self.blocks)
        self.skipped_photos = 0
        self._pools = [self._kept(pool, number) for number, pool in enumerate(self._make_pools())]
        self._orders = [self._order(number) for number in range(len(self._pools))]
        self._spares: dict[int, Ints] = {}
        self._spare_ends: dict[int, npt.NDArray[np.uint64] | None] = {}

    def _selectable(self) -> int | None:
        """How many samples, from the first on, a selection has to know; None for all of the catalogue."""
        return None

    def _kept(self, pool: Codes, number: int) -> Codes:
        """A pool without the samples that the selection leaves out."""
        if self.selected is None or not len(pool):
            return pool
        kept = pool[self.selected.weight[self._samples_of(pool, number)] > 0]
        needed = self.spec.share > 0 if number else self.spec.share < 1 or self.spec.mode == "replace"
        if needed and not len(kept):
            what = "photos" if number == 0 else f"pictures by {self.catalogue.sources[self._generators[number - 1]]}"
            raise DataError(f"data.selection = {self.spec.selection} leaves no {what}; widen what it selects")
        return kept

    def _samples_of(self, pool: Codes, number: int) -> Codes:
        """The sample of each item of a pool."""
        return pool if number == 0 else self.catalogue.picture_sample[pool]

    def _generator_weights(self) -> tuple[list[int], list[float]]:
        held = self.catalogue.sources[1:]
        wanted = dict(self.spec.generators) or dict.fromkeys(held, 1.0)
        for name, weight in wanted.items():
            if name not in held:
                raise DataError(
                    f"data.generators asks for {name!r}, which no shard holds; they hold {list(held) or 'photos only'}"
                )
            if weight < 0:
                raise DataError(f"data.generators.{name} must not be negative, got {weight}")
        total = sum(wanted.values())
        if not wanted or total <= 0:
            if self.spec.share > 0 or self.spec.twin_share > 0:
                raise DataError(
                    "data.share or data.twin_share is above 0, but the shards hold no generated pictures: "
                    "add shards that hold them to data.train, or name yours with `bias-train shards index --source`"
                )
            return [], []
        return [self.catalogue.sources.index(name) for name in wanted], [w / total for w in wanted.values()]

    def _make_pools(self) -> list[Codes]:
        """Pool 0 holds photos (sample ids); in ``add`` and ``unpaired`` pool j holds generator j's picture ids."""
        photos = self._kept(self.catalogue.photos, 0)
        share, needs_twins = self.spec.share, self.spec.mode == "replace" and self.spec.share > 0
        if needs_twins or (self.spec.twin_share > 0 and self.spec.missing_twins == "skip"):
            lacking = np.zeros(len(photos), dtype=bool)
            for code in self._generators:
                lacking |= self.catalogue.twins(code, photos, 0) < 0
            if lacking.any():
                if self.spec.missing_twins == "error":
                    first = self.catalogue.name(int(self.catalogue.anchor[photos[lacking][0]]))
                    names = ", ".join(self.catalogue.sources[code] for code in self._generators)
                    raise DataError(
                        f"data.mode = replace needs a twin by each of [{names}] for every photo, but "
                        f"{int(lacking.sum())} of {len(photos)} photos have none, the first being {first!r}: generate "
                        "the missing twins, leave those photos out with data.missing_twins = skip, or use "
                        "data.mode = unpaired"
                    )
                self.skipped_photos = int(lacking.sum())
                photos = photos[~lacking]
        if len(photos) == 0 and (share < 1 or needs_twins):
            raise DataError(
                "the shards of data.train hold no photos that could be used; check data.train and data.missing_twins"
            )
        pools: list[Codes] = [photos]
        if self.spec.mode != "replace":
            for code in self._generators:
                pools.append(self.catalogue.pictures_of(code))
        return pools

    @property
    def fingerprint(self) -> str:
        """Hash of the specification and of the shards' contents; equal fingerprints mean equal slots."""
        return self.fingerprint_parts["plan"]

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What the fingerprint is made of, to name a difference between two plans."""
        parts = {key: json.dumps(value, sort_keys=True) for key, value in asdict(self.spec).items()}
        del parts["selection"]  # where the file lies does not matter, but what it says
        if self.selected is not None:
            parts["selection"] = self.selected.digest
        parts["order"] = _RELEASE
        parts["shards"] = self.catalogue.digest
        text = json.dumps(parts, sort_keys=True)
        return {**parts, "plan": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def _order(self, pool: int) -> ShuffledOrder | WeightedOrder:
        items = self._pools[pool]
        samples = self._samples_of(items, pool)
        shard = self.catalogue.sample_shard[samples]
        place = (self.spec.shuffle_shards, self.spec.seed, _ORDER, pool)
        if self.selected is not None and len(items):
            weight = self.selected.weight[samples]
            if weight.min() < weight.max():
                return WeightedOrder(shard, weight, items, *place)
        return ShuffledOrder(shard, *place)

    def _draw(self, pool: int, draws: Ints) -> tuple[Ints, Ints]:
        """Take the k-th item of a pool's endless stream for each k in ``draws``; return items and their epochs."""
        places, epoch = self._orders[pool].take(draws)
        return self._pools[pool][places].astype(np.int64), epoch

    def shards_ahead(self, step: int) -> Ints:
        """Shards that a batch and the ones soon after it are read from, the nearest first: numbers of the catalogue."""
        totals = np.array([step * self.spec.batch_size])
        if self.spec.mode != "replace":
            totals = np.array([self._drawn_before(step, pool) for pool in range(len(self._pools))])
        parts = [
            order.shards_ahead(int(total))
            for order, total, due in zip(self._orders, totals, self._quota.parts, strict=False)
            if order.length and (due or self.spec.mode == "replace")
        ]
        return np.unique(np.concatenate(parts)) if len(parts) > 1 else parts[0]

    def slots(self, step: int) -> Slots:
        """Fill one global batch.

        Args:
            step: number of the global batch since the start of training, from 0.

        Returns:
            The batch's slots, in an order that every rank takes its contiguous part of.
        """
        if self.spec.mode == "replace":
            picture, sample, epoch = self._replace(step)
        else:
            picture, sample, epoch = self._separate(step)
        caption = (uniform(self.spec.seed, _CAPTION, sample, epoch) * self.catalogue.caption_count[sample]).astype(
            np.int64
        )
        return Slots(picture, sample, caption, self._twins(step, picture, sample, epoch), epoch)

    def _source_counts(self, step: int) -> Ints:
        """How many anchors of each source stand in each block of a batch: [blocks, 1 + generators]."""
        blocks, size = self.blocks, self.spec.batch_size // self.blocks
        if self.spec.composition == "per_batch_source":
            return np.repeat(self._quota.between(step, step + 1)[None] * size, blocks, axis=0)
        if self._at_once > 1:
            counts = divide(self._quota.between(step, step + 1), blocks, self.spec.seed, _DEAL, step)
        else:
            counts = np.diff(self._quota.cumulative(step * blocks + np.arange(blocks + 1, dtype=np.int64)), axis=0)
        if self.spec.composition == "mixed":
            return counts
        # Rotated, so that no rank is bound to one source for the whole run.
        return counts[generator(self.spec.seed, _BLOCKS, step).permutation(blocks)] * size

    def _replace(self, step: int) -> tuple[Ints, Ints, Ints]:
        batch = self.spec.batch_size
        sample, epoch = self._draw(0, step * batch + np.arange(batch, dtype=np.int64))
        picture = self.catalogue.anchor[sample].copy()
        if self.spec.share > 0:
            # Which photos are replaced follows a rank that belongs to the photo: what is generated at one share is
            # generated at every higher one, where shares lie at least one sample per block apart. Closer ones cannot
            # all nest while every running total stays within a sample of its due (Schmidt, "Irregularities of
            # distribution VII", 1972: the discrepancy of any one sequence grows with its logarithm).
            rank = uniform(self.spec.seed, _PRIORITY, sample).reshape(self.blocks, -1).argsort(axis=1, kind="stable")
            counts = self._source_counts(step)[:, 1:].cumsum(axis=1)
            starts = np.arange(self.blocks) * (batch // self.blocks)
            for block in range(self.blocks):
                begin = 0
                for which, end in enumerate(counts[block]):
                    places = starts[block] + rank[block, begin:end]
                    picture[places] = self.catalogue.twins(self._generators[which], sample[places], epoch[places])
                    begin = end
        return picture, sample, epoch

    def _separate(self, step: int) -> tuple[Ints, Ints, Ints]:
        batch = self.spec.batch_size
        counts = self._source_counts(step)
        drawn = np.array([self._drawn_before(step, source) for source in range(counts.shape[1])])
        source = np.concatenate([np.repeat(np.arange(counts.shape[1]), row) for row in counts])
        picture, sample, epoch = (np.empty(batch, dtype=np.int64) for _ in range(3))
        for pool in range(counts.shape[1]):
            here = np.flatnonzero(source == pool)
            if len(here) == 0:
                continue
            if len(self._pools[pool]) == 0:
                raise DataError(f"no pictures of source {pool} in data.train, though its share is above 0")
            items, epoch[here] = self._draw(pool, drawn[pool] + np.arange(len(here), dtype=np.int64))
            sample[here] = items if pool == 0 else self.catalogue.picture_sample[items]
            picture[here] = self.catalogue.anchor[items] if pool == 0 else items
        return picture, sample, epoch

    def _drawn_before(self, step: int, source: int) -> int:
        """How many pictures of a source all earlier batches took."""
        batch, size = self.spec.batch_size, self.spec.batch_size // self.blocks
        unit, count = {
            "mixed": (1, step * self.blocks // self._at_once),
            "per_device_source": (size, step * self.blocks // self._at_once),
            "per_batch_source": (batch, step),
        }[self.spec.composition]
        return int(self._quota.cumulative(count)[source]) * unit

    def _twins(self, step: int, picture: Ints, sample: Ints, epoch: Ints) -> Ints:
        batch = self.spec.batch_size
        twin = np.full(batch, -1, dtype=np.int64)
        if self.spec.twin_share == 0:
            return twin
        size = batch // self.blocks
        edges = step * self.blocks + np.arange(self.blocks + 1, dtype=np.int64)
        wanted = np.diff(self._twin_quota.cumulative(edges), axis=0)[:, 1]
        slot = step * batch + np.arange(batch, dtype=np.int64)
        rank = uniform(self.spec.seed, _TWIN, slot).reshape(self.blocks, size).argsort(axis=1, kind="stable")
        chosen = np.concatenate([block * size + rank[block, : wanted[block]] for block in range(self.blocks)])
        generated = self.catalogue.picture_source[picture[chosen]] > 0
        which = np.array(self._generators)[
            (mix(self.spec.seed, _TWIN_SOURCE, slot[chosen]) % len(self._generators)).astype(int)
        ]
        # A photo's twin is generated; a generated anchor's twin is its photo.
        for source in {0, *self._generators}:
            here = chosen[np.where(generated, 0, which) == source]
            twin[here] = (
                self._photo_of(sample[here], epoch[here])
                if source == 0
                else self.catalogue.twins(source, sample[here], epoch[here])
            )
        return twin

    def _photo_of(self, sample: Ints, epoch: Ints) -> Ints:
        """The photo behind a generated anchor: the sample's own, or one of its class."""
        anchor = self.catalogue.anchor[sample]
        own = self.catalogue.picture_source[anchor] == 0
        return np.where(own, anchor, self.catalogue.twins(0, sample, epoch))

    def spare(self, step: int, position: int, attempt: int, source: int) -> tuple[int, int, int]:
        """Choose what stands in for a broken picture; pure, so every rank count makes the same choice.

        Args:
            step: global batch.
            position: slot in the global batch.
            attempt: from 0, higher where spares are broken too.
            source: code of the broken picture's source; the spare is of the same, so that the ratio holds.

        Returns:
            ``(picture, sample, caption)``.
        """
        draw = mix(self.spec.seed, _SPARE, step * self.spec.batch_size + position, attempt)
        if source not in self._spares:
            self._spares[source] = self.catalogue.pictures_of(source)
        pictures = self._spares[source]
        ends = self._ends(source, pictures)
        place = draw % np.uint64(len(pictures)) if ends is None else np.searchsorted(ends, draw % ends[-1], "right")
        picture = int(pictures[int(place)])
        sample = int(self.catalogue.picture_sample[picture])
        caption = int(draw >> np.uint64(32)) % max(int(self.catalogue.caption_count[sample]), 1)
        return picture, sample, caption

    def _ends(self, source: int, pictures: Ints) -> npt.NDArray[np.uint64] | None:
        """Sums of the weights of a source's spares, up to each; None where all have one weight."""
        if self.selected is None:
            return None
        if source not in self._spare_ends:
            weight = self.selected.weight[self.catalogue.picture_sample[pictures]]
            equal = bool(weight.min() == weight.max())
            # In parts of 2**16, so that no sum is beyond 64 bits.
            self._spare_ends[source] = None if equal else np.cumsum(weight_parts(weight) >> np.uint64(16))
        return self._spare_ends[source]

    def caption(self, picture: int, sample: int, number: int) -> str | None:
        """What a slot's picture is described by, as the selection may have edited it.

        Args:
            picture: of the slot.
            sample: of the slot; a picture of another sample stands in for this sample's anchor.
            number: which caption, counted round.

        Returns:
            The text, None where there is none.
        """
        anchor = int(self.catalogue.anchor[sample])
        described = picture if self.catalogue.picture_sample[picture] == sample else anchor
        if self.selected is not None and not self.catalogue.has_own_captions(described):
            count = int(self.catalogue.caption_count[sample])
            edited = self.selected.caption(sample, number % count) if count else None
            if edited is not None:
                return edited
        return self.catalogue.caption(described, number)
