"""Selections: how often each sample of some shards is drawn, and which of its captions read otherwise.

A selection is a file beside the shards, which stay as they are. The mixing plan honours it
(:attr:`datamodules.plan.MixSpec.selection`); ``bias-train curate select`` makes one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from datamodules.catalogue import Catalogue, Ints
from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.strings import Strings

_VERSION = 1
_METADATA = b"bias_train_selection"
_REMEDY = "make it anew with `bias-train curate select`"
_NUMBERS = 2**16  # captions that a sample can have, for ids of captions

_SCHEMA = pa.schema(
    [
        ("key", pa.large_string()),
        ("shard", pa.int32()),
        ("weight", pa.float32()),
        ("captions", pa.large_list(pa.struct([("number", pa.int32()), ("text", pa.large_string())]))),
    ]
)


@dataclass(frozen=True)
class Selection:
    """Weights and edited captions of the samples of some shards: N samples, E edited captions.

    Attributes:
        shards: sha256 of each shard that it was made of.
        keys: [N] every sample of these shards.
        shard: [N] int32 place in ``shards``.
        weight: [N] float32 in [0, 1]: how often a sample is drawn, in proportion; 0 leaves it out.
        row: [E] int64 sample of each edited caption, ascending.
        number: [E] int32 which of its anchor's captions.
        text: [E] what the caption reads instead.
        about: how it was made, as JSON; no part of the digest.

    Raises:
        DataError: for weights outside [0, 1], or all 0, a key that occurs twice in a shard, or an edited caption that
            is blank.
    """

    shards: tuple[str, ...]
    keys: Strings
    shard: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]
    row: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    number: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    text: Strings = field(default_factory=lambda: Strings([]))
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bad = np.flatnonzero(~((self.weight >= 0) & (self.weight <= 1)))
        if len(bad):
            first = int(bad[0])
            raise DataError(
                f"selection: sample {self.keys[first]!r} has the weight {self.weight[first]}; weights lie in [0, 1]"
            )
        if not np.any(self.weight > 0):
            raise DataError("selection: leaves no sample, since every weight is 0; widen what selects")
        # Several sets may be edits of the same photos, and share their keys; a shard names a sample once.
        code = self.keys.arrow.dictionary_encode().indices.to_numpy().astype(np.int64)
        if len(np.unique(self.shard * np.int64(len(code)) + code)) != len(code):
            raise DataError("selection: a key occurs twice in a shard; select from each set of shards once")
        blank = next((at for at, text in enumerate(self.text) if not text.strip()), None)
        if blank is not None:
            raise DataError(f"selection: an edited caption of {self.keys[int(self.row[blank])]!r} is blank")

    def __len__(self) -> int:
        """Return the number of samples, those of weight 0 included."""
        return len(self.keys)

    @cached_property
    def digest(self) -> str:
        """Hash of what it selects: equal digests, equal weights and captions of the same shards."""
        found = hashlib.sha256("\n".join(self.shards).encode())
        self.keys.feed(found)
        for column in (self.shard, self.weight, self.row, self.number):
            found.update(np.ascontiguousarray(column).data)
        self.text.feed(found)
        return found.hexdigest()[:32]

    def save(self, path: str | Path) -> None:
        """Write it as parquet, whole or not at all.

        Raises:
            DataError: if it cannot be written.
        """
        target = Path(path)
        start = np.concatenate([[0], np.cumsum(np.bincount(self.row, minlength=len(self)))]).astype(np.int64)
        captions = pa.LargeListArray.from_arrays(
            pa.array(start),
            pa.StructArray.from_arrays(
                [pa.array(self.number), self.text.arrow], fields=list(_SCHEMA.field(3).type.value_type)
            ),
        )
        about = {"version": _VERSION, "shards": list(self.shards), "digest": self.digest, "about": dict(self.about)}
        table = pa.table(
            [self.keys.arrow, pa.array(self.shard), pa.array(self.weight), captions],
            schema=_SCHEMA.with_metadata({_METADATA: json.dumps(about, ensure_ascii=False).encode()}),
        )
        partial = target.with_name(f".{os.getpid()}.partial.{target.name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(table, partial)
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(f"{target}: cannot be written ({error.strerror or error})") from error

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: naming the file, if it is no selection, of another version, or damaged.
        """
        try:
            table = pyarrow.parquet.read_table(path)
            about = json.loads((table.schema.metadata or {})[_METADATA])
        except FileNotFoundError as error:
            raise DataError(f"{path}: there is no such selection; {_REMEDY}") from error
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise DataError(f"{path}: is no selection ({str(error).splitlines()[0]}); {_REMEDY}") from error
        if about.get("version") != _VERSION:
            raise DataError(f"{path}: is a selection of version {about.get('version')}, not {_VERSION}; {_REMEDY}")
        try:
            found = _of_table(table, about)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path}: is a damaged selection ({error}); {_REMEDY}") from error
        if found.digest != about["digest"]:
            raise DataError(f"{path}: is damaged, its digest differs; {_REMEDY}")
        return found


