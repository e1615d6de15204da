"""What every importer makes: records of samples whose pictures still lie where they were. And their way into shards."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from datamodules.errors import DataError
from datamodules.hashing import string_id
from datamodules.importers.files import FileTree, Picture, without_suffix
from datamodules.index import ShardIndex
from datamodules.problems import Problems
from datamodules.reencode import Encoded, ImageFormat
from datamodules.sample import REAL, Sample, View, check_name
from datamodules.writer import ShardWriter

SPLITS = ("train", "val", "valid", "validation", "dev", "test")


@dataclass(frozen=True)
class Record:
    """A sample to be written.

    Attributes:
        sample: its description.
        image: the anchor's file.
        views: the views' files.
        split: the part of the data set that it belongs to, "" where the data set has none.
        identity: what it is called whatever its source: hold-out and order hang on it.
    """

    sample: Sample
    image: Picture
    identity: str
    split: str = ""
    views: Mapping[str, Picture] = field(default_factory=dict)


@dataclass
class Collection:
    """What an importer found, and what it had to leave out."""

    records: list[Record] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in the order in which people name them."""
        found = {record.split for record in self.records}
        return sorted(found, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))


class Keys:
    """Makes keys of paths: unique, and such that webdataset cuts them where we mean.

    Args:
        source: of the anchors.
        prefix: put before every key; by default nothing for photos and the generator's name for generated pictures, so
            that photos and pictures of equal file names can be mixed.
    """

    def __init__(self, source: str, prefix: str | None = None) -> None:
        check_name(source, "--source")
        self.prefix = prefix if prefix is not None else "" if source == REAL else f"{source}-"
        self._seen: set[str] = set()

    def make(self, name: str) -> str:
        """A new key for a path without suffix."""
        clean = key = re.sub(r"[^\w-]+", "-", self.prefix + name).strip("-") or "picture"
        attempt = 0
        while key in self._seen:
            # Different names that clean to one key, or one name with two suffixes.
            key = f"{clean}-{blake2b(f'{name} {attempt}'.encode(), digest_size=4).hexdigest()}"
            attempt += 1
        self._seen.add(key)
        return key


def attach_twins(collection: Collection, twins: Mapping[str, FileTree]) -> Collection:
    """Give every record the pictures of the same name in other trees as views.

    Args:
        collection: records of photos.
        twins: trees by generator. A twin has its photo's path or file name, whatever its suffix.
    """
    for generator in twins:
        check_name(generator, "--twins")
        if generator == REAL:
            raise DataError("--twins: 'real' is no generator; the photos are the main input")
    records = []
    found = dict.fromkeys(twins, 0)
    for record in collection.records:
        views, pictures = dict(record.sample.views), dict(record.views)
        for generator, tree in twins.items():
            name = tree.find(without_suffix(record.image.name))
            if name is None:
                collection.problems.add(f"no twin by {generator}", record.image.name)
                continue
            views[generator] = View(generator)
            pictures[generator] = Picture(tree, name)
            found[generator] += 1
        records.append(replace(record, sample=replace(record.sample, views=views), views=pictures))
    for generator, count in found.items():
        if not count:
            raise DataError(
                f"--twins {generator}={twins[generator].path}: none of its {len(twins[generator].pictures)} pictures "
                "has the name of a photo"
            )
        collection.problems.update(twins[generator].problems)
    return Collection(records, collection.problems)


def hold_out(collection: Collection, share: float) -> Collection:
    """Split records into "train" and "val" by the hash of their identity, whatever their source and order.

    Args:
        collection: records without splits.
        share: of the identities that go to "val", in (0, 1).

    Raises:
        DataError: if the share leaves one part empty, or the data set has splits of its own.
    """
    if not 0.0 < share < 1.0:
        raise DataError(f"--holdout {share:g}: must lie between 0 and 1")
    if collection.splits != [""]:
        raise DataError(f"--holdout: the data set has splits of its own ({', '.join(collection.splits)})")
    identities = sorted({record.identity for record in collection.records}, key=string_id)
    held = set(identities[: round(share * len(identities))])
    if not 0 < len(held) < len(identities):
        raise DataError(f"--holdout {share:g}: leaves a part of the {len(identities)} pictures empty")
    records = [replace(record, split="val" if record.identity in held else "train") for record in collection.records]
    return Collection(records, collection.problems)


