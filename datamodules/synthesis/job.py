"""Makes the twins of a shard set: prompts, pictures, shards, index. A kill at any moment loses no finished picture."""

from __future__ import annotations

import io
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.errors import DataError
from datamodules.index import ShardIndex, build_index
from datamodules.index_file import INDEX_NAME
from datamodules.reencode import Encoded, RawImage, decode_rgb, image_size
from datamodules.sample import Sample, View
from datamodules.synthesis.candidates import candidate_seed
from datamodules.synthesis.extra import one_line, versions
from datamodules.synthesis.geometry import Size, common_size, cut
from datamodules.synthesis.part import Part, claimed
from datamodules.synthesis.pipelines import Drawn, Generator, Request
from datamodules.synthesis.prompts import HELD_OUT, PromptWriter, split_captions
from datamodules.synthesis.selection import Encoder, Similarities, choose, similarities
from datamodules.synthesis.settings import GeneratorSettings, TwinSettings
from datamodules.synthesis.work import FOLDER, Chosen, Counts, Plan, Result, ShardWork, agree, present
from datamodules.writer import ShardWriter

log = logging.getLogger(__name__)

_MOST_IN_A_ROW = 5  # failed pictures: then it is no picture's fault
_PROMPTS_AT_ONCE = 32
_NOT_A_PHOTO, _BROKEN = "not a photo", "broken picture"
_NO_CAPTION, _ONE_CAPTION = "no caption", "no caption to hold out"
_HINTS = {
    _NO_CAPTION: "none of the samples has a caption to make a prompt of; import them with captions",
    _ONE_CAPTION: "no sample has such a caption besides another, so none can be held out; leave out --hold-out",
    _NOT_A_PHOTO: "none of the samples is a photo; twins are made of photos",
    _BROKEN: "none of the pictures can be read",
}


@dataclass
class Progress:
    """How far a job is.

    Attributes:
        total: pictures of this part.
        done: of them, finished.
        made: of them, by this process.
        failed: of these, what could not be drawn.
        blanked: of these, blanked.
        seconds: since this process drew its first.
    """

    total: int = 0
    done: int = 0
    made: int = 0
    failed: int = 0
    blanked: int = 0
    begun: float | None = None

    @property
    def seconds(self) -> float:
        """Time since this process began to draw."""
        return time.monotonic() - self.begun if self.begun is not None else 0.0


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


