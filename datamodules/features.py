"""What a frozen tower makes of pictures, kept: a folder with one file of vectors for each shard.

A feature depends on the tower and on the picture alone, so the folder belongs to one tower (its key is a hash of
weights, architecture and preprocessing) and a file to one shard (it is named by the shard's checksum, whatever set the
shard is listed in). Every file appears when it is whole: what an interruption leaves is completed later, shard by
shard.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.catalogue import Catalogue, Ints
from datamodules.errors import DataError
from datamodules.store import ShardInfo

Floats = npt.NDArray[np.float32]

MANIFEST = "features.json"
_VERSION = 1
_COMMAND = "bias-train embed"


class FeatureFolder:
    """A folder of features.

    Args:
        folder: made by :meth:`create`.

    Attributes:
        key: hash of what the features depend on beside the pictures, see ``Retriever.tower_key``.
        width: D.
        model: for people, what made them.

    Raises:
        DataError: if the folder holds no features, or those of another version of this format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        file = self.folder / MANIFEST
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"{self.folder}: holds no features; `{_COMMAND} {self.folder} ...` makes them") from error
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{file}: cannot be read ({error}); remove the folder and make it anew") from error
        if document.get("version") != _VERSION:
            raise DataError(f"{file}: is of version {document.get('version')}, not {_VERSION}; make the folder anew")
        self.key, self.width, self.model = str(document["key"]), int(document["width"]), str(document["model"])

    @classmethod
    def create(cls, folder: str | Path, key: str, width: int, model: str) -> FeatureFolder:
        """Open a folder to add to, or begin one.

        Raises:
            DataError: if it holds the features of another tower.
        """
        place = Path(folder)
        if not (place / MANIFEST).exists():
            place.mkdir(parents=True, exist_ok=True)
            partial = place / f".partial.{MANIFEST}"
            document = {"version": _VERSION, "key": key, "width": width, "model": model}
            partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            partial.replace(place / MANIFEST)
        found = cls(place)
        found.check(key)
        return found

    def check(self, key: str) -> None:
        """Refuse features that another tower made.

        Raises:
            DataError: naming the folder and both keys.
        """
        if key != self.key:
            raise DataError(
                f"{self.folder}: holds features of {self.model} (key {self.key}), but the retriever's key is {key}: "
                f"weights, architecture or preprocessing differ. Name another folder, or make one with `{_COMMAND}`"
            )

    def path(self, shard: ShardInfo) -> Path:
        """Where a shard's features are."""
        return self.folder / f"{shard.sha256[:32]}.npy"

    def write(self, shard: ShardInfo, rows: Floats) -> None:
        """Keep a shard's features [n, D], in the order of its pictures; NaN in rows of pictures that have none."""
        final = self.path(shard)
        partial = final.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, rows)
        partial.replace(final)

    def read(self, shard: ShardInfo, pictures: int) -> Floats:
        """Map a shard's features: [pictures, D].

        Raises:
            DataError: naming the shard, where its features are missing, or are of another number of pictures.
        """
        try:
            rows: Floats = np.load(self.path(shard), mmap_mode="r")
        except FileNotFoundError as error:
            raise DataError(
                f"{self.folder}: has no features of the shard {shard.name} ({shard.sha256[:8]}...): it is new, has "
                f"changed, or the folder is not complete; `{_COMMAND}` adds what is missing"
            ) from error
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path(shard)}: cannot be read ({error}); remove it and run `{_COMMAND}`") from error
        if rows.shape != (pictures, self.width) or rows.dtype != np.float32:
            raise DataError(
                f"{self.path(shard)}: holds {rows.dtype} {list(rows.shape)}, but the index lists {pictures} pictures "
                f"of {shard.name}, {self.width} wide: it was indexed otherwise; remove the file and run `{_COMMAND}`"
            )
        return rows


class Features:
    """The features of a catalogue's pictures, mapped from files. Loader workers map them anew.

    Args:
        folder: of features.
        catalogue: all of whose shards must have theirs.

    Raises:
        DataError: naming the first shard whose features are missing or stale.
    """

    def __init__(self, folder: FeatureFolder, catalogue: Catalogue) -> None:
        self.folder, self.catalogue = folder, catalogue
        self._tables = [
            folder.read(shard, int(count))
            for shard, count in zip(shards_of(catalogue), self._layout[2].tolist(), strict=True)
        ]

    def __reduce__(self) -> tuple[Callable[..., Features], tuple[Any, ...]]:
        return Features, (self.folder, self.catalogue)

    @property
    def width(self) -> int:
        """D."""
        return self.folder.width

    def rows(self, pictures: Ints) -> Floats:
        """Read pictures' features: [n] ids to [n, D]; NaN where a picture could not be read."""
        found = np.empty((len(pictures), self.width), dtype=np.float32)
        shard, place, _ = self._layout
        for number in np.unique(shard[pictures]).tolist():
            here = np.flatnonzero(shard[pictures] == number)
            found[here] = self._tables[number][place[pictures[here]]]
        return found

    def row(self, picture: int) -> Floats:
        """Read one picture's: [D]."""
        shard, place, _ = self._layout
        return self._tables[int(shard[picture])][int(place[picture])]

    @cached_property
    def _layout(self) -> tuple[Ints, Ints, Ints]:
        return layout(self.catalogue)


def layout(catalogue: Catalogue) -> tuple[Ints, Ints, Ints]:
    """Where each picture's features are: [V] shard number, [V] row among the shard's, and [shards] rows in each."""
    shard = catalogue.sample_shard[catalogue.picture_sample].astype(np.int64)
    counts = np.bincount(shard, minlength=len(shards_of(catalogue)))
    order = np.argsort(shard, kind="stable")
    place = np.empty(len(shard), dtype=np.int64)
    place[order] = np.arange(len(shard)) - np.repeat(np.cumsum(counts) - counts, counts)
    return shard, place, counts


def shards_of(catalogue: Catalogue) -> list[ShardInfo]:
    """All shards, in the order of their numbers."""
    return [shard for index in catalogue.indexes for shard in index.shards]
