"""From slots to batches: read, decode, collate; the same batches for every number of ranks and workers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.catalogue import Place
from datamodules.decode import Augmentation, Crop, decode_and_fit
from datamodules.errors import DataError, SampleError, Skip
from datamodules.hashing import string_id, uniform
from datamodules.picture_ring import InRing, PictureRing, Slot
from datamodules.plan import MixingPlan

_AUGMENT = 101
MAX_SPARES = 20

Tokenize = Callable[[list[str]], Tensor]


@dataclass
class MixedStream(IterableDataset[dict[str, Any]]):
    """Endless device batches of one rank, from a step on.

    Worker w of n makes every n-th batch whole, so the loader hands them out in the plan's order.

    Attributes:
        plan: which picture stands where.
        image_size: height and width of the pictures.
        tokenize: captions to int64 [B, L]; None leaves tokens out.
        augment: training crops, drawn per sample and epoch.
        rank: of this process.
        world_size: processes; must divide the global batch.
        start: global batch to begin with.
        local_rank: of this process among those of its machine, which share the work of reading ahead.
        local_world_size: processes of this machine.
        ring: shared memory in which workers leave their pictures; None sends them along.
    """

    plan: MixingPlan
    image_size: tuple[int, int]
    tokenize: Tokenize | None = None
    augment: Augmentation = field(default_factory=Augmentation)
    rank: int = 0
    world_size: int = 1
    start: int = 0
    local_rank: int = 0
    local_world_size: int = 1
    ring: PictureRing | None = None

    def __post_init__(self) -> None:
        """Check that ranks share the batch evenly."""
        if self.plan.spec.batch_size % self.world_size:
            raise DataError(
                f"data.batch_size = {self.plan.spec.batch_size} is the global batch and must be a multiple of the "
                f"{self.world_size} processes"
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield device batches from ``start`` on, without end; with each, what the shards' stores did meanwhile."""
        info = get_worker_info()
        first, stride = (0, 1) if info is None else (info.id, info.num_workers)
        step = self.start + first
        asked: set[int] = set()
        counts: Counter[str] = Counter()
        for made in itertools.count():
            asked = self._read_ahead(step, asked, self.local_rank * stride + first, self.local_world_size * stride)
            slot = self.ring.slot(first, made) if self.ring is not None and info is not None else None
            batch = self.batch(step, slot)
            told, counts = counts, self._store_counts()
            yield batch | {"store": dict(counts - told)}
            step += stride

    def _read_ahead(self, step: int, asked: set[int], reader: int, readers: int) -> set[int]:
        """Have this reader's part of the shards that are needed soon brought close; return all that are wanted."""
        wanted = self.plan.shards_ahead(step)
        mine = [shard for shard in wanted.tolist() if shard % readers == reader and shard not in asked]
        if mine:
            self.plan.catalogue.prefetch(np.array(mine, dtype=np.int64))
        return set(wanted.tolist())

    def batch(self, step: int, slot: Slot | None = None) -> dict[str, Any]:
        """Make this rank's part of one global batch.

        Args:
            step: number of the batch.
            slot: where its pictures go; they are then :class:`datamodules.picture_ring.InRing` in what is returned.

        Returns:
            image uint8 [B, 3, H, W], channels last in memory; tokens int64 [B, L]; caption list of B; source, group,
            caption_id int64 [B]; key list of B; twin uint8 [T, 3, H, W] with twin_index int64 [T] (row of the anchor)
            and twin_source int64 [T], twin_rows the same rows as a list, for who must not wait for a device; skipped: a
            :class:`Skip` for every picture that was replaced because it could not be read. Where captions repeat much
            (class prompts), distinct int64 [U] and distinct_of int64 [B] too, see `_distinct`.
        """
        plan, catalogue = self.plan, self.plan.catalogue
        size = plan.spec.batch_size // self.world_size
        slots = plan.slots(step)
        mine = slice(self.rank * size, (self.rank + 1) * size)
        pictures, samples, captions = (x[mine].tolist() for x in (slots.picture, slots.sample, slots.caption))
        wanted_twins = slots.twin[mine].tolist()
        sources = catalogue.picture_source[slots.picture[mine]].tolist()
        places = catalogue.places(slots.picture[mine])
        with_twin = np.flatnonzero(slots.twin[mine] >= 0)
        twin_places = dict(zip(with_twin.tolist(), catalogue.places(slots.twin[mine][with_twin]), strict=True))
        crops = self._draw_crops(_AUGMENT, slots.sample[mine], slots.epoch[mine])
        images, sent_images = self._room(size, slot)
        twins, sent_twins = self._room(len(with_twin), slot)
        twin_rows: list[int] = []
        twin_sources: list[int] = []
        texts: list[str] = []
        names: list[str] = []
        skipped: list[Skip] = []
        for row in range(size):
            picture, sample, caption, twin = pictures[row], samples[row], captions[row], wanted_twins[row]
            place = places[row]
            for attempt in range(MAX_SPARES):
                name = catalogue.name(picture)
                try:
                    text = self._caption(picture, sample, caption)
                    self._put(picture, place, name, crops[row], images[row])
                    break
                except SampleError as error:
                    skipped.append(Skip(error.kind, str(error)))
                    position = self.rank * size + row
                    picture, sample, caption = plan.spare(step, position, attempt, sources[row])
                    (place,) = catalogue.places(np.array([picture]))
                    # The twin belongs to the picture that was given up.
                    twin = -1
            else:
                raise DataError(f"{MAX_SPARES} pictures in a row could not be read, the last: {skipped[-1].message}")
            pictures[row], samples[row] = picture, sample
            names.append(name)
            texts.append(text)
            if twin >= 0:
                try:
                    name = catalogue.name(twin)
                    self._put(twin, twin_places[row], name, crops[row], twins[len(twin_rows)])
                    twin_rows.append(row)
                    twin_sources.append(int(catalogue.picture_source[twin]))
                except SampleError as error:
                    skipped.append(Skip(error.kind, str(error)))
        batch = {
            "image": sent_images or as_tensor(images),
            "twin": sent_twins.first(len(twin_rows)) if sent_twins else as_tensor(twins[: len(twin_rows)]),
            "twin_index": torch.tensor(twin_rows, dtype=torch.int64),
            "twin_source": torch.tensor(twin_sources, dtype=torch.int64),
            "twin_rows": twin_rows,
            "source": torch.tensor(sources, dtype=torch.int64),  # a spare is of the same
            "group": torch.from_numpy(catalogue.group[samples].astype(np.int64)),
            "caption_id": torch.tensor([string_id(text) for text in texts], dtype=torch.int64),
            "caption": texts,
            "key": names,
            "skipped": skipped,
        }
        if self.tokenize is not None:
            batch |= {"tokens": self.tokenize(texts)} | _distinct(texts)
        return batch

    def _put(self, picture: int, place: Place, name: str, crop: Crop | None, out: Any) -> None:
        """Write a picture, as training wants it, to its room."""
        decode_and_fit(place.read(), self.image_size, name, crop, out)

    def _room(self, count: int, slot: Slot | None) -> tuple[npt.NDArray[Any], InRing | None]:
        """Room for some pictures, and what is sent in their place."""
        if slot is None:
            return np.empty((count, *self.image_size, 3), dtype=np.uint8), None
        return slot.take(count)

    def _store_counts(self) -> Counter[str]:
        return self.plan.catalogue.store_counts()

    def _draw_crops(self, purpose: int, samples: Any, epochs: Any) -> list[Crop | None]:
        """Crops of a batch: pure in (seed, sample, epoch), so an anchor and its twin are cropped alike."""
        if self.augment.is_identity:
            return [None] * len(samples)
        draws = uniform(self.plan.spec.seed, purpose, samples[:, None], epochs[:, None], np.arange(4))
        return [self.augment.draw(u) for u in draws]

    def _caption(self, picture: int, sample: int, caption: int) -> str:
        # A twin from another sample is described by the photo that it stands in for.
        text = self.plan.caption(picture, sample, caption)
        if text is None:
            raise SampleError("no caption", f"{self.plan.catalogue.key(sample)}: has no caption")
        return text


def _distinct(texts: list[str]) -> dict[str, Tensor]:
    """The first rows of captions that differ [U], and which of these each row's caption is [B].

    Only where it pays well: a number of rows that differs from step to step costs a compiled tower dearly.

    Example:
        >>> {name: rows.tolist() for name, rows in _distinct(["a", "b", "a", "a"]).items()}
        {'distinct': [0, 1], 'distinct_of': [0, 1, 0, 0]}
        >>> _distinct(["a", "b", "c", "a"])
        {}
    """
    first: dict[str, int] = {}
    which = [first.setdefault(text, len(first)) for text in texts]
    if 2 * len(first) > len(texts):
        return {}
    rows = [texts.index(text) for text in first]
    return {"distinct": torch.tensor(rows), "distinct_of": torch.tensor(which)}


def as_tensor(pictures: npt.NDArray[Any]) -> Tensor:
    """[B, 3, H, W] over memory that is [B, H, W, 3]: what convolutions like best, and nothing is copied.

    Rows of features [B, D] stay as they are.
    """
    tensor = torch.from_numpy(pictures)
    return tensor if tensor.ndim == 2 else tensor.permute(0, 3, 1, 2)
