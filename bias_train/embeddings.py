"""A gallery and its queries as vectors with their labels, and the files that hold them.

What the audits, the erasers and the explanations read, wherever the vectors come from: a retriever of this project, or
any other system that can write arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.arrays import checked_texts, checked_vectors, read_arrays, read_sides, write_file
from bias_train.errors import RunError

Ints = NDArray[np.int64]
Relevance = Literal["pair", "label"]

REAL = "real"
# Names under which other projects' files hold the same columns.
_ALIASES = {"vectors": "image", "source": "image_source", "prompt_group": "image_target", "target": "image_target"}


@dataclass(frozen=True)
class Embeddings:
    """Everything embedded, on the CPU.

    Attributes:
        image: [M, D] float32 pictures.
        image_key: [M] names of the pictures.
        image_target: [M] int64 what a picture shows: a photo's scene, which its twins share, or a class; -1 unknown.
        image_source: [M] int64, 0 for a real photo, a code above 0 for each generator.
        sources: source names by code; the first is "real".
        text: [Q, D] float32 queries, None where there are only pictures.
        query: [Q] captions or class prompts; empty strings where they are not known.
        query_target: [Q] int64.
        query_slot: [Q] int64, which caption of its target a query is.
        relevance: "pair": targets are scenes; "label": targets are classes.
        target_names: class names by target for "label", else empty.
    """

    image: Tensor
    image_key: tuple[str, ...]
    image_target: Ints
    image_source: Ints
    sources: tuple[str, ...]
    text: Tensor | None = None
    query: tuple[str, ...] = ()
    query_target: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    query_slot: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    relevance: Relevance = "pair"
    target_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.image)

    @property
    def generated(self) -> NDArray[np.bool_]:
        """[M] whether a picture is generated."""
        return self.image_source > 0

    def pictures(self, rows: NDArray[Any]) -> Embeddings:
        """Keep some pictures: integer row numbers, or a bool [M]. All queries stay."""
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            image=self.image[torch.from_numpy(index)],
            image_key=tuple(self.image_key[row] for row in index.tolist()),
            image_target=self.image_target[index],
            image_source=self.image_source[index],
        )

    def queries(self, rows: NDArray[Any]) -> Embeddings:
        """Keep some queries: integer row numbers, or a bool [Q]. All pictures stay."""
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            text=None if self.text is None else self.text[torch.from_numpy(index)],
            query=tuple(self.query[row] for row in index.tolist()),
            query_target=self.query_target[index],
            query_slot=self.query_slot[index],
        )

    def targets(self, keep: Collection[int] | NDArray[Any]) -> Embeddings:
        """Keep the pictures and queries of some targets."""
        wanted = np.asarray(sorted(int(target) for target in keep), dtype=np.int64)
        kept = self.pictures(np.isin(self.image_target, wanted))
        return kept.queries(np.isin(self.query_target, wanted))


def load_embeddings(path: str | Path) -> Embeddings:
    """Read vectors and their labels.

    - ``.npz``, or a folder of ``.npy``: arrays named as the fields of `Embeddings`; ``image`` and ``image_source`` are
      required. ``image_source`` holds codes (names in ``sources``, where given) or names, ``real`` among them.
      ``vectors``, ``source`` and ``prompt_group`` (or ``target``) are taken for ``image``, ``image_source`` and
      ``image_target``. Without ``image_target`` no picture has a known target.
    - ``.parquet``: a row a picture or query, with columns ``side`` ("image" or "text"), ``embedding`` (list of floats),
      ``source`` (name; of pictures), ``target`` (integer) and, where known, ``key``, ``query``, ``slot``; what
      `save_embeddings` writes.

    Raises:
        RunError: naming file and array, for what is missing, of another length, or not finite.
    """
    path = Path(path)
    return _checked(path, read_arrays(path, _from_parquet))


def save_embeddings(path: str | Path, embeddings: Embeddings) -> None:
    """Write what `load_embeddings` reads; the file appears when it is whole.

    Args:
        path: ends in ``.npz`` or ``.parquet``.
        embeddings: what to write.

    Raises:
        RunError: for another ending, or where the file cannot be written.
    """
    write_file(
        path,
        {
            ".npz": lambda partial: _to_npz(partial, embeddings),
            ".parquet": lambda partial: _to_parquet(partial, embeddings),
        },
    )


def _checked(path: Path, found: Mapping[str, NDArray[Any]]) -> Embeddings:
    names = {column.name for column in fields(Embeddings)}
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in found.items():
        ours = _ALIASES.get(name, name)
        if ours in names and (ours == name or ours not in found):
            arrays[ours] = array
    for needed in ("image", "image_source"):
        if needed not in arrays:
            raise RunError(f"{path}: has no array {needed!r}; it holds {', '.join(sorted(found)) or 'none'}")
    image = checked_vectors(path, "image", arrays["image"])
    count = len(image)
    code, sources = _sources(path, arrays["image_source"], arrays.get("sources"))
    asked_with = arrays.get("text")
    text = None if asked_with is None or not asked_with.size else checked_vectors(path, "text", asked_with)
    if text is not None and text.shape[1] != image.shape[1]:
        raise RunError(f"{path}: text has {text.shape[1]} dimensions and image {image.shape[1]}: not one space")
    asked = 0 if text is None else len(text)
    if text is not None and "query_target" not in arrays:
        raise RunError(f"{path}: has queries but no array 'query_target', the target that each asks for")
    columns = {
        "image_target": _ids(path, "image_target", arrays.get("image_target", np.full(count, -1)), count),
        "query_target": _ids(path, "query_target", arrays.get("query_target", np.empty(0)), asked),
        "query_slot": _ids(path, "query_slot", arrays.get("query_slot", np.zeros(asked)), asked),
    }
    if len(code) != count:
        raise RunError(f"{path}: image_source has {len(code)} entries, but there are {count} pictures")
    texts = {
        "image_key": checked_texts(path, "image_key", arrays.get("image_key", np.arange(count)), count),
        "query": checked_texts(path, "query", arrays.get("query", np.full(asked, "")), asked),
    }
    relevance = "".join(str(word) for word in np.atleast_1d(arrays.get("relevance", np.array(""))).tolist())
    if relevance not in ("", "pair", "label"):
        raise RunError(f"{path}: relevance is {relevance!r}; choose pair or label")
    if not relevance:
        relevance = "label" if _several_photos(columns["image_target"], code) else "pair"
    return Embeddings(
        image=image,
        image_key=texts["image_key"],
        image_target=columns["image_target"],
        image_source=code,
        sources=sources,
        text=text,
        query=texts["query"],
        query_target=columns["query_target"],
        query_slot=columns["query_slot"],
        relevance=cast(Relevance, relevance),
        target_names=tuple(str(name) for name in arrays.get("target_names", np.empty(0)).tolist()),
    )


def _several_photos(target: Ints, source: Ints) -> bool:
    photos = target[(source == 0) & (target >= 0)]
    return len(photos) > len(np.unique(photos))


def _sources(path: Path, given: NDArray[Any], names: NDArray[Any] | None) -> tuple[Ints, tuple[str, ...]]:
    if np.issubdtype(given.dtype, np.integer):
        code = given.astype(np.int64)
        top = int(code.max(initial=0))
        if code.min(initial=0) < 0:
            raise RunError(f"{path}: image_source holds a negative code; 0 is real, generators are numbered from 1")
        held = tuple(str(name) for name in names.tolist()) if names is not None else ()
        held = held or (REAL, *(f"generator-{number}" for number in range(1, top + 1)))
        if len(held) <= top:
            raise RunError(f"{path}: image_source goes up to {top}, but sources names only {len(held)}")
        return code, held
    if given.dtype.kind not in "US":
        raise RunError(f"{path}: image_source is {given.dtype}; it must hold names or integer codes")
    spelt = given.astype(str)
    if REAL not in spelt:
        raise RunError(f"{path}: no picture's image_source is {REAL!r}; there are {', '.join(np.unique(spelt)[:8])}")
    held = (REAL, *sorted(set(spelt.tolist()) - {REAL}))
    number = {name: code for code, name in enumerate(held)}
    return np.array([number[name] for name in spelt.tolist()], dtype=np.int64), held


def _ids(path: Path, name: str, array: NDArray[Any], rows: int) -> Ints:
    if array.shape != (rows,) or not (np.issubdtype(array.dtype, np.integer) or array.size == 0 or _whole(array)):
        raise RunError(f"{path}: {name} is {array.dtype} of shape {list(array.shape)}; it must be {rows} integers")
    return array.astype(np.int64)


def _whole(array: NDArray[Any]) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating) and np.all(array == np.round(array)))


def _to_npz(path: Path, embeddings: Embeddings) -> None:
    arrays: dict[str, Any] = {}
    for column in fields(Embeddings):
        value = getattr(embeddings, column.name)
        if isinstance(value, Tensor):
            arrays[column.name] = value.numpy()
        elif value is not None:
            arrays[column.name] = np.asarray(value, dtype=np.str_) if isinstance(value, str | tuple) else value
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _to_parquet(path: Path, embeddings: Embeddings) -> None:
    text = embeddings.text if embeddings.text is not None else embeddings.image[:0]
    vectors = torch.cat([embeddings.image, text]).numpy()
    pictures, asked = len(embeddings.image), len(text)
    table = pa.table(
        {
            "side": ["image"] * pictures + ["text"] * asked,
            "key": [*embeddings.image_key, *[None] * asked],
            "source": [*(embeddings.sources[code] for code in embeddings.image_source.tolist()), *[None] * asked],
            "query": [*[None] * pictures, *embeddings.query],
            "target": np.concatenate([embeddings.image_target, embeddings.query_target]),
            "slot": np.concatenate([np.zeros(pictures, dtype=np.int64), embeddings.query_slot]),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        }
    )
    metadata = {"relevance": embeddings.relevance, "target_names": "\n".join(embeddings.target_names)}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)


def _from_parquet(path: Path) -> dict[str, NDArray[Any]]:
    table, vectors, image = read_sides(path, ("source", "target"))
    text = ~image

    def column(name: str, rows: NDArray[np.bool_]) -> NDArray[Any] | None:
        return None if name not in table.column_names else np.asarray(table[name].filter(pa.array(rows)).to_pylist())

    arrays = {
        "image": vectors[image],
        "image_key": column("key", image),
        "image_source": column("source", image),
        "image_target": column("target", image),
        "text": vectors[text] if text.any() else None,
        "query": column("query", text) if text.any() else None,
        "query_target": column("target", text) if text.any() else None,
        "query_slot": column("slot", text) if text.any() else None,
    }
    found = {name: array for name, array in arrays.items() if array is not None}
    metadata = table.schema.metadata or {}
    if b"relevance" in metadata:
        found["relevance"] = np.array(metadata[b"relevance"].decode())
    if metadata.get(b"target_names"):
        found["target_names"] = np.array(metadata[b"target_names"].decode().split("\n"))
    return found
