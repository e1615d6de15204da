"""Makes a set with words written on its pictures: plans, pictures, shards. A kill loses no finished shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.crew import Crew
from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.overlaying.planning import OverlayPlan, OverlayPlanner
from datamodules.overlaying.report import write_report
from datamodules.overlaying.settings import OverlaySettings
from datamodules.overlaying.worker import CLEAN, OVERLAY, SMALL, GroupWriter, Task, Written
from datamodules.synthesis.new_set import NewSet
from datamodules.synthesis.part import Part
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.progress import Progress
from datamodules.synthesis.work import Counts, ShardWork, present
from datamodules.writer import ShardWriter

_AT_ONCE = 16  # samples that a worker is given at a time


@dataclass
class OverlayOutcome:
    """What a job did.

    Attributes:
        counts: of the part's shards, whoever made them; ``skipped`` counts what is missing by why.
        index: of the whole set, where it is complete.
        missing: shards of other parts that are not there yet.
    """

    counts: Counts
    index: ShardIndex | None = None
    missing: list[str] = field(default_factory=list)


class OverlayJob:
    """One process's part of writing words on a set's pictures.

    Args:
        index: of the pictures' shards.
        out: folder of the new set; holds the old samples, their old views, and the new ones.
        settings: what decides the data.
        words: list of words.
        part: of the shards.
        workers: processes that write; 1 writes in this one.
        on_progress: called after each sample.

    Raises:
        DataError: if the set has such views already, or a word cannot be written.
    """

    def __init__(
        self,
        index: ShardIndex,
        out: str | Path,
        settings: OverlaySettings,
        words: Sequence[str],
        *,
        part: Part = Part(),  # noqa: B008 - immutable
        workers: int = 1,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        if workers < 1:
            raise DataError(f"--workers {workers}: must be 1 or more")
        if settings.limit is not None:
            index = index.select(np.arange(min(settings.limit, len(index)))).without_empty_shards()
        making = {OVERLAY} if settings.overlay else set()
        making |= {CLEAN} if settings.keep_clean else set()
        if taken := sorted(making & set(index.view_names)):
            raise DataError(f"{index.store.location}: has views {taken[0]!r} already; give the set without them")
        self.photos, self.settings, self.words = Photos(index), settings, tuple(words)
        self.out = Path(out).expanduser()
        self.set = NewSet(self.photos, self.out)
        self.planner = OverlayPlanner(index, self.words, settings)
        self.workers, self.on_progress = workers, on_progress
        self.progress = Progress()
        self._mine = part.of(self.photos.shards)

    def run(self) -> OverlayOutcome:
        """Do this part; where it completes the set, write the set's index, its report and a sheet to look at.

        Raises:
            DataError: if shares cannot be met, or something fails that would fail for every picture.
        """
        self.planner.kinds  # noqa: B018 - what cannot be met is said before anything is written
        self.set.begin()
        record = self.settings.to_json() | {"photos": self.set.digest_of_photos()}
        with present(self.set.work, record, self.out), self._crew() as crew:
            self.set.make_each(self._mine, partial(self._make, crew))
            outcome = OverlayOutcome(self.set.counts_of(self._mine), missing=self.set.missing())
            if outcome.counts.skipped.get(SMALL) and not outcome.counts.made:
                raise DataError(
                    f"{self.photos.location}: not one picture is large enough for letters of "
                    f"{self.settings.min_letters} pixels; write larger ones (--height), or allow smaller ones "
                    "(--min-letters), into another folder"
                )
            if not outcome.missing:
                outcome.index = self.finish()
            return outcome

    def finish(self) -> ShardIndex:
        """Write the index and the report of the whole set.

        Raises:
            DataError: if shards are missing.
        """
        index = self.set.finish()
        write_report(self.out, index, self.set.counts_of(self.photos.shards), self.settings, self.words)
        return index

    def plans(self) -> Iterator[OverlayPlan]:
        """Plan this part without making anything: for looking at it."""
        for name in self._mine:
            for row in self.photos.rows(name):
                yield self.planner.plan(row)

    # One shard -------------------------------------------------------------------------------------------------------

    def _crew(self) -> Crew[list[Task], list[Written]]:
        threads = None if self.workers == 1 else 1
        make = partial(GroupWriter, self.photos.index, self.settings, threads)
        return Crew(make, self.workers, lambda group: f"sample {self.photos.key(group[0][0])!r} and those after it")

    def _make(self, crew: Crew[list[Task], list[Written]], name: str, work: ShardWork) -> None:
        rows, counts = self.photos.rows(name), Counts()
        self.progress.total += len(rows)
        self.progress.begun = self.progress.begun or time.monotonic()

        def fill(writer: ShardWriter) -> None:
            for written in self._written(rows, crew):
                counts.made += written.made
                for why in written.skipped:
                    counts.skip(why)
                if written.sample is not None and written.anchor is not None:
                    writer.write(written.sample, written.anchor, written.views)
                self.progress.done += 1
                self.progress.made += 1
                self.on_progress(self.progress)

        self.set.write_shard(name, work, counts, self.settings.image_format, fill)

    def _written(self, rows: Sequence[int], crew: Crew[list[Task], list[Written]]) -> Iterator[Written]:
        groups = (rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE))
        for done in crew([(row, self.planner.plan(row)) for row in group] for group in groups):
            yield from done
