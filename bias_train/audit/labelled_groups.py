"""Reads predictions, or vectors to predict from, with classes and groups (Waterbirds, CelebA, and the like)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.arrays import checked_texts, checked_vectors, read_arrays
from bias_train.errors import RunError
from bias_train.metrics.functional.inputs import check_embeddings
from bias_train.stats import Ints


@dataclass(frozen=True)
class LabelledGroups:
    """Items with class, group and prediction.

    Attributes:
        correct: [N] bool, whether the prediction was right.
        label: [N] int64 the class.
        group: [N] int64 the group.
        labels: names of the classes.
        groups: names of the groups.
    """

    correct: NDArray[np.bool_]
    label: Ints
    group: Ints
    labels: tuple[str, ...]
    groups: tuple[str, ...]


def read_groups(path: Path) -> LabelledGroups:
    """Read items with class and group.

    - ``.csv``: columns ``label``, ``group`` and ``prediction``.
    - ``.npz``, or a folder of ``.npy``: ``image`` floats [N, D], ``label`` and ``group`` [N], and prompts of the
      classes, ``text`` floats [V, D] with ``text_label`` [V]. Predicted is the class whose prompts have the largest
      mean score (dot product).

    Raises:
        RunError: naming file and column, for what is missing or does not fit.
    """
    if path.suffix == ".csv":
        label, group, prediction = _from_csv(path)
    else:
        label, group, prediction = _from_vectors(path, read_arrays(path, _no_parquet))
    if not len(label):
        raise RunError(f"{path}: holds no item")
    labels, code = np.unique(label, return_inverse=True)
    groups, of_group = np.unique(group, return_inverse=True)
    return LabelledGroups(
        label == prediction,
        code.reshape(-1).astype(np.int64),
        of_group.reshape(-1).astype(np.int64),
        tuple(map(str, labels.tolist())),
        tuple(map(str, groups.tolist())),
    )


_Columns = tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.str_]]


def _from_csv(path: Path) -> _Columns:
    names = ("label", "group", "prediction")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in names if name not in (reader.fieldnames or ())]
            if missing:
                raise RunError(f"{path}: has no column {missing[0]!r}; it has {', '.join(reader.fieldnames or ())}")
            rows = [tuple((row[name] or "").strip() for name in names) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
    empty = next((number for number, row in enumerate(rows, start=1) if not all(row)), None)
    if empty is not None:
        raise RunError(f"{path}: item {empty} lacks its label, group or prediction")
    table = np.array(rows, dtype=np.str_).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _no_parquet(path: Path) -> dict[str, NDArray[Any]]:
    raise RunError(f"{path}: give a .csv of predictions, or vectors as .npz or a folder of .npy")


def _from_vectors(path: Path, arrays: dict[str, NDArray[Any]]) -> _Columns:
    for name in ("image", "label", "group", "text", "text_label"):
        if name not in arrays:
            raise RunError(f"{path}: has no array {name!r}; it holds {', '.join(sorted(arrays))}")
    image, text = (checked_vectors(path, name, arrays[name]) for name in ("image", "text"))
    label, group = (np.array(checked_texts(path, name, arrays[name], len(image))) for name in ("label", "group"))
    of_text = np.array(checked_texts(path, "text_label", arrays["text_label"], len(text)))
    classes = np.unique(of_text)
    strange = sorted(set(label.tolist()) - set(classes.tolist()))
    if strange:
        raise RunError(f"{path}: no prompt is of the class {strange[0]!r}")
    try:
        check_embeddings(image=image, text=text)
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error
    return label, group, classes[_predicted(image, text, of_text, classes)]


def _predicted(image: Tensor, text: Tensor, of_text: NDArray[Any], classes: NDArray[Any]) -> Ints:
    """[N] number of the class with the largest mean score; the first of several."""
    prompts = torch.stack([text[torch.from_numpy(of_text == name)].double().mean(dim=0) for name in classes.tolist()])
    return (image.double() @ prompts.T).argmax(dim=1).numpy()
