"""Reads the text of a sample, and fills the polygons that were planned for it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from PIL import Image

from datamodules.decorrelation.inpaint import Inpainter
from datamodules.errors import DataError, SampleError
from datamodules.hashing import mix, string_id
from datamodules.ocr.cache import CachedReader, decoded
from datamodules.ocr.polygons import quads_mask
from datamodules.reencode import decode_rgb
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.work import Chosen, Result, png
from datamodules.text_removal.planning import Erasure
from datamodules.text_removal.settings import EraseSettings
from datamodules.text_spans import REMOVED, PictureText

log = logging.getLogger(__name__)

NO_DONOR = "no other picture of the shard has text whose polygons could be borrowed"
BROKEN = "broken picture"
UNEDITED = b""
"""Stands for the pixels of a view that is the picture itself, so that they are neither kept nor encoded again."""


class TextEditor:
    """Reads and edits samples, one at a time; the same everywhere.

    Args:
        photos: the samples.
        settings: what decides the data.
        reader: finds text; None where the samples' meta has it.
        fill: fills polygons.
    """

    def __init__(self, photos: Photos, settings: EraseSettings, reader: CachedReader | None, fill: Inpainter) -> None:
        self.photos, self.settings, self.reader, self.fill = photos, settings, reader, fill

    def read(self, row: int) -> PictureText | None:
        """The text of a sample's picture; None, after a warning, where the picture cannot be read.

        Raises:
            DataError: naming the sample, for spans in its meta that cannot be used; and where the engine fails.
        """
        sample = self.photos.index.sample(row)
        where = f"sample {sample.key!r}"
        try:
            data = self.photos.picture(row)
            if self.reader is not None:
                return self.reader.read_encoded(data, where)
            size = decoded(data, where).size
        except SampleError as error:  # not other errors: an engine that fails will fail at every picture
            log.warning("%s; left out", error)
            return None
        known = PictureText.from_meta(sample.meta, where)
        if known is None:
            return PictureText(size, (), "written")
        if known.size != size:
            raise DataError(
                f"{where}, field 'text': is for a picture of {known.size[0]} x {known.size[1]} pixels, the sample's "
                f"has {size[0]} x {size[1]}; give an OCR engine (--reader rapidocr)"
            )
        return known

    def edit(self, row: int, text: PictureText, plan: tuple[Erasure, ...]) -> Result:
        """Make a sample's new views.

        Args:
            row: the sample's number in the index.
            text: of its picture.
            plan: what to fill.

        Returns:
            The views (each suffix is a view's whole name; :data:`UNEDITED` for one that is the picture), and as
            ``failed`` one "view: why" for each that is missing.
        """
        key = self.photos.key(row)
        picture = np.asarray(decode_rgb(self.photos.picture(row), key))
        chosen, failed = [], []
        for erasure in plan:
            if len(erasure.quads) < erasure.found:
                failed.append(f"{erasure.view}: {NO_DONOR}")
                continue
            mask = quads_mask(erasure.quads, picture.shape[0], picture.shape[1], self.settings.dilation)
            seed = int(mix(self.settings.seed, string_id(key), string_id(erasure.view)))
            data = UNEDITED
            if erasure.quads:
                data = png(Image.fromarray(self.fill(picture, mask, seed)))
            chosen.append(Chosen(erasure.view, self._meta(erasure, text, float(mask.mean())), data))
        return Result(tuple(chosen), made=len(chosen), failed=tuple(failed))

    def _meta(self, erasure: Erasure, text: PictureText, area: float) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "edit": erasure.view,
            "edited": bool(erasure.quads),
            "found": erasure.found,
            "engine": text.engine,
            "mask": {"area": area, "dilation": self.settings.dilation},
        }
        if erasure.quads:
            meta["fill"] = self.fill.describe()
        if not erasure.view.startswith("control-"):
            # Not as its text: that would say that it stands there. What is left is not read again, and not told.
            return meta | {REMOVED: PictureText(text.size, erasure.spans, text.engine).to_json()}
        polygons = [[[round(x, 1), round(y, 1)] for x, y in quad] for quad in erasure.quads]
        return meta | {"polygons": polygons, "donors": list(erasure.donors)}
