"""Makes the table of a curation, shard by shard. A kill loses a few samples' work; a second run hardly any remains."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from datamodules.crew import Crew
from datamodules.curation.cache import ResultCache, cache_key
from datamodules.curation.corpus import CorpusStatistics
from datamodules.curation.erasing import ABOUT
from datamodules.curation.examine import NOT_SAID, Examined, Examiner, MakeReader, to_bytes
from datamodules.curation.overlap import check_threshold
from datamodules.curation.scoring import (
    VARIANTS,
    Floats,
    PairScorer,
    Renderer,
    ScorePlan,
    ScorePlanner,
    score,
)
from datamodules.curation.table import TABLE, CurationTable, rows_of, write_table
from datamodules.decode import Picture
from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.store import ShardInfo

STATISTICS, CACHE, PARTS = "corpus.json", "cache.sqlite", "parts"
KNOWN = "known"  # the reader that takes what the shards say
_RULES = 1  # of what makes a shard's rows: raised when they change, so that no old part is taken
# Samples that a process is given at once: those that say their text, and those whose pictures are read.
_KNOWN_AT_ONCE, _READ_AT_ONCE = 512, 16
_SCORED_AT_ONCE = 32

Examine = Crew[tuple[Sequence[int], Sequence[bytes | None]], list[Examined]]
Render = Crew[Sequence[ScorePlan], list[Picture | None]]


@dataclass(frozen=True)
class CurationSettings:
    """What decides a table.

    Attributes:
        reader: what reads pictures, as its ``describe`` says; {"name": "known"} for what the shards say.
        scorer: key of what scores pairs, None for no scores.
        retriever: its name, for people.
        fuzzy: threshold of fuzzy CoTR, None for none.
        normalise: compare words without case and outer punctuation.
        seed: of the polygons that controls borrow.
    """

    reader: dict[str, Any]
    scorer: str | None = None
    retriever: str | None = None
    fuzzy: float | None = None
    normalise: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fuzzy is not None:
            check_threshold(self.fuzzy)

    def to_json(self) -> dict[str, Any]:
        """All of it, and how pictures are erased."""
        return asdict(self) | {"erasing": ABOUT if self.scorer is not None else None}


@dataclass
class CurationOutcome:
    """What a job did.

    Attributes:
        table: the file.
        statistics: of the corpus.
        counts: ``samples``, ``read`` (pictures read now), ``scored`` (samples scored now), ``kept`` (samples of shards
            whose rows were there), ``unreadable``, ``not annotated``.
    """

    table: Path
    statistics: CorpusStatistics
    counts: Counter[str]


class CurationJob:
    """Text, overlap with captions and scores of every sample of some shard sets.

    Writes ``table.parquet`` and ``corpus.json`` into the folder, and beside them what a second run takes over: the rows
    of finished shards, and a cache of texts and scores by the pictures' contents (CRC-32 and size, as the indexes hold
    them) and the settings of reader and retriever.

    Args:
        indexes: of the shard sets.
        folder: to write to.
        settings: what decides the table.
        make_reader: makes what reads pictures, in each process; None takes what the shards say.
        scorer: scores pairs, None for no scores; stays in this process.
        workers: processes that read and erase; 1 works in this one.
        on_progress: told of samples done and of all.

    Raises:
        DataError: for settings that contradict each other, and a shard that is given twice.
    """

    def __init__(
        self,
        indexes: Sequence[ShardIndex],
        folder: str | Path,
        settings: CurationSettings,
        make_reader: MakeReader | None = None,
        *,
        scorer: PairScorer | None = None,
        workers: int = 1,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        if workers < 1:
            raise DataError(f"--workers {workers}: must be 1 or more")
        if (scorer is None) != (settings.scorer is None):
            raise DataError("a scorer and the settings' key of it go together")
        self.indexes, self.folder, self.settings = indexes, Path(folder).expanduser(), settings
        self.make_reader, self.scorer = make_reader, scorer
        self.workers, self.on_progress = workers, on_progress
        self.counts: Counter[str] = Counter()
        self.shards = [info for index in indexes for info in index.shards if info.samples]
        twice = [name for name, times in Counter(info.sha256 for info in self.shards).items() if times > 1]
        if twice:
            name = next(info.name for info in self.shards if info.sha256 == twice[0])
            raise DataError(f"the shard {name} is given twice; give each set once")
        self._cache: ResultCache | None = None

    def run(self) -> CurationOutcome:
        """Do all that is not done yet, and write table and statistics.

        Raises:
            DataError: if no sample says what is written in it, though the shards are to say so; or for a folder that
                cannot be written.
        """
        if self.make_reader is not None or self.scorer is not None:
            self._cache = ResultCache(self.folder / CACHE)
        try:
            parts = list(self._parts())
        finally:
            if self._cache is not None:
                self._cache.close()
        if self.make_reader is None and self.counts["samples"] == self.counts[NOT_SAID] > 0:
            raise DataError(
                f"{self.indexes[0].store.location}: not one sample says in its meta what is written in its picture; "
                "read the pictures with --reader rapidocr or --reader tesseract"
            )
        target = self.folder / TABLE
        shards = [{"name": info.name, "samples": info.samples, "sha256": info.sha256} for info in self.shards]
        write_table(target, (pyarrow.parquet.read_table(part) for part in parts), shards, self.settings.to_json())
        statistics = CurationTable.load(target).statistics()
        document = {"settings": self.settings.to_json(), "statistics": statistics.to_json(), "shards": shards}
        _write(self.folder / STATISTICS, json.dumps(_finite(document), indent=1, ensure_ascii=False) + "\n")
        return CurationOutcome(target, statistics, self.counts)

    def _parts(self) -> Iterator[Path]:
        number, done, total = 0, 0, sum(map(len, self.indexes))
        for index in self.indexes:
            examiner = partial(Examiner, index, self.make_reader, self.settings.fuzzy, self.settings.normalise)
            size = (0, 0) if self.scorer is None else self.scorer.image_size
            renderer = partial(Renderer, index, size)
            with (
                Crew(examiner, self.workers, partial(_of_task, index)) as examine,
                Crew(renderer, self.workers, partial(_of_plans, index)) as render,
            ):
                for shard, info in enumerate(index.shards):
                    if not info.samples:
                        continue
                    rows = np.flatnonzero(index.shard == shard).tolist()
                    part = self._part(info, [index.keys[row] for row in rows])
                    if part.exists():
                        self.counts["kept"] += len(rows)
                        self._count(pyarrow.parquet.read_table(part, columns=["caption", "problem"]))
                    else:
                        table = self._shard(index, rows, number, examine, render)
                        self._count(table)
                        _write_part(part, table)
                    number, done = number + 1, done + len(rows)
                    self.on_progress(done, total)
                    yield part

    def _part(self, info: ShardInfo, keys: Sequence[str]) -> Path:
        """The file of a shard's rows under these settings."""
        settings = {name: value for name, value in self.settings.to_json().items() if name != "retriever"}
        about = [_RULES, settings, zlib.crc32("\n".join(keys).encode()), len(keys)]
        digest = sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / PARTS / f"{info.sha256[:24]}-{digest}.parquet"

    def _count(self, rows: pa.Table) -> None:
        first = np.flatnonzero(rows["caption"].to_numpy() <= 0)
        problems = Counter(rows["problem"].take(pa.array(first)).to_pylist())
        self.counts["samples"] += len(first)
        self.counts[NOT_SAID] += problems.pop(NOT_SAID, 0)
        problems.pop(None, None)
        self.counts["unreadable"] += problems.total()

    # One shard -------------------------------------------------------------------------------------------------------

    def _shard(self, index: ShardIndex, rows: Sequence[int], number: int, examine: Examine, render: Render) -> pa.Table:
        found = list(self._examine(index, rows, examine))
        scores: list[Floats | None] = [None] * len(found)
        if self.scorer is not None:
            planner = ScorePlanner(index, found, self.settings.seed)
            planned = [(place, plan) for place, one in enumerate(found) if (plan := planner.plan(one)) is not None]
            for start in range(0, len(planned), _SCORED_AT_ONCE):
                chunk = planned[start : start + _SCORED_AT_ONCE]
                made = self._score(index, [plan for _, plan in chunk], render)
                for (place, _), values in zip(chunk, made, strict=True):
                    scores[place] = values
        return rows_of([index.keys[row] for row in rows], number, found, scores)

    def _examine(self, index: ShardIndex, rows: Sequence[int], examine: Examine) -> Iterator[Examined]:
        known = self.make_reader is None
        size = _KNOWN_AT_ONCE if known else _READ_AT_ONCE
        anchors = index.view_start[np.asarray(rows)]
        contents = zip(index.crc[anchors].tolist(), index.size[anchors].tolist(), strict=True)
        keys = [] if known else [cache_key("text", self.settings.reader, content) for content in contents]

        def tasks() -> Iterator[tuple[Sequence[int], Sequence[bytes | None]]]:
            for start in range(0, len(rows), size):
                some, held = rows[start : start + size], dict[bytes, bytes]()
                wanted = keys[start : start + size]
                if self._cache is not None:
                    held = self._cache.get(wanted)
                yield some, [None] * len(some) if known else [held.get(key) for key in wanted]

        place = 0
        for made in examine(tasks()):
            if not known:
                assert self._cache is not None
                new = {keys[place + n]: to_bytes(one) for n, one in enumerate(made) if one.fresh}
                self.counts["read"] += len(new)
                self._cache.put(new)
            place += len(made)
            yield from made

    def _score(self, index: ShardIndex, plans: Sequence[ScorePlan], render: Render) -> list[Floats | None]:
        assert self.scorer is not None
        assert self._cache is not None
        assert self.settings.scorer is not None
        keys = [plan.key(index, self.settings.scorer) for plan in plans]
        held = self._cache.get(keys)
        todo = [plan for plan, key in zip(plans, keys, strict=True) if key not in held]
        pictures: list[Picture | None] = []
        size = max(-(-len(todo) // self.workers), 1)
        for some in render(todo[start : start + size] for start in range(0, len(todo), size)):
            pictures += some
        able = [(plan, made) for plan, made in zip(todo, pictures, strict=True) if made is not None]
        values = score(self.scorer, [plan for plan, _ in able], [made for _, made in able])
        self.counts["scored"] += len(able)
        by_row = {plan.row: one for (plan, _), one in zip(able, values, strict=True)}
        self._cache.put(
            {key: by_row[plan.row].tobytes() for plan, key in zip(plans, keys, strict=True) if plan.row in by_row}
        )
        found: list[Floats | None] = []
        for plan, key in zip(plans, keys, strict=True):
            kept = held.get(key)
            shape = (len(VARIANTS), len(plan.captions))
            found.append(by_row.get(plan.row) if kept is None else np.frombuffer(kept, dtype=np.float32).reshape(shape))
        return found


def _of_task(index: ShardIndex, task: tuple[Any, ...]) -> str:
    return _samples(index, task[0])


def _of_plans(index: ShardIndex, plans: Sequence[ScorePlan]) -> str:
    return _samples(index, [plan.row for plan in plans])


def _samples(index: ShardIndex, rows: Sequence[int]) -> str:
    """Name some samples of one shard."""
    shard = index.shards[int(index.shard[rows[0]])].name
    first, last = index.keys[rows[0]], index.keys[rows[-1]]
    return f"{shard}, samples {first!r} to {last!r}" if first != last else f"{shard}, sample {first!r}"


def _write_part(path: Path, table: pa.Table) -> None:
    beside = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, beside)
        beside.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error


def _finite(value: Any) -> Any:
    """NaN as null, which JSON knows."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
