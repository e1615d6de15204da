"""Draws the candidates of a shard's samples, chooses among them and keeps what was chosen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from datamodules.errors import DataError
from datamodules.reencode import decode_rgb
from datamodules.synthesis.candidates import candidate_seed
from datamodules.synthesis.extra import one_line, versions
from datamodules.synthesis.geometry import Size, cut
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.pipelines import Drawn, Generator, Request
from datamodules.synthesis.progress import Progress
from datamodules.synthesis.selection import Encoder, Similarities, choose, similarities
from datamodules.synthesis.settings import TwinSettings
from datamodules.synthesis.work import Chosen, Plan, Result, ShardWork, png

log = logging.getLogger(__name__)

_MOST_IN_A_ROW = 5  # failed pictures: then it is no picture's fault


@dataclass(frozen=True)
class _Unit:
    """Samples whose pictures are drawn together: always the same ones, so that a batch is the same after a kill."""

    rows: tuple[int, ...]
    plans: tuple[Plan, ...]
    size: Size | None


class Drawer:
    """Draws for one job.

    Args:
        photos: what twins are made of.
        settings: what decides the data.
        encoder: measures the likeness of pictures, for the choice and the record.
        batch_size: pictures drawn at once.
        progress: is kept up to date.
        on_progress: called after each sample.
    """

    def __init__(
        self,
        photos: Photos,
        settings: TwinSettings,
        encoder: Encoder | None,
        batch_size: int,
        progress: Progress,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.photos, self.settings, self.encoder, self.batch_size = photos, settings, encoder, batch_size
        self.progress, self.on_progress = progress, on_progress
        self._in_a_row: list[tuple[ShardWork, str, str]] = []

    def draw(self, work: ShardWork, rows: Sequence[int], plans: dict[str, Plan], generator: Generator) -> None:
        """Draw what is missing of one generator's pictures for a shard.

        Args:
            work: on the shard; its lock is held.
            rows: the samples that get twins.
            plans: by key.
            generator: the generator.

        Raises:
            DataError: if so many pictures in a row fail that it is no picture's fault.
        """
        self.progress.begun = self.progress.begun or time.monotonic()
        for unit in self._units(rows, plans, generator):
            if not all(work.has(plan.key, generator.settings.name) for plan in unit.plans):
                self._draw(work, unit, generator)

    def _units(self, rows: Sequence[int], plans: dict[str, Plan], generator: Generator) -> Iterator[_Unit]:
        """Put samples together until they fill a batch; only pictures of one size can share one."""
        waiting: dict[Size | None, list[tuple[int, Plan]]] = {}
        for row in rows:
            plan = plans[self.photos.key(row)]
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
                    photos[plan.key] = decode_rgb(self.photos.picture(row), plan.key)
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
                chosen.append(Chosen(suffix, meta, png(image), captions))
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
