"""Pictures of people with their groups, and neutral words to ask with, as vectors, and the files that hold them.

What the social audit and the remedies read, wherever the vectors come from: a retriever of this project
(`bias_train.people.embed`), or any other system that can write arrays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.arrays import checked_texts, checked_vectors, read_arrays, read_sides, write_file
from bias_train.errors import RunError
from datamodules.errors import DataError
from datamodules.groups import Grouping, Ints, attribute, grouping

Rows = NDArray[np.integer[Any]] | NDArray[np.bool_]

_ATTRIBUTE = "attribute_"  # arrays of groups are called attribute_race, attribute_gender, ...
_LABELS = "labels_"  # and labels_race the groups in their order
_OF_WORDS = ("word", "category", "prompt", "tier")


@dataclass(frozen=True)
class People:
    """Embedded pictures of people, on the CPU.

    Attributes:
        image: [M, D] float32.
        key: [M] names of the pictures.
        groupings: one for each attribute that is known of them.
    """

    image: Tensor
    key: tuple[str, ...]
    groupings: tuple[Grouping, ...]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.image)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes."""
        return tuple(part.name for part in self.groupings)

    def rows(self, keep: Rows) -> People:
        """Keep some pictures: integer row numbers, or a bool [M]. Groups stay groups, also without a picture left."""
        index = _numbers(keep)
        return People(
            self.image[torch.from_numpy(index)],
            tuple(self.key[row] for row in index.tolist()),
            tuple(part.rows(index) for part in self.groupings),
        )

    def grouping(self, name: str, minimum: int = 0) -> Grouping:
        """The pictures divided by an attribute, or by several crossed, see :func:`datamodules.groups.attribute`.

        Args:
            name: such as ``"race"`` or ``"race x gender"``.
            minimum: groups with fewer pictures are none: their pictures' group is unknown.

        Raises:
            RunError: for an attribute that the pictures do not carry, or where no group is large enough.
        """
        try:
            return attribute(self.groupings, name, minimum)
        except DataError as error:
            raise RunError(str(error)) from error


@dataclass(frozen=True)
class Words:
    """Embedded neutral queries, on the CPU; a row is a (category, word), so that a word of two categories has two.

    Attributes:
        text: [W, D] float32.
        word: [W] the words.
        category: [W] theirs.
        prompt: [W] the text that was embedded.
        tier: [W] how well established the word is, see `datamodules.taxonomy`.
    """

    text: Tensor
    word: tuple[str, ...]
    category: tuple[str, ...]
    prompt: tuple[str, ...]
    tier: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.text)

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """[W] (category, word)."""
        return tuple(zip(self.category, self.word, strict=True))

    def rows(self, keep: Rows) -> Words:
        """Keep some queries: integer row numbers, or a bool [W]."""
        index = _numbers(keep)
        columns = (self.word, self.category, self.prompt, self.tier)
        return Words(
            self.text[torch.from_numpy(index)],
            *(tuple(column[row] for row in index.tolist()) for column in columns),
        )


@dataclass(frozen=True)
class GroupPrompts:
    """Embedded queries that name a group of people, such as "A photo of a woman.", on the CPU.

    Attributes:
        text: [V, D] float32.
        attribute: whose groups they name, such as ``"gender"`` or ``"race x gender"``.
        group: [V] the group that each names.
        prompt: [V] the text that was embedded.
    """

    text: Tensor
    attribute: str
    group: tuple[str, ...]
    prompt: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.text)

    def rows(self, keep: Rows) -> GroupPrompts:
        """Keep some prompts: integer row numbers, or a bool [V]."""
        index = _numbers(keep)
        return replace(
            self,
            text=self.text[torch.from_numpy(index)],
            group=tuple(self.group[row] for row in index.tolist()),
            prompt=tuple(self.prompt[row] for row in index.tolist()),
        )

    def codes(self, labels: Sequence[str]) -> Ints:
        """[V] int64, the place of each prompt's group among some labels.

        Raises:
            RunError: for a prompt whose group is none of them.
        """
        number = {label: code for code, label in enumerate(labels)}
        strange = next((group for group in self.group if group not in number), None)
        if strange is not None:
            raise RunError(f"a prompt names {self.attribute} {strange!r}, which is none of {', '.join(labels)}")
        return np.array([number[group] for group in self.group], dtype=np.int64)


def load_people(path: str | Path) -> tuple[People, Words | None]:
    """Read pictures of people, and words where the file has them.

    - ``.npz``, or a folder of ``.npy``: ``image`` floats [M, D]; for each attribute ``attribute_<name>`` [M], names of
      groups, empty where the group is not known; where wanted, ``image_key`` [M] and ``labels_<name>`` [G], the groups
      in their order (else those that occur, sorted). ``text`` floats [W, D] with ``word`` [W] and, where known,
      ``category``, ``prompt`` and ``tier`` [W].
    - ``.parquet``: a row a picture or word, with columns ``side`` ("image" or "text"), ``embedding`` (list of floats),
      ``attribute_<name>`` and, where known, ``key``, ``word``, ``category``, ``prompt``, ``tier``.

    Returns:
        Pictures and words; None for a file without ``text``.

    Raises:
        RunError: naming file and array, for what is missing, of another length, or not finite, and for a word that
            stands twice in a category.
    """
    path = Path(path)
    arrays = read_arrays(path, _from_parquet)
    attributes = [name.removeprefix(_ATTRIBUTE) for name in sorted(arrays) if name.startswith(_ATTRIBUTE)]
    held = ", ".join(sorted(arrays)) or "none"
    if "image" not in arrays:
        raise RunError(f"{path}: has no array 'image'; it holds {held}")
    if not attributes:
        raise RunError(f"{path}: says no picture's group; add an array such as {_ATTRIBUTE}gender (it holds {held})")
    image = checked_vectors(path, "image", arrays["image"])
    key = checked_texts(path, "image_key", arrays.get("image_key", np.arange(len(image))), len(image))
    groupings = tuple(_grouping(path, name, arrays, len(image)) for name in attributes)
    people = People(image, key, groupings)
    if "text" not in arrays or not arrays["text"].size:
        return people, None
    words = _words(path, arrays)
    if words.text.shape[1] != image.shape[1]:
        raise RunError(f"{path}: text has {words.text.shape[1]} dimensions and image {image.shape[1]}: not one space")
    return people, words


