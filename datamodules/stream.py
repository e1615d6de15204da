"""From slots to batches: read, decode, collate; the same batches for every number of ranks and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.decode import Augmentation, Picture, decode_and_fit
from datamodules.errors import DataError
from datamodules.hashing import string_id, uniform
from datamodules.plan import MixingPlan

_AUGMENT = 101
_MAX_SPARES = 20

Tokenize = Callable[[list[str]], Tensor]


@dataclass
class MixedStream(IterableDataset[dict[str, Any]]):
    """Endless device batches of one rank, from a step on.

    Worker w of n makes every n-th batch whole, so the loader hands them out in the plan's order.

    Attributes:
        plan: which picture stands where.
        image_size: height and width of the pictures.
        tokenize: captions to int64 [B, L]; None leaves tokens out.
        augment: training crops, drawn per slot.
        rank: of this process.
        world_size: processes; must divide the global batch.
        start: global batch to begin with.
    """

    plan: MixingPlan
    image_size: tuple[int, int]
    tokenize: Tokenize | None = None
    augment: Augmentation = field(default_factory=Augmentation)
    rank: int = 0
    world_size: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        """Check that ranks share the batch evenly."""
        if self.plan.spec.batch_size % self.world_size:
            raise DataError(
                f"data.batch_size = {self.plan.spec.batch_size} is the global batch and must be a multiple of the "
                f"{self.world_size} processes"
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield device batches from ``start`` on, without end."""
        info = get_worker_info()
        first, stride = (0, 1) if info is None else (info.id, info.num_workers)
        step = self.start + first
        while True:
            yield self.batch(step)
            step += stride

    def batch(self, step: int) -> dict[str, Any]:
        """Make this rank's part of one global batch.

        Returns:
            image uint8 [B, 3, H, W]; tokens int64 [B, L]; caption list of B; source, group, caption_id int64 [B];
            key list of B; twin uint8 [T, 3, H, W] with twin_index int64 [T] (row of the anchor) and twin_source
            int64 [T]; skipped: messages about pictures that were replaced because they could not be read.
        """
        plan, catalogue = self.plan, self.plan.catalogue
        size = plan.spec.batch_size // self.world_size
        slots = plan.slots(step)
        images, twins, twin_rows, twin_sources, skipped = [], [], [], [], []
        captions, sources, groups, keys = [], [], [], []
        for row in range(size):
            position = self.rank * size + row
            picture, sample, caption = (
                int(slots.picture[position]),
                int(slots.sample[position]),
                int(slots.caption[position]),
            )
            twin = int(slots.twin[position])
            for attempt in range(_MAX_SPARES):
                try:
                    image, text = self._picture(picture, step, position), self._caption(picture, sample, caption)
                    break
                except DataError as error:
                    skipped.append(str(error))
                    picture, sample, caption = plan.spare(step, position, attempt)
                    # The twin belongs to the picture that was given up.
                    twin = -1
            else:
                raise DataError(f"{_MAX_SPARES} pictures in a row could not be read, the last: {skipped[-1]}")
            if twin >= 0:
                try:
                    twins.append(self._picture(twin, step, position))
                    twin_rows.append(row)
                    twin_sources.append(int(catalogue.picture_source[twin]))
                except DataError as error:
                    skipped.append(str(error))
            images.append(image)
            captions.append(text)
            sources.append(int(catalogue.picture_source[picture]))
            groups.append(int(catalogue.group[sample]))
            keys.append(catalogue.name(picture))
        batch = {
            "image": _stack(images, self.image_size),
            "twin": _stack(twins, self.image_size),
            "twin_index": torch.tensor(twin_rows, dtype=torch.int64),
            "twin_source": torch.tensor(twin_sources, dtype=torch.int64),
            "source": torch.tensor(sources, dtype=torch.int64),
            "group": torch.tensor(groups, dtype=torch.int64),
            "caption_id": torch.tensor([string_id(text) for text in captions], dtype=torch.int64),
            "caption": captions,
            "key": keys,
            "skipped": skipped,
        }
        if self.tokenize is not None:
            batch["tokens"] = self.tokenize(captions)
        return batch

    def _picture(self, picture: int, step: int, position: int) -> Picture:
        catalogue = self.plan.catalogue
        slot = step * self.plan.spec.batch_size + position
        # Drawn per slot, not per picture: an anchor and its twin are cropped alike.
        crop = self.augment.draw(uniform(self.plan.spec.seed, _AUGMENT, slot, np.arange(4)))
        return decode_and_fit(catalogue.read(picture), self.image_size, catalogue.name(picture), crop)

    def _caption(self, picture: int, sample: int, caption: int) -> str:
        description = self.plan.catalogue.sample(sample)
        captions = description.captions
        view = self.plan.catalogue.view_names[self.plan.catalogue.picture_view[picture]]
        if view and self.plan.catalogue.picture_sample[picture] == sample:
            captions = description.views[view].captions or captions
        if not captions:
            raise DataError(f"{description.key}: has no caption")
        return captions[caption % len(captions)]


def _stack(pictures: list[Picture], size: tuple[int, int]) -> Tensor:
    if not pictures:
        return torch.empty((0, 3, *size), dtype=torch.uint8)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
