"""All pictures of one or more shard sets under one numbering, and which picture is whose twin."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.hashing import mix
from datamodules.index import ShardIndex
from datamodules.index_file import recoded
from datamodules.sample import Sample
from datamodules.store import ShardInfo

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.integer[Any]]

REAL = "real"


class _ClassTwins(NamedTuple):
    """How the samples of each class are matched with a source's pictures of that class.

    Attributes:
        pool: [n] the source's pictures, class by class, in a fixed random order within each.
        start: [L + 1] where each class begins in the pool.
        rank: [S] a sample's place among those of its class that need a twin, -1 for the others.
    """

    pool: Ints
    start: Ints
    rank: Codes


class Place(NamedTuple):
    """Where a picture's bytes lie."""

    home: ShardIndex
    shard: int
    offset: int
    size: int
    crc: int

    def read(self) -> bytes:
        """Read them.

        Raises:
            SampleError: if they cannot be read or are not those that were indexed.
        """
        return self.home.read_picture(self.shard, self.offset, self.size, self.crc)


def _places(index: ShardIndex, shard: Codes, pictures: Ints) -> list[Place]:
    columns = (shard, index.offset[pictures], index.size[pictures], index.crc[pictures])
    return [Place(index, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]


@dataclass(frozen=True)
class Catalogue:
    """Pictures and samples of several shard sets under one numbering.

    V pictures (anchors and views), S samples. Codes of sources and labels are those of this catalogue. Where there is
    one shard set, most arrays are parts of its mapped index and cost no memory of their own.

    Attributes:
        indexes: the shard sets.
        sources: source names; ``sources[0]`` is "real", the rest are generators in sorted order.
        labels: class names.
        picture_sample: [V] sample of each picture; a sample's first picture is its anchor.
        picture_source: [V] source code.
        picture_view: [V] code into ``view_names``; "" is the anchor.
        view_names: names of views.
        anchor: [S] picture id of each sample's anchor.
        sample_shard: [S] shard number, unique over all sets.
        sample_label: [S] label code, -1 for none.
        caption_count: [S] captions of each sample.
        group: [S] int64 id of the group whose pictures show the same thing.
        unused: [S] samples that are nobody's twin by class, None for none.
    """

    indexes: tuple[ShardIndex, ...]
    sources: tuple[str, ...]
    labels: tuple[str, ...]
    picture_sample: Codes
    picture_source: Codes
    picture_view: Codes
    view_names: tuple[str, ...]
    anchor: Ints
    sample_shard: Codes
    sample_label: Codes
    caption_count: Codes
    group: Ints
    _twins: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)
    unused: npt.NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, indexes: Sequence[ShardIndex]) -> Catalogue:
        """Join the indexes of several shard sets."""
        if not indexes:
            raise DataError("no shard sets were given: set data.train (and data.val) to folders of shards")
        sources = (REAL, *sorted({name for index in indexes for name in index.sources} - {REAL}))
        labels = tuple(sorted({name for index in indexes for name in index.labels}))
        views = tuple(sorted({name for index in indexes for name in index.view_names} | {""}))
        first_sample = np.cumsum([0, *(len(index) for index in indexes)])
        first_picture = np.cumsum([0, *(len(index.offset) for index in indexes)])
        first_shard = np.cumsum([0, *(len(index.shards) for index in indexes)])
        narrow = np.int32 if first_sample[-1] < 2**31 else np.int64
        owner = [
            np.repeat(np.arange(n, n + len(index), dtype=narrow), np.diff(index.view_start))
            for index, n in zip(indexes, first_sample, strict=False)
        ]
        return cls(
            tuple(indexes),
            sources,
            labels,
            picture_sample=_joined(owner),
            picture_source=_joined([recoded(index.view_source, index.sources, sources) for index in indexes]),
            picture_view=_joined([recoded(index.view_name, index.view_names, views) for index in indexes]),
            view_names=views,
            anchor=_joined([_shifted(i.view_start[:-1], n) for i, n in zip(indexes, first_picture, strict=False)]),
            sample_shard=_joined([_shifted(i.shard, n) for i, n in zip(indexes, first_shard, strict=False)]),
            sample_label=_joined([recoded(index.label, index.labels, labels) for index in indexes]),
            caption_count=_joined([index.caption_count for index in indexes]),
            group=_joined([index.group for index in indexes]),
        )

    def __reduce__(self) -> tuple[Callable[..., Catalogue], tuple[Any, ...]]:
        # A loader worker maps the indexes anew instead of being sent copies of what they hold.
        return (Catalogue.of, (self.indexes,)) if self.unused is None else (_without, (self.indexes, self.unused))

    def without(self, samples: npt.NDArray[np.bool_]) -> Catalogue:
        """The same, some samples [S] of which are nobody's twin by class. All keep their numbers."""
        return replace(self, unused=samples, _twins={}) if samples.any() else self

    @cached_property
    def photos(self) -> Codes:
        """Samples whose anchor is a real photo: [P] sample ids."""
        found = np.flatnonzero(self.picture_source[self.anchor] == 0)
        return found.astype(np.int32) if len(self.anchor) < 2**31 else found

    def pictures_of(self, source: int) -> Ints:
        """Every picture of one source: [n] picture ids."""
        return np.flatnonzero(self.picture_source == source)

    @cached_property
    def digest(self) -> str:
        """Hash of the shard sets' contents, from the checksums that their indexes hold."""
        text = "\n".join(
            f"{shard.name} {shard.samples} {shard.sha256}" for index in self.indexes for shard in index.shards
        )
        return hashlib.sha256(text.encode()).hexdigest()

    # Twins -----------------------------------------------------------------------------------------------------------

    @cached_property
    def has_views(self) -> bool:
        """Whether any photo has a generated twin in its own sample."""
        generated = np.flatnonzero(self.picture_source > 0)
        return bool(np.any(self.picture_source[self.anchor[self.picture_sample[generated]]] == 0))

    def twins(self, source: int, samples: Codes, epoch: Codes | int) -> Ints:
        """Find samples' twins of one source.

        Where a photo's own sample holds a view of that source, that is the twin. Otherwise, where classes are labelled
        and no sample holds twins, twins are paired within a class: the class's photos and its generated pictures are
        each put in a fixed random order and matched in turn, shifted by the epoch so that every match is met.

        Args:
            source: source code of the twin; 0 asks for the photo of a generated anchor.
            samples: [n] sample ids.
            epoch: passes over the photos before this one, for the shift: [n] or one for all.

        Returns:
            [n] picture ids, -1 where there is none.
        """
        if source not in self._twins:
            self._twins[source] = self._view_twins(source) if self.has_views else self._class_twins(source)
        table = self._twins[source]
        if not isinstance(table, _ClassTwins):
            return np.asarray(table[samples], dtype=np.int64)
        label, rank = self.sample_label[samples], table.rank[samples].astype(np.int64)
        size = np.where(label >= 0, np.diff(table.start)[label], 0) if len(self.labels) else np.zeros_like(rank)
        found = np.full(len(rank), -1, dtype=np.int64)
        some = np.flatnonzero((size > 0) & (rank >= 0))
        turn = (rank + epoch)[some] % size[some]
        found[some] = table.pool[table.start[label[some]] + turn]
        return found

    def _view_twins(self, source: int) -> Codes:
        found: Codes = np.full(len(self.anchor), -1, dtype=np.int32 if len(self.picture_source) < 2**31 else np.int64)
        pictures = self.pictures_of(source)
        # Written back to front, so that the first view of a source wins where a sample holds several.
        found[self.picture_sample[pictures[::-1]]] = pictures[::-1]
        return found

    def _class_twins(self, source: int) -> _ClassTwins:
        pool = self.pictures_of(source)
        if self.unused is not None:
            pool = pool[~self.unused[self.picture_sample[pool]]]
        label = self.sample_label[self.picture_sample[pool]]
        order = np.lexsort((mix(pool, 1), label))
        pool, label = pool[order], label[order]
        start = np.searchsorted(label, np.arange(len(self.labels) + 1))
        members = np.flatnonzero((self.picture_source[self.anchor] != source) & (self.sample_label >= 0))
        order = np.lexsort((mix(members, 2), self.sample_label[members]))
        members, its_label = members[order], self.sample_label[members][order]
        first = np.searchsorted(its_label, np.arange(len(self.labels) + 1))
        rank = np.full(len(self.anchor), -1, dtype=np.int32)
        rank[members] = np.arange(len(members)) - first[its_label]
        return _ClassTwins(pool, start, rank)

    # Reading ---------------------------------------------------------------------------------------------------------

    # Lists, since one number is looked for at a time: bisect finds it in a tenth of NumPy's time.

    @cached_property
    def _first_sample(self) -> list[int]:
        return list(accumulate((len(index) for index in self.indexes), initial=0))

    @cached_property
    def _first_picture(self) -> list[int]:
        return list(accumulate((len(index.offset) for index in self.indexes), initial=0))

    @cached_property
    def _first_shard(self) -> list[int]:
        return list(accumulate((len(index.shards) for index in self.indexes), initial=0))

    def _place(self, sample: int) -> tuple[ShardIndex, int]:
        number = bisect_right(self._first_sample, sample) - 1
        return self.indexes[number], sample - self._first_sample[number]

    def places(self, pictures: Ints) -> list[Place]:
        """Where pictures lie: [n] picture ids to n places."""
        shard = self.sample_shard[self.picture_sample[pictures]]
        if len(self.indexes) == 1:
            return _places(self.indexes[0], shard, pictures)
        number = np.searchsorted(self._first_picture, pictures, side="right") - 1
        found: dict[int, Place] = {}
        for which in np.unique(number).tolist():
            here = np.flatnonzero(number == which)
            inside = _places(
                self.indexes[which], shard[here] - self._first_shard[which], pictures[here] - self._first_picture[which]
            )
            found.update(zip(here.tolist(), inside, strict=True))
        return [found[at] for at in range(len(pictures))]

    def read(self, picture: int) -> bytes:
        """Read one picture's encoded bytes.

        Raises:
            SampleError: if they cannot be read or are not those that were indexed.
        """
        return self.places(np.array([picture]))[0].read()

    def captions(self, picture: int) -> tuple[str, ...]:
        """What is true of a picture: its own captions, or its anchor's."""
        sample = int(self.picture_sample[picture])
        index, row = self._place(sample)
        return index.captions(row, picture - int(self.anchor[sample]))

    def has_own_captions(self, picture: int) -> bool:
        """Whether a picture is a view that its anchor's captions do not describe."""
        sample = int(self.picture_sample[picture])
        view = picture - int(self.anchor[sample])
        index, row = self._place(sample)
        return view > 0 and index.has_own_captions(row, view)

    def caption(self, picture: int, number: int) -> str | None:
        """One of :meth:`captions`, counted round; None where there are none."""
        sample = int(self.picture_sample[picture])
        index, row = self._place(sample)
        return index.caption(row, picture - int(self.anchor[sample]), number)

    def sample(self, sample: int) -> Sample:
        """Read one sample's description."""
        index, row = self._place(sample)
        return index.sample(row)

    def key(self, sample: int) -> str:
        """A sample's key."""
        index, row = self._place(sample)
        return index.keys[row]

    def name(self, picture: int) -> str:
        """Name a picture for people: its sample's key and, for a view, ``.view``."""
        key = self.key(int(self.picture_sample[picture]))
        view = self.view_names[self.picture_view[picture]]
        return f"{key}.{view}" if view else key

    def shard_name(self, shard: int) -> str:
        """Name a shard, by the number that it has in ``sample_shard``."""
        index, info = self._shard(shard)
        return f"{index.store.location}/{info.name}"

    def prefetch(self, shards: Ints) -> None:
        """Begin to bring shards close, without waiting: [n] numbers as in ``sample_shard``."""
        for number, index in enumerate(self.indexes):
            low, high = self._first_shard[number], self._first_shard[number + 1]
            here = shards[(shards >= low) & (shards < high)] - low
            if len(here):
                index.store.prefetch([index.shards[shard] for shard in here.tolist()])

    def store_counts(self) -> Counter[str]:
        """What this process asked of the shards' stores so far, see :class:`datamodules.store.Store`."""
        return sum((index.store.counts for index in self.indexes), Counter())

    def _shard(self, shard: int) -> tuple[ShardIndex, ShardInfo]:
        number = bisect_right(self._first_shard, shard) - 1
        return self.indexes[number], self.indexes[number].shards[shard - self._first_shard[number]]


def _without(indexes: Sequence[ShardIndex], samples: npt.NDArray[np.bool_]) -> Catalogue:
    return Catalogue.of(indexes).without(samples)


def _joined(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _shifted(numbers: Any, by: int) -> Any:
    return numbers if by == 0 else numbers + by
