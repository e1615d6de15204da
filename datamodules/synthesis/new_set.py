"""A shard set in the making, beside the one that it is made of: which shards are done, and its index at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

from datamodules.errors import DataError
from datamodules.index import ShardIndex, build_index
from datamodules.index_file import INDEX_NAME
from datamodules.reencode import ImageFormat
from datamodules.synthesis.part import claimed
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.work import FOLDER, Counts, ShardWork
from datamodules.writer import ShardWriter


class NewSet:
    """A set with a shard for each of the photos' shards, of the same name.

    Args:
        photos: what it is made of.
        out: its folder.
    """

    def __init__(self, photos: Photos, out: Path) -> None:
        self.photos, self.out, self.work = photos, out, out / FOLDER

    def work_on(self, shard: str) -> ShardWork:
        """The work on one shard."""
        return ShardWork(self.work, shard.removesuffix(".tar"))

    def begin(self) -> None:
        """Make the folders.

        Raises:
            DataError: if they cannot be made, or hold another set.
        """
        if self.photos.location and Path(self.photos.location).resolve() == self.out.resolve():
            raise DataError(f"{self.out}: holds the photos; give another folder for the new set")
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.out}: cannot be written ({error.strerror})") from error
        if not (self.work / "settings.json").is_file() and any(self.out.glob("*.tar")):
            raise DataError(f"{self.out}: holds shards already, which are not of this set; give another folder")

    def digest_of_photos(self) -> str:
        """Hash of the photos' shards, which all processes of a set must agree on."""
        text = "\n".join(f"{info.name} {info.samples} {info.sha256}" for info in self.photos.index.shards)
        return sha256(text.encode()).hexdigest()

    def make_each(self, shards: Iterable[str], make: Callable[[str, ShardWork], None]) -> None:
        """Make shards that are not done.

        Args:
            shards: their names.
            make: makes one; the lock on its work is held.
        """
        # First what nobody else has in hand, then the rest: by then it is done, or its process is gone.
        for wait in (False, True):
            for name in shards:
                work = self.work_on(name)
                with claimed(work.lock, wait=wait) as mine:
                    if not mine:
                        continue
                    if work.is_done:  # it may have been done while we waited; a kill may have left its pictures
                        work.clear()
                    else:
                        make(name, work)

    def write_shard(
        self,
        shard: str,
        work: ShardWork,
        counts: Counts,
        image_format: ImageFormat,
        fill: Callable[[ShardWriter], None],
    ) -> None:
        """Write a shard, put it in place and note that it is done.

        Args:
            shard: its name.
            work: on it; its lock is held.
            counts: what became of its samples, completed by ``fill``.
            image_format: of its pictures.
            fill: writes its samples; a shard without any is left out of the set.

        Raises:
            DataError: if the output cannot be written.
        """
        # A writer puts a set in place; here it is a set of one shard, in the work folder, that moves from there.
        making = work.folder / "assembled"
        shutil.rmtree(making, ignore_errors=True)
        writer = ShardWriter(making, samples_per_shard=len(self.photos.rows(shard)) + 1, image_format=image_format)
        try:
            fill(writer)
            if not len(writer):
                work.finish(counts, None)
                return
            writer.close()
        finally:
            writer.abort()
        assert writer.index is not None
        (info,) = writer.index.shards
        try:
            os.replace(making / info.name, self.out / shard)
        except OSError as error:
            raise DataError(f"{self.out}: cannot be written ({error.strerror})") from error
        counts.samples = len(writer)
        work.finish(counts, info.sha256)

    def counts_of(self, shards: list[str]) -> Counts:
        """What became of finished shards, whoever made them.

        Raises:
            DataError: if one is not done.
        """
        counts = Counts()
        for name in shards:
            work = self.work_on(name)
            if not work.is_done:
                raise DataError(f"{self.out / name}: another process gave it up; run the same command again to go on")
            counts.add(work.outcome()[0])
        return counts

    def missing(self) -> list[str]:
        """Shards of the set that are not done yet."""
        return [name for name in self.photos.shards if not self.work_on(name).is_done]

    def finish(self) -> ShardIndex:
        """Write the index of the whole set; of processes that do so at once, one does.

        Raises:
            DataError: if shards are missing.
        """
        missing = self.missing()
        if missing:
            raise DataError(
                f"{self.out}: {len(missing)} of {len(self.photos.shards)} shards are not done yet ({missing[0]} for "
                "one); run the parts that make them"
            )
        with claimed(self.work / "finish.lock", wait=True):
            if (self.out / INDEX_NAME).is_file():
                return ShardIndex.load(self.out)
            outcomes = {name: self.work_on(name).outcome() for name in self.photos.shards}
            checksums = {name: checksum for name, (_, checksum) in outcomes.items() if checksum is not None}
            if not checksums:
                raise DataError(f"{self.out}: not one picture could be read; there is no shard set")
            index = build_index([self.out / name for name in checksums], checksums=checksums)
            index.save(self.out / INDEX_NAME)
        return ShardIndex.load(self.out)