def write_collection(
    collection: Collection,
    folder: str | Path,
    *,
    split: str | None = None,
    image_format: ImageFormat | None = None,
    samples_per_shard: int = 1000,
    keep_order: bool = False,
    limit: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    on_sample: Callable[[int, int], None] | None = None,
) -> dict[str, ShardIndex]:
    """Write records as shard sets: one per split, in a folder of its name, or just ``folder`` without splits.

    A record whose picture cannot be read is left out and counted; a view that cannot be read is left out of its sample.

    Args:
        collection: what an importer found.
        folder: where to write.
        split: write this split alone, into ``folder`` itself.
        image_format: how pictures are encoded; by default all alike.
        samples_per_shard: samples in each shard.
        keep_order: keep the importer's order; by default records are shuffled by the hash of their identity, so that a
            shard is a fair part of the set and not one class of it.
        limit: at most so many samples of each split.
        workers: threads that decode and encode; the result does not depend on them.
        overwrite: replace sets that stand there.
        on_sample: called with the records done and their total, for a progress bar.

    Returns:
        Index by split.

    Raises:
        DataError: if there is nothing to write.
    """
    if limit is not None and limit < 1:
        raise DataError(f"--limit {limit}: must be 1 or more")
    if workers is not None and workers < 1:
        raise DataError(f"--workers {workers}: must be 1 or more")
    splits = collection.splits
    if not splits:
        why = "; ".join(collection.problems.lines())
        raise DataError(f"nothing to import was found{f' ({why})' if why else ''}")
    if split is not None and split not in splits:
        names = ", ".join(splits) if splits != [""] else "none"
        raise DataError(f"--split {split}: the data set's splits are: {names}")
    parts = {name: [record for record in collection.records if record.split == name] for name in splits}
    if split is not None:
        parts = {split: parts[split]}
    if not keep_order:
        parts = {name: sorted(records, key=lambda r: string_id(r.identity)) for name, records in parts.items()}
    parts = {name: records[:limit] for name, records in parts.items()}
    total, done = sum(map(len, parts.values())), 0
    image_format = image_format or ImageFormat()
    indexes = {}
    for name, records in parts.items():
        target = Path(folder) / name if split is None else Path(folder)
        with ShardWriter(
            target, samples_per_shard=samples_per_shard, image_format=image_format, overwrite=overwrite
        ) as writer:
            for made in _encode_all(records, image_format, workers or min(os.cpu_count() or 1, 16)):
                for kind, where in made.problems:
                    collection.problems.add(kind, where)
                if made.sample is not None and made.image is not None:
                    writer.write(made.sample, made.image, made.views)
                done += 1
                if on_sample is not None:
                    on_sample(done, total)
            if not len(writer):
                raise DataError(f"{target}: no picture could be read: {'; '.join(collection.problems.lines())}")
        assert writer.index is not None
        indexes[name] = writer.index
    return indexes


@dataclass
class _Made:
    sample: Sample | None = None
    image: Encoded | None = None
    views: dict[str, Encoded] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


def _encode(record: Record, image_format: ImageFormat) -> _Made:
    made = _Made()
    try:
        made.image = image_format.encode(record.image.read(), str(record.image))
    except DataError as error:
        made.problems.append(("broken picture", str(error)))
        return made
    views = dict(record.sample.views)
    for name, picture in record.views.items():
        try:
            made.views[name] = image_format.encode(picture.read(), str(picture))
        except DataError as error:
            made.problems.append(("broken view", str(error)))
            del views[name]
    made.sample = replace(record.sample, views=views)
    return made


def _encode_all(records: Iterable[Record], image_format: ImageFormat, workers: int) -> Iterator[_Made]:
    """Encode in threads (Pillow lets go of the interpreter lock), yield in order, hold only a few pictures at once."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Made]] = deque()
        try:
            for record in records:
                waiting.append(pool.submit(_encode, record, image_format))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
