"""All pictures of one or more shard sets as flat arrays, and which picture is whose twin."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.hashing import mix, string_id
from datamodules.index import ShardIndex
from datamodules.sample import Sample

Ints = npt.NDArray[np.int64]

REAL = "real"


@dataclass(frozen=True)
class Catalogue:
    """Pictures and samples of several shard sets under one numbering.

    V pictures (anchors and views), S samples. Codes of sources and labels are those of this catalogue.

    Attributes:
        indexes: the shard sets.
        sources: source names; ``sources[0]`` is "real", the rest are generators in sorted order.
        labels: class names.
        picture_sample: [V] sample of each picture; a sample's first picture is its anchor.
        picture_source: [V] source code.
        picture_view: [V] code into ``view_names``; "" is the anchor.
        view_names: names of views.
        anchor: [S] picture id of each sample's anchor.
        sample_set: [S] which shard set.
        sample_row: [S] row in that set's index.
        sample_shard: [S] shard number, unique over all sets.
        sample_label: [S] label code, -1 for none.
        caption_count: [S] captions of each sample.
        group: [S] int64 id of the group whose pictures show the same thing.
    """

    indexes: tuple[ShardIndex, ...]
    sources: tuple[str, ...]
    labels: tuple[str, ...]
    picture_sample: Ints
    picture_source: Ints
    picture_view: Ints
    view_names: tuple[str, ...]
    anchor: Ints
    sample_set: Ints
    sample_row: Ints
    sample_shard: Ints
    sample_label: Ints
    caption_count: Ints
    group: Ints
    _pairing_cache: dict[tuple[int, int], Ints] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, indexes: Sequence[ShardIndex]) -> Catalogue:
        """Join the indexes of several shard sets."""
        if not indexes:
            raise DataError("no shard sets were given: set data.train (and data.val) to folders of shards")
        sources = (REAL, *sorted({name for index in indexes for name in index.sources} - {REAL}))
        labels = tuple(sorted({name for index in indexes for name in index.labels}))
        views = tuple(sorted({name for index in indexes for name in index.view_names} | {""}))
        parts: dict[str, list[Ints]] = {
            name: [] for name in ("ps", "pc", "pv", "an", "ss", "sr", "sh", "sl", "cc", "gr")
        }
        samples = pictures = shards = 0
        for number, index in enumerate(indexes):
            count = len(index.keys)
            start = np.asarray(index.view_start, dtype=np.int64)
            recode_source = np.array([sources.index(name) for name in index.sources], dtype=np.int64)
            recode_label = np.array([labels.index(name) for name in index.labels] + [-1], dtype=np.int64)
            recode_view = np.array([views.index(name) for name in index.view_names], dtype=np.int64)
            parts["ps"].append(np.repeat(np.arange(count), np.diff(start)) + samples)
            parts["pc"].append(recode_source[np.asarray(index.view_source, dtype=np.int64)])
            parts["pv"].append(recode_view[np.asarray(index.view_name, dtype=np.int64)])
            parts["an"].append(start[:-1] + pictures)
            parts["ss"].append(np.full(count, number))
            parts["sr"].append(np.arange(count))
            parts["sh"].append(np.asarray(index.shard, dtype=np.int64) + shards)
            parts["sl"].append(recode_label[np.asarray(index.label, dtype=np.int64)])
            parts["cc"].append(np.asarray(index.caption_count, dtype=np.int64))
            parts["gr"].append(_group_ids(index))
            samples, pictures, shards = samples + count, pictures + int(start[-1]), shards + len(index.shards)
        joined = {name: np.concatenate(values).astype(np.int64) for name, values in parts.items()}
        return cls(
            tuple(indexes), sources, labels, joined["ps"], joined["pc"], joined["pv"], views, joined["an"],
            joined["ss"], joined["sr"], joined["sh"], joined["sl"], joined["cc"], joined["gr"],
        )  # fmt: skip

    @cached_property
    def photos(self) -> Ints:
        """Samples whose anchor is a real photo: [P] sample ids."""
        return np.flatnonzero(self.picture_source[self.anchor] == 0)

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

    @cached_property
    def has_views(self) -> bool:
        """Whether any photo has a generated twin in its own sample."""
        generated = self.picture_source > 0
        return bool(np.any(self.picture_source[self.anchor[self.picture_sample[generated]]] == 0))

    def twins(self, generator: int, epoch: int) -> Ints:
        """Find each sample's twin of one source.

        Where a photo's own sample holds a view of that source, that is the twin. Otherwise, where classes are labelled
        and no sample holds twins, twins are paired within a class: the class's photos and its generated pictures are
        each put in a fixed random order and matched in turn, shifted by the epoch so that every match is met.

        Args:
            generator: source code of the twin; 0 asks for the photo of a generated anchor.
            epoch: pass over the photos, for the shift.

        Returns:
            [S] picture id of the twin, -1 where there is none.
        """
        if self.has_views:
            return self._view_twins(generator)
        return self._class_twins(generator, epoch)

    def _view_twins(self, source: int) -> Ints:
        if (source, -1) not in self._pairing_cache:
            found = np.full(len(self.anchor), -1, dtype=np.int64)
            pictures = self.pictures_of(source)
            # Written back to front, so that the first view of a source wins where a sample holds several.
            found[self.picture_sample[pictures[::-1]]] = pictures[::-1]
            self._pairing_cache[source, -1] = found
        return self._pairing_cache[source, -1]

    def _class_twins(self, source: int, epoch: int) -> Ints:
        if (source, epoch) not in self._pairing_cache:
            found = np.full(len(self.anchor), -1, dtype=np.int64)
            candidates = self.pictures_of(source)
            label_of_candidate = self.sample_label[self.picture_sample[candidates]]
            order = np.argsort(mix(candidates, 1), kind="stable")
            candidates, label_of_candidate = candidates[order], label_of_candidate[order]
            for label in range(len(self.labels)):
                pool = candidates[label_of_candidate == label]
                members = np.flatnonzero((self.sample_label == label) & (self.picture_source[self.anchor] != source))
                if len(pool):
                    rank = np.argsort(np.argsort(mix(members, 2), kind="stable"), kind="stable")
                    found[members] = pool[(rank + epoch) % len(pool)]
            for stale in [key for key in self._pairing_cache if key[0] == source and key[1] < epoch - 2]:
                del self._pairing_cache[stale]
            self._pairing_cache[source, epoch] = found
        return self._pairing_cache[source, epoch]

    def read(self, picture: int) -> bytes:
        """Read one picture's encoded bytes."""
        sample = self.picture_sample[picture]
        index = self.indexes[self.sample_set[sample]]
        local = int(picture - self.anchor[sample] + index.view_start[self.sample_row[sample]])
        shard = int(index.shard[self.sample_row[sample]])
        return index.read_bytes(shard, int(index.offset[local]), int(index.size[local]))

    def sample(self, sample: int) -> Sample:
        """Read one sample's description."""
        return self.indexes[self.sample_set[sample]].sample(int(self.sample_row[sample]))

    def name(self, picture: int) -> str:
        """Name a picture for people: its sample's key and, for a view, ``.view``."""
        sample = self.picture_sample[picture]
        key = str(self.indexes[self.sample_set[sample]].keys[self.sample_row[sample]])
        view = self.view_names[self.picture_view[picture]]
        return f"{key}.{view}" if view else key


def _group_ids(index: ShardIndex) -> Ints:
    group = np.asarray(index.group)
    if np.issubdtype(group.dtype, np.integer):
        return group.astype(np.int64)
    return np.fromiter((string_id(str(name)) for name in group), dtype=np.int64, count=len(group))
