"""Makes a set with text taken out: reads every picture, plans polygons, fills them. A kill loses no finished sample."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.decorrelation.inpaint import Inpainter
from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.ocr.cache import CachedReader, TextCache
from datamodules.ocr.engine import TextReader
from datamodules.reencode import Encoded, RawImage
from datamodules.sample import Sample, View
from datamodules.synthesis.new_set import NewSet
from datamodules.synthesis.part import Part
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.progress import Progress
from datamodules.synthesis.work import Counts, Result, ShardWork, present
from datamodules.text_removal.crew import Crew
from datamodules.text_removal.editing import BROKEN, UNEDITED
from datamodules.text_removal.planning import ErasePlanner
from datamodules.text_removal.report import write_report
from datamodules.text_removal.settings import VIEWS, EraseSettings
from datamodules.text_spans import META, PictureText
from datamodules.writer import ShardWriter

log = logging.getLogger(__name__)

EDITS = "erased"  # the name under which a sample's pictures are kept


@dataclass
class EraseOutcome:
    """What a job did.

    Attributes:
        counts: of the part's shards, whoever made them; ``skipped`` counts samples and views by why they are missing.
        index: of the whole set, where it is complete.
        missing: shards of other parts that are not there yet.
    """

    counts: Counts
    index: ShardIndex | None = None
    missing: list[str] = field(default_factory=list)


class EraseJob:
    """One process's part of taking text out of a set.

    Args:
        index: of the pictures' shards.
        out: folder of the new set; holds the old samples, their old views, and the new ones.
        settings: what decides the data.
        make_fill: makes what fills polygons; called in each worker, so it must be picklable.
        reader: finds text; None where the settings say that it is known.
        cache: folder in which texts are kept; None keeps them in the set's work folder.
        part: of the shards.
        workers: processes that read and edit; 1 does so in this one.
        on_progress: called after each picture read: that is what takes long.

    Raises:
        DataError: if the set has such views already, no text where it should be known, or the output was begun
            otherwise.
    """

    def __init__(
        self,
        index: ShardIndex,
        out: str | Path,
        settings: EraseSettings,
        make_fill: Callable[[], Inpainter],
        *,
        reader: TextReader | None = None,
        cache: str | Path | None = None,
        part: Part = Part(),  # noqa: B008 - immutable
        workers: int = 1,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        if workers < 1:
            raise DataError(f"--workers {workers}: must be 1 or more")
        if (reader is None) != settings.is_known:
            raise DataError("--reader: an engine, or the text that is known; the settings say the other")
        if settings.limit is not None:
            index = index.select(np.arange(min(settings.limit, len(index)))).without_empty_shards()
        if taken := sorted(set(index.view_names) & set(VIEWS)):
            raise DataError(
                f"{index.store.location}: has views of erased text already ({taken[0]}); give the set without them"
            )
        self.photos, self.settings = Photos(index), settings
        self.out = Path(out).expanduser()
        self.set = NewSet(self.photos, self.out)
        self.make_fill, self.reader, self.cache = make_fill, reader, cache
        self.workers, self.on_progress = workers, on_progress
        self.progress = Progress()
        self._mine = part.of(self.photos.shards)

    def run(self) -> EraseOutcome:
        """Do this part; where it completes the set, write the set's index and its report.

        Raises:
            DataError: if something fails that would fail for every picture.
        """
        self.set.begin()
        record = self.settings.to_json() | {"photos": self.set.digest_of_photos()}
        with present(self.set.work, record, self.out), self._crew() as crew:
            self.set.make_each(self._mine, partial(self._make, crew))
            outcome = EraseOutcome(self.set.counts_of(self._mine), missing=self.set.missing())
            if not outcome.missing:
                outcome.index = self.finish()
            return outcome

    def finish(self) -> ShardIndex:
        """Write the index and the report of the whole set.

        Raises:
            DataError: if shards are missing.
        """
        index = self.set.finish()
        write_report(self.out, index, self.set.counts_of(self.photos.shards), self.settings)
        return index

    def _crew(self) -> Crew:
        reader = self.reader and CachedReader(self.reader, TextCache(self.cache or self.set.work))
        return Crew(self.workers, (self.photos.index, self.settings, reader, self.make_fill))

    # One shard -------------------------------------------------------------------------------------------------------

    def _make(self, crew: Crew, name: str, work: ShardWork) -> None:
        rows = self.photos.rows(name)
        self.progress.total += len(rows)
        self.progress.begun = self.progress.begun or time.monotonic()
        texts = self._read(rows, crew)
        self._edit(work, rows, texts, crew)
        self._assemble(name, work, rows, texts)

    def _read(self, rows: Sequence[int], crew: Crew) -> dict[int, PictureText]:
        texts: dict[int, PictureText] = {}
        for row, text in crew.read(rows):
            if text is not None:
                texts[row] = text
            self.progress.done += 1
            self.progress.made += 1
            self.on_progress(self.progress)
        return {row: texts[row] for row in rows if row in texts}

    def _edit(self, work: ShardWork, rows: Sequence[int], texts: dict[int, PictureText], crew: Crew) -> None:
        captions = {row: self.photos.index.sample(row).captions for row in texts}
        planner = ErasePlanner(texts, captions, {row: self.photos.key(row) for row in texts}, self.settings)
        todo = [row for row in rows if row in texts and not work.has(self.photos.key(row), EDITS)]
        for row, result in crew.edit([(row, texts[row], planner.plan(row)) for row in todo]):
            work.save(self.photos.key(row), EDITS, result)

    def _assemble(self, name: str, work: ShardWork, rows: Sequence[int], texts: dict[int, PictureText]) -> None:
        counts = Counts()

        def fill(writer: ShardWriter) -> None:
            for row in rows:
                if row in texts:
                    self._write(writer, row, texts[row], work.load(self.photos.key(row), EDITS), counts)
                else:
                    counts.skip(BROKEN)

        self.set.write_shard(name, work, counts, self.settings.image_format, fill)

    def _write(self, writer: ShardWriter, row: int, text: PictureText, result: Result, counts: Counts) -> None:
        sample = self.photos.index.sample(row)
        counts.made += result.made
        for failure in result.failed:
            counts.skip(failure.partition(": ")[2])
        views: dict[str, View] = {}
        pictures: dict[str, RawImage] = {}
        for view, data in self.photos.views(row).items():
            if data is None:
                counts.skip("broken view")
            else:
                views[view], pictures[view] = sample.views[view], data
        for one in result.chosen:
            views[one.suffix] = View(sample.source, one.captions, one.meta)
            if one.png != UNEDITED:
                pictures[one.suffix] = one.image()
        meta = sample.meta if self.settings.is_known else sample.meta | {META: text.to_json()}
        if result.failed:
            meta = meta | {"not_erased": list(result.failed)}
        try:
            encoded = {view: self._encode(sample, view, picture) for view, picture in pictures.items()}
            anchor = self._encode(sample, "", self.photos.picture(row))
            encoded |= {one.suffix: anchor for one in result.chosen if one.png == UNEDITED}
        except DataError as error:
            log.warning("%s; left out", error)
            counts.skip(BROKEN)
            return
        writer.write(
            replace(sample, views={view: views[view] for view in sorted(encoded)}, meta=meta),
            anchor,
            dict(sorted(encoded.items())),
        )

    def _encode(self, sample: Sample, view: str, picture: RawImage) -> Encoded:
        where = f"sample {sample.key!r}" + (f", view {view!r}" if view else "")
        return self.settings.image_format.encode(picture, where)