def save_people(path: str | Path, people: People, words: Words | None = None) -> None:
    """Write what `load_people` reads; the file appears when it is whole.

    Args:
        path: ends in ``.npz`` or ``.parquet``.
        people: pictures.
        words: queries, if there are any.

    Raises:
        RunError: for another ending, or where the file cannot be written.
    """
    write_file(
        path,
        {
            ".npz": lambda partial: _to_npz(partial, people, words),
            ".parquet": lambda partial: _to_parquet(partial, people, words),
        },
    )


def _numbers(keep: Rows) -> Ints:
    return np.flatnonzero(keep) if keep.dtype == np.bool_ else np.asarray(keep, dtype=np.int64)


def _grouping(path: Path, name: str, arrays: dict[str, NDArray[Any]], rows: int) -> Grouping:
    array = arrays[f"{_ATTRIBUTE}{name}"]
    if array.dtype.kind not in "US":
        raise RunError(f"{path}: {_ATTRIBUTE}{name} is {array.dtype}; it must hold names of groups")
    values = checked_texts(path, f"{_ATTRIBUTE}{name}", array.astype(np.str_), rows)
    labels = arrays.get(f"{_LABELS}{name}")
    try:
        return grouping(name, values, None if labels is None else [str(label) for label in labels.tolist()])
    except DataError as error:
        raise RunError(f"{path}: {error}") from error


def _words(path: Path, arrays: dict[str, NDArray[Any]]) -> Words:
    text = checked_vectors(path, "text", arrays["text"])
    if "word" not in arrays:
        raise RunError(f"{path}: has queries but no array 'word', the word that each asks with")
    word, category, prompt, tier = (
        checked_texts(path, name, arrays.get(name, np.full(len(text), "")), len(text)) for name in _OF_WORDS
    )
    words = Words(text, word, category, prompt, tier)
    (twice, count), *_ = Counter(words.keys).most_common(1)
    if count > 1:
        raise RunError(f"{path}: the word {twice[1]!r} of category {twice[0]!r} stands {count} times; keep one of them")
    return words


def _to_npz(path: Path, people: People, words: Words | None) -> None:
    arrays: dict[str, Any] = {"image": people.image.numpy(), "image_key": np.asarray(people.key, dtype=np.str_)}
    for part in people.groupings:
        arrays[f"{_ATTRIBUTE}{part.name}"] = np.asarray(_names(part), dtype=np.str_)
        arrays[f"{_LABELS}{part.name}"] = np.asarray(part.labels, dtype=np.str_)
    if words is not None:
        arrays["text"] = words.text.numpy()
        for name in _OF_WORDS:
            arrays[name] = np.asarray(getattr(words, name), dtype=np.str_)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _names(part: Grouping) -> list[str]:
    named = (*part.labels, "")  # the last is -1, unknown
    return [named[code] for code in part.code.tolist()]


def _to_parquet(path: Path, people: People, words: Words | None) -> None:
    asked = 0 if words is None else len(words)
    vectors = (people.image if words is None else torch.cat([people.image, words.text])).numpy()
    columns: dict[str, Any] = {
        "side": ["image"] * len(people) + ["text"] * asked,
        "key": [*people.key, *[None] * asked],
    }
    for part in people.groupings:
        columns[f"{_ATTRIBUTE}{part.name}"] = [*_names(part), *[None] * asked]
    if words is not None:
        for name in _OF_WORDS:
            columns[name] = [*[None] * len(people), *getattr(words, name)]
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    metadata = {f"{_LABELS}{part.name}": "\n".join(part.labels) for part in people.groupings}
    pyarrow.parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


def _from_parquet(path: Path) -> dict[str, NDArray[Any]]:
    table, vectors, image = read_sides(path, ())
    found: dict[str, NDArray[Any]] = {"image": vectors[image]}
    if not image.all():
        found["text"] = vectors[~image]
    for name in table.column_names:
        pictures = name == "key" or name.startswith(_ATTRIBUTE)
        if pictures or name in _OF_WORDS:
            values = table[name].filter(pa.array(image if pictures else ~image)).to_pylist()
            spelt = ["" if value is None else str(value) for value in values]
            found["image_key" if name == "key" else name] = np.asarray(spelt, dtype=np.str_)
    for key, labels in (table.schema.metadata or {}).items():
        if labels and key.decode().startswith(_LABELS):
            found[key.decode()] = np.array(labels.decode().split("\n"))
    return found
