"""Makes a set with objects taken out: plans, pictures, verification, shards. A kill loses no finished sample."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from datamodules.decorrelation.inpaint import Inpainter
from datamodules.decorrelation.planning import EditPlan, ObjectSource, Planner
from datamodules.decorrelation.report import write_report
from datamodules.decorrelation.settings import DecorrelationSettings
from datamodules.decorrelation.verify import Scorer, Verifier
from datamodules.decorrelation.worker import edit, make_editor, start_worker
from datamodules.errors import DataError
from datamodules.hashing import mix
from datamodules.index import ShardIndex
from datamodules.objects.mentions import Mentions
from datamodules.objects.vocabulary import Vocabulary
from datamodules.reencode import Encoded, RawImage, decode_rgb
from datamodules.sample import REAL, Sample, View
from datamodules.synthesis.new_set import NewSet
from datamodules.synthesis.part import Part
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.progress import Progress
from datamodules.synthesis.work import Chosen, Counts, Result, ShardWork, present
from datamodules.writer import ShardWriter

log = logging.getLogger(__name__)

EDITS = "edits"  # the name under which a sample's pictures are kept
GONE_NOT = "the object is still found"
_REFERENCE = 2000  # pictures that the verifier's thresholds are taken from, at most
_AT_ONCE = 32  # pictures that are verified at once


@dataclass
class EditOutcome:
    """What a job did.

    Attributes:
        counts: of the part's shards, whoever made them; ``skipped`` counts views by why they are missing.
        index: of the whole set, where it is complete.
        missing: shards of other parts that are not there yet.
        planner: what was mined.
    """

    counts: Counts
    planner: Planner
    index: ShardIndex | None = None
    missing: list[str] = field(default_factory=list)


class DecorrelationJob:
    """One process's part of taking objects out of a set.

    Args:
        index: of the pictures' shards.
        out: folder of the new set; holds the old samples, their old views, and the new ones.
        settings: what decides the data.
        vocabulary: categories, and how captions mention them.
        make_inpainter: makes what fills masks; called in each worker, so it must be picklable.
        side: objects by key, instead of those in the shards.
        scorer: looks whether objects are gone; None verifies nothing.
        cosine: [C, C] likeness of the categories' names, None where nothing measured it.
        related: pairs that are related.
        part: of the shards.
        workers: processes that edit; 1 edits in this one.
        on_progress: called after each sample.

    Raises:
        DataError: if no sample has objects, the set has such views already, or the output was begun otherwise.
    """

    def __init__(
        self,
        index: ShardIndex,
        out: str | Path,
        settings: DecorrelationSettings,
        vocabulary: Vocabulary,
        make_inpainter: Callable[[], Inpainter],
        *,
        side: Mapping[str, Any] | None = None,
        scorer: Scorer | None = None,
        cosine: npt.NDArray[np.floating] | None = None,
        related: frozenset[frozenset[str]] = frozenset(),
        part: Part = Part(),  # noqa: B008 - immutable
        workers: int = 1,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        if workers < 1:
            raise DataError(f"--workers {workers}: must be 1 or more")
        if settings.limit is not None:
            index = index.select(np.arange(min(settings.limit, len(index)))).without_empty_shards()
        if taken := [view for view in index.view_names if view.startswith(("no-", "control-", "with-"))]:
            raise DataError(
                f"{index.store.location}: has views of edited objects already ({taken[0]}); give the set without them"
            )
        self.photos, self.settings = Photos(index), settings
        self.out = Path(out).expanduser()
        self.set = NewSet(self.photos, self.out)
        self.mentions, self.objects = Mentions(vocabulary), ObjectSource(side)
        self.make_inpainter, self.scorer = make_inpainter, scorer
        self.planner = Planner(self.photos, self.mentions, self.objects, settings, cosine=cosine, related=related)
        self.workers, self.on_progress = workers, on_progress
        self.progress = Progress()
        self._mine = part.of(self.photos.shards)
        self._verifier: Verifier | None = None

    def run(self) -> EditOutcome:
        """Do this part; where it completes the set, write the set's index and its report.

        Raises:
            DataError: if nothing can be edited, or something fails that would fail for every picture.
        """
        if not self.planner.mined and not self.settings.all_objects:
            raise DataError(
                f"{self.photos.location}: no pair of objects reaches --min-npmi {self.settings.min_npmi} and "
                f"--min-support {self.settings.min_support}; lower them, or give --all-objects"
            )
        self.set.begin()
        record = self.settings.to_json() | {"photos": self.set.digest_of_photos()}
        with present(self.set.work, record, self.out):
            self.set.make_each(self._mine, self._make)
            outcome = EditOutcome(self.set.counts_of(self._mine), self.planner, missing=self.set.missing())
            if not outcome.missing:
                outcome.index = self.finish()
            return outcome

    def finish(self) -> ShardIndex:
        """Write the index and the report of the whole set.

        Raises:
            DataError: if shards are missing.
        """
        index = self.set.finish()
        write_report(self.out, index, self.set.counts_of(self.photos.shards), self.settings, self.planner)
        return index

    def plans(self) -> Iterator[EditPlan]:
        """Plan this part without making anything: for looking at it."""
        for name in self._mine:
            for row in self.photos.rows(name):
                yield self.planner.plan(row)

    # One shard -------------------------------------------------------------------------------------------------------

    def _make(self, name: str, work: ShardWork) -> None:
        self._edit(work, self.photos.rows(name))
        self._assemble(name, work)

    def _edit(self, work: ShardWork, rows: Sequence[int]) -> None:
        todo = [row for row in rows if not work.has(self.photos.key(row), EDITS)]
        self.progress.total += len(rows)
        self.progress.done += len(rows) - len(todo)
        self.progress.begun = self.progress.begun or time.monotonic()
        for row, result in self._results(todo):
            work.save(self.photos.key(row), EDITS, result)
            self.progress.done += 1
            self.progress.made += 1
            self.on_progress(self.progress)

    def _results(self, rows: Sequence[int]) -> Iterator[tuple[int, Result]]:
        arguments = (self.photos.index, self.objects.side, self.mentions, self.settings, self.make_inpainter)
        if self.workers == 1 or len(rows) < 2:
            editor = make_editor(*arguments) if rows else None
            for row in rows:
                assert editor is not None
                yield row, editor(row, self.planner.plan(row))
            return
        # Not forked: this process may have started the threads of torch and OpenCV.
        with ProcessPoolExecutor(
            min(self.workers, len(rows)), get_context("spawn"), initializer=start_worker, initargs=arguments
        ) as pool:
            futures = {pool.submit(edit, row, self.planner.plan(row)): row for row in rows}
            try:
                for future in as_completed(futures):
                    yield futures.pop(future), future.result()  # popped, so that its pictures are let go of
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    # Verification and shards -----------------------------------------------------------------------------------------

    def _assemble(self, name: str, work: ShardWork) -> None:
        rows = self.photos.rows(name)
        counts = Counts()

        def fill(writer: ShardWriter) -> None:
            for start in range(0, len(rows), _AT_ONCE):
                part = rows[start : start + _AT_ONCE]
                results = [work.load(self.photos.key(row), EDITS) for row in part]
                for row, result in zip(part, self._verified(results), strict=True):
                    self._write(writer, row, result, counts)

        self.set.write_shard(name, work, counts, self.settings.image_format, fill)

    def _verified(self, results: Sequence[Result]) -> list[Result]:
        """Note what the verifier says, and drop what it still finds, with its control."""
        if not self.settings.verify:
            return list(results)
        removed = [one for result in results for one in result.chosen if one.meta["edit"] == "removed"]
        columns = [self.mentions.vocabulary.number(one.meta["object"]) for one in removed]
        verdicts = iter(self._verifier_now()([one.image() for one in removed], columns))
        found = []
        for result in results:
            kept, failed, dropped = list[Chosen](), list(result.failed), set[str]()
            for one in result.chosen:
                if one.meta["edit"] == "removed":
                    verdict = next(verdicts)
                    if verdict["gone"] is False:
                        failed.append(f"{one.suffix}: {GONE_NOT}")
                        dropped |= {one.suffix, one.meta["control"]}
                    one = replace(one, meta=one.meta | {"verified": verdict})
                kept.append(one)
            kept = [one for one in kept if one.suffix not in dropped]
            found.append(replace(result, chosen=tuple(kept), failed=tuple(failed)))
        return found

    def _verifier_now(self) -> Verifier:
        if self._verifier is None:
            assert self.scorer is not None
            rows = np.argsort(mix(self.settings.seed, np.arange(len(self.photos.index))), kind="stable")[:_REFERENCE]
            scores, absent = [], []
            for start in range(0, len(rows), _AT_ONCE):
                pictures: list[Image.Image] = []
                for row in rows[start : start + _AT_ONCE].tolist():
                    sample = self.photos.index.sample(row)
                    try:
                        pictures.append(decode_rgb(self.photos.picture(row), sample.key))
                    except DataError:
                        continue
                    absent.append(~(self.planner.present[row] | self.mentions.matrix(sample.captions).any(axis=0)))
                if pictures:
                    scores.append(self.scorer(pictures))
            if not scores:
                raise DataError(f"{self.photos.location}: not one picture could be read")
            self._verifier = Verifier(self.scorer, np.concatenate(scores), np.stack(absent))
        return self._verifier

    def _write(self, writer: ShardWriter, row: int, result: Result, counts: Counts) -> None:
        sample = self.photos.index.sample(row)
        counts.made += result.made
        for failure in result.failed:
            counts.skip(failure.partition(": ")[2].partition(" (")[0])
        views: dict[str, View] = {}
        pictures: dict[str, RawImage] = {}
        for view, data in self.photos.views(row).items():
            if data is None:
                counts.skip("broken view")
            else:
                views[view], pictures[view] = sample.views[view], data
        for one in result.chosen:
            views[one.suffix] = View(REAL, one.captions, one.meta)
            pictures[one.suffix] = one.image()
        meta = sample.meta
        if self.objects.side is not None:
            meta = meta | {"objects": [dict(thing) for thing in self.objects.of(sample)]}
        if result.failed:
            meta = meta | {"not_edited": list(result.failed)}
        try:
            encoded = {view: self._encode(sample, view, picture) for view, picture in sorted(pictures.items())}
            anchor = self._encode(sample, "", self.photos.picture(row))
        except DataError as error:
            log.warning("%s", error)
            return
        writer.write(replace(sample, views={view: views[view] for view in encoded}, meta=meta), anchor, encoded)

    def _encode(self, sample: Sample, view: str, picture: RawImage) -> Encoded:
        where = f"sample {sample.key!r}" + (f", view {view!r}" if view else "")
        return self.settings.image_format.encode(picture, where)
