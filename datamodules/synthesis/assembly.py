"""Puts a shard together of a photo's old views and its new ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from datamodules.errors import DataError
from datamodules.reencode import Encoded, RawImage, decode_rgb
from datamodules.sample import View
from datamodules.synthesis.geometry import Size, common_size, cut
from datamodules.synthesis.new_set import NewSet
from datamodules.synthesis.planning import BROKEN
from datamodules.synthesis.prompts import HELD_OUT
from datamodules.synthesis.settings import TwinSettings
from datamodules.synthesis.work import Counts, Plan, ShardWork, png
from datamodules.writer import ShardWriter

log = logging.getLogger(__name__)


class Assembler:
    """Writes finished shards into the new set.

    Args:
        new_set: the set, and the old samples that it is made of.
        settings: what decides the data.
    """

    def __init__(self, new_set: NewSet, settings: TwinSettings) -> None:
        self.set, self.photos, self.settings = new_set, new_set.photos, settings

    def assemble(self, shard: str, work: ShardWork, plans: dict[str, Plan]) -> None:
        """Write a shard and note that it is done.

        Args:
            shard: its name.
            work: on it, with every picture there; its lock is held.
            plans: of all of its samples, by key.

        Raises:
            DataError: if the output cannot be written.
        """
        counts = Counts()

        def fill(writer: ShardWriter) -> None:
            for row in self.photos.rows(shard):
                self._write_sample(writer, row, plans[self.photos.key(row)], work, counts)

        self.set.write_shard(shard, work, counts, self.settings.image_format, fill)

    def _write_sample(self, writer: ShardWriter, row: int, plan: Plan, work: ShardWork, counts: Counts) -> None:
        sample = self.photos.index.sample(row)
        if plan.skip:
            counts.skip(plan.skip)
        results = {} if plan.skip else {one.name: work.load(sample.key, one.name) for one in self.settings.generators}
        pictures: dict[str, RawImage] = {}
        views: dict[str, View] = {}
        twins: list[Size] = []
        for name, result in results.items():
            counts.made += result.made
            counts.blanked += result.blanked
            counts.failed += len(result.failed)
            if not result.chosen:
                counts.skip(f"no twin by {name}")
            for one in result.chosen:
                view = name + one.suffix
                views[view] = View(name, one.captions, {"synthesis": one.meta})
                pictures[view] = image = one.image()
                twins.append(image.size)
        for view, data in self.photos.views(row).items():
            if isinstance(data, bytes):
                views[view], pictures[view] = sample.views[view], data
            else:
                counts.skip("broken view")
        try:
            encoded = self._encode(sample.key, self.photos.picture(row), pictures, plan.size, twins)
        except DataError as error:
            log.warning("%s", error)
            if plan.skip != BROKEN:
                counts.skip(BROKEN)
            return
        meta, captions = sample.meta, sample.captions
        if plan.held_out is not None:
            meta = meta | {
                HELD_OUT: {"slot": plan.slot, "caption": plan.held_out, "prompt_captions": list(plan.used)}
            }  # fmt: skip
            if self.settings.prompts.queries == "held-out":
                captions = (plan.held_out,)
        anchor = encoded.pop("")
        ordered = {view: encoded[view] for view in sorted(encoded)}
        writer.write(
            replace(sample, captions=captions, views={view: views[view] for view in ordered}, meta=meta),
            anchor,
            ordered,
        )

    def _encode(
        self,
        key: str,
        anchor: bytes,
        pictures: dict[str, RawImage],
        photo: Size | None,
        twins: Sequence[Size],
    ) -> dict[str, Encoded]:
        """Bring the photo ("") and its views into the form of the set."""
        image_format = self.settings.image_format
        matched = self.settings.geometry == "matched" and photo is not None and bool(twins)
        encoded: dict[str, Encoded] = {}
        if self.settings.codec == "original":
            # The photo's bytes stay, so the twins take its size, whatever it is.
            encoded[""] = image_format.encode(anchor, f"sample {key!r}")
            for view, picture in pictures.items():
                if isinstance(picture, Image.Image):
                    picture = png(cut(picture, photo) if matched and photo is not None else picture)
                encoded[view] = image_format.encode(picture, f"sample {key!r}, view {view!r}")
            return encoded
        size = common_size(photo, twins) if matched and photo is not None else None
        for view, picture in {"": anchor, **pictures}.items():
            where = f"sample {key!r}" + (f", view {view!r}" if view else "")
            if size is not None:
                picture = cut(picture if isinstance(picture, Image.Image) else decode_rgb(picture, where), size)
            encoded[view] = image_format.encode(picture, where)
        return encoded