@dataclass(frozen=True)
class _Unit:
    """Samples whose pictures are drawn together: always the same ones, so that a batch is the same after a kill."""

    rows: tuple[int, ...]
    plans: tuple[Plan, ...]
    size: Size | None


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
        self.index, self.settings, self.part, self.batch_size = index, settings, part, batch_size
        self.out = Path(out).expanduser()
        self.work = self.out / FOLDER
        self.make_writer, self.make_generator, self.encoder = make_writer, make_generator, encoder
        self.on_progress, self.progress = on_progress, Progress()
        self._in_a_row: list[tuple[ShardWork, str, str]] = []
        names = [info.name for info in index.shards]
        if any("/" in name or not name.endswith(".tar") for name in names):
            raise DataError(f"{index.store.location}: shards in folders below it; give one folder of .tar files")
        taken = sorted(set(index.view_names[1:]) & {generator.name for generator in settings.generators})
        if taken:
            raise DataError(
                f"--generator {taken[0]}: {index.store.location} has views of that name already; choose another one"
            )
        self._shards = {name: number for number, name in enumerate(names)}
        self._mine = part.of(names)

    # The whole -------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Do this part; where it completes the set, write the set's index.

        Raises:
            DataError: if no sample can have a twin, or something fails that would fail for every picture.
        """
        self._check_captions()
        self._begin()
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
        outcome = Outcome()
        for name in self._mine:
            work = ShardWork(self.work, _stem(name))
            if not work.is_done:
                raise DataError(f"{self.out / name}: another process gave it up; run the same command again to go on")
            outcome.counts.add(work.outcome()[0])
        outcome.missing = self.missing()
        if not outcome.missing:
            outcome.index = self.finish()
        return outcome

    def missing(self) -> list[str]:
        """Shards of the set that are not done yet."""
        return [name for name in self._shards if not ShardWork(self.work, _stem(name)).is_done]

    def finish(self) -> ShardIndex:
        """Write the index of the whole set; of processes that do so at once, one does.

        Raises:
            DataError: if shards are missing.
        """
        missing = self.missing()
        if missing:
            raise DataError(
                f"{self.out}: {len(missing)} of {len(self._shards)} shards are not done yet ({missing[0]} for one); "
                "run the parts that make them"
            )
        with claimed(self.work / "finish.lock", wait=True):
            if (self.out / INDEX_NAME).is_file():
                return ShardIndex.load(self.out)
            outcomes = {name: ShardWork(self.work, _stem(name)).outcome() for name in self._shards}
            checksums = {name: checksum for name, (_, checksum) in outcomes.items() if checksum is not None}
            if not checksums:
                raise DataError(f"{self.out}: not one picture could be read; there is no shard set")
            index = build_index([self.out / name for name in checksums], checksums=checksums)
            index.save(self.out / INDEX_NAME)
        return ShardIndex.load(self.out)

    def _begin(self) -> None:
        if self.index.store.location and Path(self.index.store.location).resolve() == self.out.resolve():
            raise DataError(f"{self.out}: holds the photos; give another folder for the new set")
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.out}: cannot be written ({error.strerror})") from error
        if not (self.work / "settings.json").is_file() and any(self.out.glob("*.tar")):
            raise DataError(f"{self.out}: holds shards already, which are not of this set; give another folder")

    def _agreement(self) -> dict[str, Any]:
        text = "\n".join(f"{info.name} {info.samples} {info.sha256}" for info in self.index.shards)
        record = self.settings.to_json()
        del record["prompts"]["url"]  # a model may move to another address
        return record | {"photos": sha256(text.encode()).hexdigest()}

    # Prompts ---------------------------------------------------------------------------------------------------------

    def prompts(self) -> Iterator[tuple[Sample, Plan]]:
        """Word the prompts of this part without keeping anything: for looking at them."""
        writer = self.make_writer()
        for name in self._mine:
            yield from self._plans(self._rows(name), writer)
        writer.close()

    def _write_prompts(self, wait: bool) -> None:
        writer: PromptWriter | None = None
        for name in self._mine:
            work = ShardWork(self.work, _stem(name))
            with claimed(work.lock, wait=wait) as mine:
                if not mine or work.is_done:  # in this order: it may have been done while we waited
                    continue
                known = work.plans()
                rows = [row for row in self._rows(name) if self.index.keys[row] not in known]
                for start in range(0, len(rows), _PROMPTS_AT_ONCE):
                    writer = writer or self.make_writer()
                    part = rows[start : start + _PROMPTS_AT_ONCE]
                    work.add_plans([plan for _, plan in self._plans(part, writer)])
        if writer is not None:
            writer.close()

    def _plans(self, rows: Sequence[int], writer: PromptWriter) -> Iterator[tuple[Sample, Plan]]:
        for start in range(0, len(rows), _PROMPTS_AT_ONCE):
            entries = [self._unworded(row) for row in rows[start : start + _PROMPTS_AT_ONCE]]
            asked = [plan.used for _, plan in entries if not plan.skip]
            worded = iter(writer(asked) if asked else [])
            for sample, plan in entries:
                yield sample, plan if plan.skip else replace(plan, prompts=next(worded))

    def _unworded(self, row: int) -> tuple[Sample, Plan]:
        sample = self.index.sample(row)
        if not sample.is_real:
            return sample, Plan(sample.key, skip=_NOT_A_PHOTO)
        captions = split_captions(sample, self.settings.prompts, self.settings.seed)
        if captions is None:
            return sample, Plan(sample.key, skip=_ONE_CAPTION if sample.captions else _NO_CAPTION)
        try:
            size = image_size(self._picture(row), sample.key)
        except DataError:
            return sample, Plan(sample.key, skip=_BROKEN)
        return sample, Plan(sample.key, (), "", size, captions.slot, captions.held_out, captions.used)

    def _check_captions(self) -> None:
        """Say so at once where nothing can be drawn, instead of copying the photos."""
        where = self.index.store.location
        if not self.index.caption_count.any():
            raise DataError(f"{where}: {_HINTS[_NO_CAPTION]}")

    def _check_plans(self) -> None:
        where = self.index.store.location
        if self.part.total > 1:
            return  # others may find what this part lacks
        reasons = [plan.skip for name in self._mine for plan in ShardWork(self.work, _stem(name)).plans().values()]
        if reasons and "" not in reasons:
            raise DataError(f"{where}: {_HINTS[max(sorted(set(reasons)), key=reasons.count)]}")

    # Pictures --------------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        """Count the part's pictures, and those that are there."""
        total = done = 0
        for name in self._mine:
            work = ShardWork(self.work, _stem(name))
            for plan in work.plans().values():
                pictures = len(plan.prompts) * self.settings.candidates
                for generator in self.settings.generators:
                    total += pictures
                    done += pictures if work.is_done or work.has(plan.key, generator.name) else 0
        self.progress.total, self.progress.done = total, done

    def _draw_all(self, settings: GeneratorSettings, wait: bool) -> None:
        generator: Generator | None = None
        for name in self._mine:
            work = ShardWork(self.work, _stem(name))
            with claimed(work.lock, wait=wait) as mine:
                if not mine or work.is_done:  # in this order: it may have been done while we waited
                    continue
                plans = work.plans()
                rows = [row for row in self._rows(name) if (at := plans.get(self.index.keys[row])) and not at.skip]
                if len(plans) < len(self._rows(name)) or all(
                    work.has(self.index.keys[row], settings.name) for row in rows
                ):
                    continue
                if generator is None:
                    generator = self.make_generator(settings)
                    self.progress.begun = self.progress.begun or time.monotonic()
                    agree(self.work, f"generator-{settings.name}", generator.describe(), self.out)
                for unit in self._units(rows, plans, generator):
                    if not all(work.has(plan.key, settings.name) for plan in unit.plans):
                        self._draw(work, unit, generator)

    def _units(self, rows: Iterable[int], plans: dict[str, Plan], generator: Generator) -> Iterator[_Unit]:
        """Put samples together until they fill a batch; only pictures of one size can share one."""
        waiting: dict[Size | None, list[tuple[int, Plan]]] = {}
        for row in rows:
            plan = plans[self.index.keys[row]]
            assert plan.size is not None
            size = generator.size_for(plan.size) if self.settings.geometry == "matched" else generator.native_size
            held = waiting.setdefault(size, [])
            held.append((row, plan))
            if sum(len(its.prompts) for _, its in held) * self.settings.candidates >= self.batch_size:
                yield _unit(waiting.pop(size), size)
        for size, held in waiting.items():
            yield _unit(held, size)

    def _draw(self, work: ShardWork, unit: _Unit, generator: Generator) -> None:
        """Draw, choose and keep the pictures of a unit."""
        settings, name = self.settings, generator.settings.name
        photos: dict[str, Image.Image] = {}
        broken: dict[str, str] = {}
        if self.encoder is not None or generator.settings.strength is not None:
            for row, plan in zip(unit.rows, unit.plans, strict=True):
                try:
                    photos[plan.key] = decode_rgb(self._picture(row), plan.key)
                except DataError as error:
                    broken[plan.key] = str(error)
        requests, owner = [], []
        for plan in unit.plans:
            if plan.key in broken:
                continue
            photo = photos.get(plan.key)
            if photo is not None and generator.settings.strength is not None:
                photo = cut(photo, unit.size) if unit.size is not None else photo
            for number, prompt in enumerate(plan.prompts):
                for candidate in range(settings.candidates):
                    seed = candidate_seed(plan.key, name, number, candidate, settings.seed)
                    requests.append(Request(prompt, seed, unit.size, photo))
                    owner.append((plan.key, number, candidate))
        drawn: dict[tuple[str, int, int], Drawn | str] = {}
        for start in range(0, len(requests), self.batch_size):
            part = slice(start, start + self.batch_size)
            drawn.update(zip(owner[part], _draw_batch(generator, requests[part]), strict=True))
        seeds = dict(zip(owner, (request.seed for request in requests), strict=True))
        for plan in unit.plans:
            if plan.key in broken:
                result = Result(failed=(broken[plan.key],) * (len(plan.prompts) * settings.candidates))
            else:
                result = self._choose(plan, drawn, seeds, photos.get(plan.key), generator)
            self._keep(work, plan, name, result, plan.key in broken)

    def _choose(
        self,
        plan: Plan,
        drawn: dict[tuple[str, int, int], Drawn | str],
        seeds: dict[tuple[str, int, int], int],
        photo: Image.Image | None,
        generator: Generator,
    ) -> Result:
        settings = self.settings
        chosen: list[Chosen] = []
        failed: list[str] = []
        made = blanked = 0
        for number, prompt in enumerate(plan.prompts):
            owners = [(plan.key, number, candidate) for candidate in range(settings.candidates)]
            images: list[Image.Image | None] = []
            for owner in owners:
                one = drawn[owner]
                if isinstance(one, str):
                    failed.append(one)
                images.append(None if isinstance(one, str) else one.image)
                made += not isinstance(one, str)
                blanked += not isinstance(one, str) and one.image is None
            found: Similarities = (
                similarities(self.encoder, photo, images)
                if self.encoder is not None and photo is not None
                else [None] * len(images)
            )
            present = [image is not None for image in images]
            for at in choose(settings.selection, found, present, plan.key, number, settings.seed):
                image = images[at]
                assert image is not None
                meta = generator.describe() | {
                    "prompt": prompt,
                    "prompt_writer": settings.prompts.kind,
                    "prompt_model": settings.prompts.model,
                    "seed": seeds[owners[at]],
                    "width": image.width,
                    "height": image.height,
                    "candidate": at,
                    "candidate_seeds": [seeds[owner] for owner in owners],
                    "similarity": found[at],
                    "candidate_similarities": found,
                    "selection": settings.selection,
                    "encoder": settings.encoder,
                    "geometry": settings.geometry,
                    "codec": settings.codec,
                    "versions": versions(),
                }
                suffix = f"-{number}" if settings.prompts.kind == "each" else ""
                suffix += f"-{at}" if settings.selection == "all" else ""
                captions = (prompt,) if settings.prompts.kind == "each" and plan.slot is None else None
                chosen.append(Chosen(suffix, meta, _png(image), captions))
        return Result(tuple(chosen), made, blanked, tuple(failed))

    def _keep(self, work: ShardWork, plan: Plan, name: str, result: Result, is_broken: bool) -> None:
        pictures = len(plan.prompts) * self.settings.candidates
        if not work.has(plan.key, name):
            work.save(plan.key, name, result)
            self.progress.done += pictures
            self.progress.made += pictures
            self.progress.failed += len(result.failed)
            self.progress.blanked += result.blanked
        for message in result.failed:
            log.warning("%s by %s: a picture failed: %s", plan.key, name, message)
        if len(result.failed) < pictures:
            self._in_a_row = []
        elif not is_broken:
            self._in_a_row.append((work, plan.key, name))
            if len(self._in_a_row) >= _MOST_IN_A_ROW:
                for where, key, generator in self._in_a_row:
                    where.forget(key, generator)  # so that they are tried again
                raise DataError(
                    f"--generator {name}: {_MOST_IN_A_ROW} samples in a row failed, the last with: {result.failed[-1]}"
                )
        self.on_progress(self.progress)

    # Shards ----------------------------------------------------------------------------------------------------------

    def _assemble(self, name: str, wait: bool) -> None:
        """Put a shard together, once all of its pictures are there."""
        work = ShardWork(self.work, _stem(name))
        with claimed(work.lock, wait=wait) as mine:
            if not mine:
                return
            if work.is_done:
                work.clear()  # a kill may have come between
                return
            plans, rows = work.plans(), self._rows(name)
            generators = [generator.name for generator in self.settings.generators]
            if any(
                (plan := plans.get(self.index.keys[row])) is None
                or (not plan.skip and not all(work.has(plan.key, generator) for generator in generators))
                for row in rows
            ):
                return
            counts = Counts()
            # A writer puts a set in place; here it is a set of one shard, in the work folder, that moves from there.
            making = work.folder / "assembled"
            shutil.rmtree(making, ignore_errors=True)
            writer = ShardWriter(making, samples_per_shard=len(rows) + 1, image_format=self.settings.image_format)
            try:
                for row in rows:
                    self._write_sample(writer, row, plans[self.index.keys[row]], work, counts)
                if not len(writer):
                    work.finish(counts, None)
                    return
                writer.close()
            finally:
                writer.abort()
            assert writer.index is not None
            (info,) = writer.index.shards
            try:
                os.replace(making / info.name, self.out / name)
            except OSError as error:
                raise DataError(f"{self.out}: cannot be written ({error.strerror})") from error
            counts.samples = len(writer)
            work.finish(counts, info.sha256)

    def _write_sample(self, writer: ShardWriter, row: int, plan: Plan, work: ShardWork, counts: Counts) -> None:
        sample = self.index.sample(row)
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
        for view, data in self._old_views(row).items():
            if isinstance(data, bytes):
                views[view], pictures[view] = sample.views[view], data
            else:
                counts.skip("broken view")
        try:
            encoded = self._encode(sample.key, self._picture(row), pictures, views, plan.size, twins)
        except DataError as error:
            log.warning("%s", error)
            if plan.skip != _BROKEN:
                counts.skip(_BROKEN)
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
        views: dict[str, View],
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
                    picture = _png(cut(picture, photo) if matched and photo is not None else picture)
                encoded[view] = image_format.encode(picture, f"sample {key!r}, view {view!r}")
            return encoded
        size = common_size(photo, twins) if matched and photo is not None else None
        for view, picture in {"": anchor, **pictures}.items():
            where = f"sample {key!r}" + (f", view {view!r}" if view else "")
            if size is not None:
                picture = cut(picture if isinstance(picture, Image.Image) else decode_rgb(picture, where), size)
            encoded[view] = image_format.encode(picture, where)
        return encoded

    # Reading ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _rows_by_shard(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self.index.shards]
        for row, shard in enumerate(self.index.shard.tolist()):
            found[shard].append(row)
        return found

    def _rows(self, name: str) -> list[int]:
        return self._rows_by_shard[self._shards[name]]

    def _picture(self, row: int, view: int = 0) -> bytes:
        """The bytes of a sample's anchor, or of its n-th view."""
        index, at = self.index, int(self.index.view_start[row]) + view
        return index.read_picture(int(index.shard[row]), int(index.offset[at]), int(index.size[at]), int(index.crc[at]))

    def _old_views(self, row: int) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        index = self.index
        for view in range(1, int(index.view_start[row + 1] - index.view_start[row])):
            name = index.view_names[int(index.view_name[int(index.view_start[row]) + view])]
            try:
                data = self._picture(row, view)
                image_size(data, name)
                found[name] = data
            except DataError:
                found[name] = None
        return found


def _unit(held: Sequence[tuple[int, Plan]], size: Size | None) -> _Unit:
    return _Unit(tuple(row for row, _ in held), tuple(plan for _, plan in held), size)


def _draw_batch(generator: Generator, requests: Sequence[Request]) -> list[Drawn | str]:
    """Draw a batch; where it fails, one picture after the other, so that a bad one takes no others with it."""
    try:
        return list(generator.draw(requests))
    except DataError:
        raise
    except Exception as error:  # whatever a pipeline raises for a prompt or a picture
        if len(requests) == 1:
            return [f"{type(error).__name__}: {one_line(error)}"]
    return [drawn for request in requests for drawn in _draw_batch(generator, [request])]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _stem(name: str) -> str:
    return name.removesuffix(".tar")
