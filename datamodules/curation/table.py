"""The table of a curation: a row for each caption, as parquet."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from datamodules.curation.corpus import CorpusStatistics, corpus_statistics
from datamodules.curation.examine import NOT_SAID, Examined
from datamodules.curation.relative import net, rsa, rsc
from datamodules.curation.scoring import VARIANTS
from datamodules.errors import DataError

_VERSION = 1
_METADATA = b"bias_train_curation"
_REMEDY = "make it with `bias-train curate text`"

SCORES = tuple(f"score_{name.replace('-', '_')}" for name in VARIANTS)
RELATIVE = ("rsa", "rsc", "rsa_net", "rsc_net")

SCHEMA = pa.schema(
    [
        ("key", pa.large_string()),
        ("shard", pa.int32()),
        ("caption", pa.int32()),  # -1 where a sample has none
        ("text", pa.large_string()),
        ("written", pa.large_list(pa.large_string())),  # pieces of text in the picture
        ("spans", pa.int32()),
        ("area", pa.float32()),
        ("problem", pa.large_string()),
        ("unspaced", pa.bool_()),
        *((name, pa.float32()) for name in ("cotr", "fuzzy_cotr", *SCORES, *RELATIVE)),
    ]
)


def rows_of(keys: Sequence[str], shard: int, examined: Sequence[Examined], scores: Sequence[Any]) -> pa.Table:
    """Put what was found of some samples into rows.

    Args:
        keys: of the samples.
        shard: number of the shard that they are of.
        examined: text and CoTR of each.
        scores: [6, C] float32 of each, None where there are none.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for key, one, scored in zip(keys, examined, scores, strict=True):
        written = [span.text for span in one.text.spans] if one.text is not None else []
        for number in range(len(one.captions)) or (-1,):
            said = number >= 0
            columns["key"].append(key)
            columns["shard"].append(shard)
            columns["caption"].append(number)
            columns["text"].append(one.captions[number] if said else None)
            columns["written"].append(written)
            columns["spans"].append(len(written))
            columns["area"].append(one.area)
            columns["problem"].append(one.problem or None)
            columns["unspaced"].append(one.unspaced[number] if said else False)
            columns["cotr"].append(one.cotr[number] if said else math.nan)
            columns["fuzzy_cotr"].append(one.fuzzy[number] if said and one.fuzzy else None)
            values = None if scored is None or not said else scored[:, number]
            for name, value in zip((*SCORES, *RELATIVE), _figures(values), strict=True):
                columns[name].append(value)
    return pa.table(columns, schema=SCHEMA)


def _figures(scores: npt.NDArray[np.floating[Any]] | None) -> tuple[float | None, ...]:
    """Scores, and what follows from them; None where there are none."""
    if scores is None:
        return (None,) * (len(SCORES) + len(RELATIVE))
    raw, erased, erased_caption, control, control_caption, _ = scores.astype(np.float64)
    all_text, said = rsa(raw, erased), rsc(raw, erased_caption)
    figures = (all_text, said, net(all_text, raw, control), net(said, raw, control_caption))
    return (*map(float, scores), *map(float, figures))


@dataclass(frozen=True)
class CurationTable:
    """A table and what it was made of.

    Attributes:
        table: of `SCHEMA`; the rows of a sample are together.
        shards: name, samples and sha256 of each shard, by number.
        settings: how it was made.
    """

    table: pa.Table
    shards: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> CurationTable:
        """Read a table; a folder stands for the table in it.

        Raises:
            DataError: naming the file, if there is none, or one of something else.
        """
        file = Path(path)
        if file.is_dir():
            file = file / TABLE
        try:
            table = pyarrow.parquet.read_table(file)
            about = json.loads((table.schema.metadata or {})[_METADATA])
            if about["version"] != _VERSION:
                raise DataError(f"{file}: is a table of version {about['version']}, not {_VERSION}; {_REMEDY}")
            table = table.cast(SCHEMA.with_metadata(table.schema.metadata))
        except FileNotFoundError as error:
            raise DataError(f"{file}: there is no such table; {_REMEDY}") from error
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise DataError(f"{file}: is no table of a curation ({str(error).splitlines()[0]}); {_REMEDY}") from error
        return cls(table, tuple(about["shards"]), about["settings"])

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers: [R], NaN where it is empty."""
        return np.asarray(self.table[name].to_numpy())

    @property
    def sample(self) -> npt.NDArray[np.int64]:
        """[R] number of each row's sample, from 0 on."""
        # A row begins a sample where its caption is its first: 0, or -1 for none.
        return np.cumsum(self.column("caption") <= 0).astype(np.int64) - 1

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """[S] first row of each sample."""
        return np.flatnonzero(self.column("caption") <= 0)

    def statistics(self) -> CorpusStatistics:
        """The corpus's figures."""
        table, first = self.table, self.first
        problem = table["problem"].take(pa.array(first)).to_pylist()
        known = np.array([one in (None, NOT_SAID) for one in problem], dtype=bool)
        sample = self.sample
        said = self.column("caption") >= 0
        measured = {name: self.column(name).astype(np.float64)[said] for name in ("fuzzy_cotr", *SCORES, *RELATIVE)}
        empty = {name for name in measured if table[name].null_count == len(table)}
        return corpus_statistics(
            sample[said],
            self.column("cotr").astype(np.float64)[said],
            has_text=self.column("spans")[first] > 0,
            known=known,
            area=self.column("area")[first],
            fuzzy=None if "fuzzy_cotr" in empty else measured["fuzzy_cotr"],
            unspaced=np.asarray(table["unspaced"].to_numpy(), dtype=bool)[said],
            scores={name: measured[name] for name in (*SCORES, *RELATIVE) if name not in empty},
        )


TABLE = "table.parquet"


def write_table(path: Path, parts: Iterable[pa.Table], shards: Sequence[Any], settings: Mapping[str, Any]) -> None:
    """Write parts one after the other, whole or not at all."""
    about = {"version": _VERSION, "shards": list(shards), "settings": dict(settings)}
    schema = SCHEMA.with_metadata({_METADATA: json.dumps(about, ensure_ascii=False).encode()})
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pyarrow.parquet.ParquetWriter(partial, schema) as writer:
            for part in parts:
                writer.write_table(part.cast(SCHEMA).replace_schema_metadata(schema.metadata))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