def _of_table(table: pa.Table, about: Mapping[str, Any]) -> Selection:
    table = table.combine_chunks().cast(_SCHEMA)
    key, shard, weight, captions = (
        column.chunk(0) if column.num_chunks else pa.array([], column.type) for column in table.columns
    )
    counts = pc.list_value_length(captions).to_numpy(zero_copy_only=False)
    edits = captions.flatten()
    return Selection(
        shards=tuple(about["shards"]),
        keys=Strings(key),
        shard=shard.to_numpy(),
        weight=weight.to_numpy(),
        row=np.repeat(np.arange(len(key), dtype=np.int64), counts),
        number=edits.field(0).to_numpy(),
        text=Strings(edits.field(1)),
        about=about.get("about") or {},
    )


@dataclass(frozen=True)
class Selected:
    """What a selection says of a catalogue: S samples.

    Attributes:
        digest: of the selection.
        weight: [S] float32; 1 for samples that the selection is not asked about.
        caption_id: [E] int64, ascending: sample and number of each edited caption.
        text: [E] what it reads instead.
    """

    digest: str
    weight: npt.NDArray[np.float32]
    caption_id: Ints
    text: Strings

    @classmethod
    def of(cls, selection: Selection, catalogue: Catalogue, samples: int | None = None) -> Selected:
        """Find a selection's samples in a catalogue.

        Args:
            selection: must be of exactly the shards of these samples.
            catalogue: whose samples.
            samples: the first so many are asked about; all where None. The end of a shard set.

        Raises:
            DataError: naming the shard or key, where the selection was made of other shards, or knows other samples.
        """
        asked = len(catalogue.anchor) if samples is None else samples
        indexes: list[ShardIndex] = []
        for index in catalogue.indexes:
            if sum(map(len, indexes)) < asked:
                indexes.append(index)
        _check_shards(selection, indexes)
        place = np.full(len(selection), -1, dtype=np.int64)  # sample of each row of the selection
        first = 0
        for index in indexes:
            rows = _rows_of(selection, index)
            place[rows] = np.arange(first, first + len(index))
            first += len(index)
        strange = np.flatnonzero(place < 0)
        if len(strange):
            raise DataError(
                f"data.selection knows sample {selection.keys[int(strange[0])]!r}, which the shards of data.train do "
                f"not hold: they were indexed otherwise; {_REMEDY}"
            )
        weight = np.ones(len(catalogue.anchor), dtype=np.float32)
        weight[place] = selection.weight
        sample = place[selection.row]
        over = np.flatnonzero((selection.number < 0) | (selection.number >= catalogue.caption_count[sample]))
        if len(over):
            at = int(over[0])
            raise DataError(
                f"data.selection edits caption {selection.number[at]} of {selection.keys[int(selection.row[at])]!r}, "
                f"which has {catalogue.caption_count[sample[at]]} captions, counted from 0; {_REMEDY}"
            )
        ids = caption_id(sample, selection.number)
        order = np.argsort(ids, kind="stable")
        return cls(selection.digest, weight, ids[order], selection.text.take(order))

    @property
    def left_out(self) -> npt.NDArray[np.bool_]:
        """[S] which samples have weight 0."""
        return np.asarray(self.weight == 0)

    def caption(self, sample: int, number: int) -> str | None:
        """What a sample's caption reads instead; None where it stays as it is."""
        wanted = sample * _NUMBERS + number
        at = int(np.searchsorted(self.caption_id, wanted))
        return self.text[at] if at < len(self.caption_id) and self.caption_id[at] == wanted else None


def caption_id(sample: Any, number: Any) -> Ints:
    """Ids of captions: [n] samples and [n] numbers to [n] int64."""
    return np.asarray(np.asarray(sample, dtype=np.int64) * _NUMBERS + number, dtype=np.int64)


def _check_shards(selection: Selection, indexes: Sequence[ShardIndex]) -> None:
    held = {
        info.sha256: f"{index.store.location}/{info.name}" for index in indexes for info in index.shards if info.samples
    }
    known = set(selection.shards)
    if new := sorted(name for digest, name in held.items() if digest not in known):
        raise DataError(
            f"data.selection was made of other shards: it does not know {new[0]}"
            + (f" and {len(new) - 1} more" if len(new) > 1 else "")
            + f"; {_REMEDY} from a table of all sets of data.train"
        )
    if gone := sorted(known - held.keys()):
        raise DataError(
            f"data.selection was made of other shards: {len(gone)} of its {len(known)} shards (sha256 "
            f"{gone[0][:8]}...) are not in data.train; give the same sets, or {_REMEDY}"
        )


def _rows_of(selection: Selection, index: ShardIndex) -> Ints:
    """Rows of the selection that each sample of an index has: [S]."""
    here = np.array([info.sha256 for info in index.shards])
    own = np.flatnonzero(np.isin(np.array(selection.shards), here)[selection.shard])
    found = pc.index_in(index.keys.arrow, selection.keys.take(own).arrow)
    if found.null_count:
        first = int(np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(
            f"data.selection says nothing of sample {index.keys[first]!r} of {index.store.location}: its shards were "
            f"indexed otherwise; {_REMEDY}"
        )
    return np.asarray(own[found.to_numpy()], dtype=np.int64)
