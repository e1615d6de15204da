"""The mixing plan as a table: what stands in every slot of a range of steps, without reading a shard."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datamodules.catalogue import Catalogue, Codes, Ints
from datamodules.errors import DataError
from datamodules.plan import MixingPlan

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("position", pa.int32()),
        ("rank", pa.int32()),
        ("row", pa.int32()),
        ("key", pa.string()),
        ("view", pa.string()),
        ("source", pa.string()),
        ("caption", pa.int32()),
        ("caption_key", pa.string()),
        ("twin_key", pa.string()),
        ("twin_view", pa.string()),
        ("twin_source", pa.string()),
        ("shard", pa.string()),
        ("epoch", pa.int64()),
    ]
)


@dataclass(frozen=True)
class PlannedSlots:
    """Slots of several steps, one after the other: N of them.

    Attributes:
        step: [N] global batch.
        position: [N] place in it.
        picture: [N] picture id of the anchor.
        sample: [N] sample whose captions describe it.
        caption: [N] which of its captions.
        twin: [N] picture id of the twin, -1 for none.
        epoch: [N] pass over its source's pictures.
    """

    step: Ints
    position: Ints
    picture: Ints
    sample: Ints
    caption: Ints
    twin: Ints
    epoch: Ints

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.step)

    def where(self, keep: npt.NDArray[np.bool_]) -> PlannedSlots:
        """Keep the slots that a mask [N] marks."""
        return PlannedSlots(*(getattr(self, field.name)[keep] for field in fields(self)))


@dataclass(frozen=True)
class Named:
    """What a key stands for: pictures, and the samples whose captions it holds.

    Attributes:
        pictures: [n] picture ids.
        samples: [m] sample ids; none where the key names a view.
    """

    pictures: Ints
    samples: Ints

    @classmethod
    def of(cls, catalogue: Catalogue, key: str) -> Named:
        """Look a sample's key, or ``key.view``, up in every shard set.

        Raises:
            DataError: where no shard set holds it.
        """
        samples = _samples_of(catalogue, key)
        pictures = [np.flatnonzero(np.isin(catalogue.picture_sample, samples))]
        for code, view in enumerate(catalogue.view_names):
            if view and key.endswith(f".{view}"):
                owners = _samples_of(catalogue, key.removesuffix(f".{view}"))
                pictures.append(
                    np.flatnonzero(np.isin(catalogue.picture_sample, owners) & (catalogue.picture_view == code))
                )
        found = cls(np.concatenate(pictures), samples)
        if not len(found.pictures):
            raise DataError(f"no shard of data.train holds a sample {key!r}; keys are written as in a batch's `key`")
        return found

    def marks(self, slots: PlannedSlots) -> npt.NDArray[np.bool_]:
        """Which slots use it, as anchor, as twin or for its captions: [N] bool."""
        shown = np.isin(slots.picture, self.pictures) | np.isin(slots.twin, self.pictures)
        return shown | np.isin(slots.sample, self.samples)


def planned_slots(plan: MixingPlan, steps: range) -> PlannedSlots:
    """Fill the slots of a range of steps.

    Args:
        plan: which picture stands where.
        steps: global batches, from 0; holds all their slots at once, so a long range wants several calls.
    """
    batches = [plan.slots(step) for step in steps]
    size = plan.spec.batch_size
    columns = [
        np.concatenate([getattr(slots, name) for slots in batches] or [np.empty(0, dtype=np.int64)])
        for name in ("picture", "sample", "caption", "twin", "epoch")
    ]
    return PlannedSlots(
        np.repeat(np.asarray(steps, dtype=np.int64), size), np.tile(np.arange(size), len(steps)), *columns
    )


def plan_table(plan: MixingPlan, steps: range, world_size: int = 1, *, captions: bool = False) -> pa.Table:
    """Tell what stands in every slot of a range of steps.

    Args:
        plan: which picture stands where.
        steps: global batches, from 0.
        world_size: ranks that share a batch.
        captions: add the captions' text.

    Returns:
        A row for each slot, in order, as :func:`slots_table` describes.
    """
    return slots_table(plan, planned_slots(plan, steps), world_size, captions=captions)


def slots_table(plan: MixingPlan, slots: PlannedSlots, world_size: int = 1, *, captions: bool = False) -> pa.Table:
    """Name what the slots hold.

    Args:
        plan: that filled the slots.
        slots: N of them.
        world_size: ranks that share a batch.
        captions: add the captions' text.

    Returns:
        N rows with ``step``, ``position`` in the global batch, ``rank`` and ``row`` in its device batch; the anchor's
        ``key``, ``view`` (null where the picture is its sample's own) and ``source``; ``caption``, a number among the
        captions of the sample ``caption_key``; the twin's key, view and source, null where there is none; the anchor's
        ``shard``; ``epoch``, how often its pool had been gone through; and, if asked for, ``caption_text``.

    Raises:
        DataError: if the ranks cannot share a batch evenly.
    """
    size = plan.spec.batch_size
    if world_size < 1 or size % world_size:
        raise DataError(
            f"data.batch_size = {size} is the global batch and must be a multiple of the {world_size} processes"
        )
    catalogue = plan.catalogue
    each = size // world_size
    twin_key, twin_view, twin_source = _named(catalogue, slots.twin)
    key, view, source = _named(catalogue, slots.picture)
    columns = {
        "step": slots.step,
        "position": slots.position,
        "rank": slots.position // each,
        "row": slots.position % each,
        "key": key,
        "view": view,
        "source": source,
        "caption": slots.caption,
        "caption_key": _keys(catalogue, slots.sample),
        "twin_key": twin_key,
        "twin_view": twin_view,
        "twin_source": twin_source,
        "shard": _shards(catalogue, slots.picture),
        "epoch": slots.epoch,
    }
    table = pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
    if captions:
        table = table.append_column("caption_text", pa.array(_texts(plan, slots), pa.string()))
    return table


def _samples_of(catalogue: Catalogue, key: str) -> Ints:
    keys = (name for index in catalogue.indexes for name in index.keys)
    return np.array([sample for sample, name in enumerate(keys) if name == key], dtype=np.int64)


def _keys(catalogue: Catalogue, samples: Codes) -> list[str]:
    return [catalogue.key(sample) for sample in samples.tolist()]


def _named(catalogue: Catalogue, pictures: Ints) -> tuple[list[str | None], list[str | None], list[str | None]]:
    """Keys, views and sources of pictures; None where there is no picture."""
    held = pictures >= 0
    keys = iter(_keys(catalogue, catalogue.picture_sample[pictures[held]]))
    views, sources = catalogue.picture_view[pictures].tolist(), catalogue.picture_source[pictures].tolist()
    here = held.tolist()
    return (
        [next(keys) if held else None for held in here],
        [catalogue.view_names[code] or None if held else None for code, held in zip(views, here, strict=True)],
        [catalogue.sources[code] if held else None for code, held in zip(sources, here, strict=True)],
    )


def _shards(catalogue: Catalogue, pictures: Ints) -> list[str]:
    shards = catalogue.sample_shard[catalogue.picture_sample[pictures]]
    names = {shard: catalogue.shard_name(shard) for shard in np.unique(shards).tolist()}
    return [names[shard] for shard in shards.tolist()]


def _texts(plan: MixingPlan, slots: PlannedSlots) -> list[str | None]:
    columns = (slots.picture.tolist(), slots.sample.tolist(), slots.caption.tolist())
    return [plan.caption(*row) for row in zip(*columns, strict=True)]
