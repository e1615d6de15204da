"""A process that writes on samples' pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.lettering.overlay import Lettering, Pixels, TooSmallError, write
from datamodules.overlaying.planning import PARROTING, OverlayPlan
from datamodules.overlaying.settings import WORD, OverlaySettings
from datamodules.reencode import Encoded, decode_rgb
from datamodules.sample import Sample, View
from datamodules.synthesis.photos import Photos
from datamodules.text_spans import META, PictureText, Span

log = logging.getLogger(__name__)

OVERLAY, CLEAN = "overlay", "clean"
WRITTEN = "written"  # the engine of text that nobody had to read, and the anchor's record of it
SMALL, BROKEN, BROKEN_VIEW = "the picture is too small for the word", "broken picture", "broken view"


@dataclass
class Written:
    """A sample that was written on.

    Attributes:
        sample: as it is from now on; None where its picture is broken.
        anchor: its picture.
        views: pictures of its views by name.
        made: pictures that were written on.
        skipped: why something was not made, each time that it was not.
    """

    sample: Sample | None
    anchor: Encoded | None = None
    views: dict[str, Encoded] = field(default_factory=dict)
    made: int = 0
    skipped: list[str] = field(default_factory=list)


class SampleWriter:
    """Writes on the pictures of samples.

    Args:
        photos: whose samples they are.
        settings: what decides the data.
    """

    def __init__(self, photos: Photos, settings: OverlaySettings) -> None:
        self.photos, self.settings = photos, settings

    def __call__(self, row: int, plan: OverlayPlan) -> Written:
        """Carry out a plan; what cannot be done is noted, and the rest is done."""
        key = self.photos.key(row)
        try:
            sample = self.photos.index.sample(row)
            picture = np.asarray(decode_rgb(self.photos.picture(row), f"sample {key!r}"))
            known = PictureText.from_meta(sample.meta, f"sample {key!r}")
        except DataError as error:
            log.warning("%s", error)
            return Written(None, skipped=[BROKEN])
        skipped = [plan.skip] if plan.skip else []
        views: dict[str, View] = {}
        pictures: dict[str, Any] = {}
        for name, data in self.photos.views(row).items():
            if data is None:
                skipped.append(BROKEN_VIEW)
            else:
                views[name], pictures[name] = sample.views[name], data
        made, meta, anchor, captions = 0, sample.meta, picture, sample.captions
        if plan.anchor is not None:
            changed = self._write(picture, plan.anchor)
            if changed is None:
                skipped.append(SMALL)
            else:
                anchor, span = changed
                made += 1
                if self.settings.caption is not None and plan.kind == PARROTING:
                    captions = (self.settings.caption.replace(WORD, str(plan.word)),)
                meta = meta | {
                    "written": {"kind": plan.kind, "word": plan.word},
                    "lettering": plan.anchor.to_json(),
                    META: _text(picture, known, span).to_json(),
                }
                if self.settings.keep_clean:
                    before = {} if known is None else {META: known.to_json()}
                    views[CLEAN], pictures[CLEAN] = View(sample.source, None, {"edit": CLEAN} | before), picture
        if plan.view is not None:
            changed = self._write(picture, plan.view)
            if changed is None:
                skipped.append(SMALL)
            else:
                made += 1
                pictures[OVERLAY] = changed[0]
                views[OVERLAY] = View(
                    sample.source,
                    None,
                    {
                        "edit": OVERLAY,
                        "word": plan.view_word,
                        META: _text(picture, known, changed[1]).to_json(),
                        "lettering": plan.view.to_json(),
                    },
                )
        encode = self.settings.image_format.encode
        encoded = {}
        for name, pixels in sorted(pictures.items()):
            try:
                encoded[name] = encode(pixels, f"sample {key!r}, view {name!r}")
            except DataError as error:
                log.warning("%s", error)
                skipped.append(BROKEN_VIEW)
        # The anchor from its pixels, too, so that all pictures have been through one decoder and one encoder.
        return Written(
            replace(sample, captions=captions, views={name: views[name] for name in encoded}, meta=meta),
            encode(anchor, f"sample {key!r}"),
            encoded,
            made,
            skipped,
        )

    def _write(self, picture: Pixels, lettering: Lettering) -> tuple[Pixels, Span] | None:
        try:
            return write(picture, lettering, least=self.settings.min_letters)
        except TooSmallError:
            return None


def _text(picture: Pixels, known: PictureText | None, span: Span) -> PictureText:
    """What a picture says after writing on it: what it is known to have said before as well."""
    height, width = picture.shape[:2]
    if known is None:
        return PictureText((width, height), (span,), WRITTEN)
    engine = known.engine if WRITTEN in known.engine.split("+") else f"{known.engine}+{WRITTEN}"
    return PictureText((width, height), (*known.spans, span), engine)


Task = tuple[int, OverlayPlan]
"""A sample's number in the index, and what is written on it."""


class GroupWriter:
    """Writes on some samples at a time; made in the process that does it.

    Args:
        index: of the photos.
        settings: what decides the data.
        threads: of OpenCV; None leaves them as they are.
    """

    def __init__(self, index: ShardIndex, settings: OverlaySettings, threads: int | None) -> None:
        if threads is not None:
            cv2.setNumThreads(threads)
        self._write = SampleWriter(Photos(index), settings)

    def __call__(self, tasks: Sequence[Task]) -> list[Written]:
        """Write on samples."""
        return [self._write(row, plan) for row, plan in tasks]
