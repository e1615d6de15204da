"""The shards that twins are made for, read sample by sample."""

from __future__ import annotations

from functools import cached_property

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.reencode import image_size


class Photos:
    """Samples of a shard set, by shard.

    Args:
        index: of the set.

    Raises:
        DataError: if shards lie in several folders, whose names could meet in one.
    """

    def __init__(self, index: ShardIndex) -> None:
        self.index = index
        self.shards = [info.name for info in index.shards]
        if any("/" in name or not name.endswith(".tar") for name in self.shards):
            raise DataError(f"{self.location}: shards in folders below it; give one folder of .tar files")
        self._numbers = {name: number for number, name in enumerate(self.shards)}

    @property
    def location(self) -> str:
        """Where they lie."""
        return self.index.store.location

    @cached_property
    def _rows_by_shard(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self.shards]
        for row, shard in enumerate(self.index.shard.tolist()):
            found[shard].append(row)
        return found

    def rows(self, shard: str) -> list[int]:
        """The samples of a shard, by their numbers in the index."""
        return self._rows_by_shard[self._numbers[shard]]

    def key(self, row: int) -> str:
        """A sample's key."""
        return self.index.keys[row]

    def picture(self, row: int, view: int = 0) -> bytes:
        """The bytes of a sample's anchor, or of its n-th view.

        Raises:
            SampleError: if they cannot be read or are not those that were indexed.
        """
        index, at = self.index, int(self.index.view_start[row]) + view
        return index.read_picture(int(index.shard[row]), int(index.offset[at]), int(index.size[at]), int(index.crc[at]))

    def views(self, row: int) -> dict[str, bytes | None]:
        """The bytes of a sample's views by name, None for one that cannot be read."""
        found: dict[str, bytes | None] = {}
        index = self.index
        for view in range(1, int(index.view_start[row + 1] - index.view_start[row])):
            name = index.view_names[int(index.view_name[int(index.view_start[row]) + view])]
            try:
                data = self.picture(row, view)
                image_size(data, name)
                found[name] = data
            except DataError:
                found[name] = None
        return found
