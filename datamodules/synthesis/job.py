"""Makes the twins of a shard set: prompts, pictures, shards, index. A kill at any moment loses no finished picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.synthesis.assembly import Assembler
from datamodules.synthesis.drawing import Drawer
from datamodules.synthesis.new_set import NewSet
from datamodules.synthesis.part import Part, claimed
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.pipelines import Generator
from datamodules.synthesis.planning import AT_ONCE, check_captions, check_plans, plan_samples
from datamodules.synthesis.progress import Progress
from datamodules.synthesis.prompts import PromptWriter
from datamodules.synthesis.selection import Encoder
from datamodules.synthesis.settings import GeneratorSettings, TwinSettings
from datamodules.synthesis.work import Counts, Plan, ShardWork, agree, present


@dataclass
class Outcome:
    """What a job did.

    Attributes:
        counts: of the part's shards, whoever made them.
        index: of the whole set, where it is complete.
        missing: shards of other parts that are not there yet.
    """

    counts: Counts = field(default_factory=Counts)
    index: ShardIndex | None = None
    missing: list[str] = field(default_factory=list)


class TwinJob:
    """One process's part of making a set of twins.

    Args:
        index: of the photos' shards.
        out: folder of the new set; holds the old samples, their old views, and the new ones.
        settings: what decides the data.
        make_writer: makes the writer of prompts; called where prompts are missing.
        make_generator: loads a generator; called where pictures are missing.
        encoder: measures the likeness of pictures, for the choice and the record.
        part: of the shards.
        batch_size: pictures drawn at once.
        on_progress: called after each batch.

    Raises:
        DataError: if the output cannot be written, or was begun otherwise.
    """

    def __init__(
        self,
        index: ShardIndex,
        out: str | Path,
        settings: TwinSettings,
        *,
        make_writer: Callable[[], PromptWriter],
        make_generator: Callable[[GeneratorSettings], Generator],
        encoder: Encoder | None = None,
        part: Part = Part(),  # noqa: B008 - immutable
        batch_size: int = 1,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"--batch-size {batch_size}: must be 1 or more")
        if settings.limit is not None:
            index = index.select(np.arange(min(settings.limit, len(index)))).without_empty_shards()
        self.photos, self.settings, self.part = Photos(index), settings, part
        self.out = Path(out).expanduser()
        self.set = NewSet(self.photos, self.out)
        self.work = self.set.work
        self.make_writer, self.make_generator = make_writer, make_generator
        self.progress = Progress()
        self.drawer = Drawer(self.photos, settings, encoder, batch_size, self.progress, on_progress)
        self.assembler = Assembler(self.set, settings)
        self._mine = part.of(self.photos.shards)
        for generator in settings.generators:
            # Twins of each caption, or all candidates, are numbered: sd-1.5-0, sd-1.5-0-2.
            name = re.compile(rf"{re.escape(generator.name)}(-\d+)*")
            if any(name.fullmatch(view) for view in index.view_names[1:]):
                raise DataError(
                    f"--generator {generator.name}: {self.photos.location} has views of that name already; choose "
                    "another one"
                )

    # The whole -------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Do this part; where it completes the set, write the set's index.

        Raises:
            DataError: if no sample can have a twin, or something fails that would fail for every picture.
        """
        check_captions(self.photos)
        self.set.begin()
        with present(self.work, self._agreement(), self.out):
            return self._run()

    def _run(self) -> Outcome:
        # First what nobody else has in hand, then the rest: by then it is done, or its process is gone.
        for wait in (False, True):
            self._write_prompts(wait)
            self._check_plans()
            self._count()
            for settings in self.settings.generators:
                self._draw_all(settings, wait)
            for name in self._mine:
                self._assemble(name, wait)
        outcome = Outcome(self.set.counts_of(self._mine), missing=self.missing())
        if not outcome.missing:
            outcome.index = self.finish()
        return outcome

    def missing(self) -> list[str]:
        """Shards of the set that are not done yet."""
        return self.set.missing()

    def finish(self) -> ShardIndex:
        """Write the index of the whole set, see :meth:`NewSet.finish`."""
        return self.set.finish()

    def _agreement(self) -> dict[str, Any]:
        record = self.settings.to_json()
        del record["prompts"]["url"]  # a model may move to another address
        return record | {"photos": self.set.digest_of_photos()}

    # Prompts ---------------------------------------------------------------------------------------------------------

    def prompts(self) -> Iterator[Plan]:
        """Word the prompts of this part without keeping anything: for looking at them."""
        writer = self.make_writer()
        for name in self._mine:
            yield from plan_samples(self.photos, self.photos.rows(name), self.settings, writer)
        writer.close()

    def _write_prompts(self, wait: bool) -> None:
        writer: PromptWriter | None = None
        for name in self._mine:
            work = self.set.work_on(name)
            with claimed(work.lock, wait=wait) as mine:
                if not mine or work.is_done:  # in this order: it may have been done while we waited
                    continue
                known = work.plans()
                rows = [row for row in self.photos.rows(name) if self.photos.key(row) not in known]
                for start in range(0, len(rows), AT_ONCE):
                    writer = writer or self.make_writer()
                    part = rows[start : start + AT_ONCE]
                    work.add_plans(list(plan_samples(self.photos, part, self.settings, writer)))
        if writer is not None:
            writer.close()

    def _check_plans(self) -> None:
        if self.part.total == 1:  # other parts may find what one lacks
            works = (self.set.work_on(name) for name in self._mine)
            check_plans(self.photos, [plan for work in works for plan in work.plans().values()])

    # Pictures --------------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        """Count the part's pictures, and those that are there."""
        total = done = 0
        for name in self._mine:
            work = self.set.work_on(name)
            for plan in work.plans().values():
                pictures = len(plan.prompts) * self.settings.candidates
                for generator in self.settings.generators:
                    total += pictures
                    done += pictures if work.is_done or work.has(plan.key, generator.name) else 0
        self.progress.total, self.progress.done = total, done

    def _draw_all(self, settings: GeneratorSettings, wait: bool) -> None:
        generator: Generator | None = None
        for name in self._mine:
            work = self.set.work_on(name)
            with claimed(work.lock, wait=wait) as mine:
                if not mine or work.is_done:  # in this order: it may have been done while we waited
                    continue
                plans = work.plans()
                if any(self.photos.key(row) not in plans for row in self.photos.rows(name)):
                    continue
                rows = [row for row in self.photos.rows(name) if not plans[self.photos.key(row)].skip]
                if all(work.has(self.photos.key(row), settings.name) for row in rows):
                    continue
                if generator is None:
                    generator = self.make_generator(settings)
                    agree(self.work, f"generator-{settings.name}", generator.describe(), self.out)
                self.drawer.draw(work, rows, plans, generator)

    # Shards ----------------------------------------------------------------------------------------------------------

    def _assemble(self, name: str, wait: bool) -> None:
        """Put a shard together, once all of its pictures are there."""
        work = self.set.work_on(name)
        with claimed(work.lock, wait=wait) as mine:
            if not mine:
                return
            if work.is_done:
                work.clear()  # a kill may have come between
                return
            plans = work.plans()
            if all(self._is_complete(work, plans.get(self.photos.key(row))) for row in self.photos.rows(name)):
                self.assembler.assemble(name, work, plans)

    def _is_complete(self, work: ShardWork, plan: Plan | None) -> bool:
        if plan is None:
            return False
        return bool(plan.skip) or all(work.has(plan.key, generator.name) for generator in self.settings.generators)
