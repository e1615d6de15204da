"""Material whose bias is planted in one direction, so that what a remedy must do is known."""

from __future__ import annotations

import numpy as np
import torch

from bias_train.embeddings import Embeddings
from bias_train.people.vectors import GroupPrompts, People, Words
from bias_train.remedies.material import Material
from datamodules.groups import grouping

WIDTH = 16
GENDER, RACE = 0, 1  # the dimensions that hold them


def unit(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=-1, keepdims=True)).float()


def material(seed: int = 0, pictures: int = 400, words: int = 12, scenes: int = 60) -> Material:
    """People of two genders and three races; words that lean to a gender; scenes with two captions each."""
    rng = np.random.default_rng(seed)
    gender, race = rng.integers(-1, 2, pictures), rng.integers(0, 3, pictures)
    gender[:2] = 0, 1
    image = 0.5 * rng.standard_normal((pictures, WIDTH)) + 0.4
    image[:, GENDER] += 1.2 * (gender == 1) - 1.2 * (gender == 0)
    image[:, RACE] += 0.6 * race
    text = 0.4 * rng.standard_normal((words, WIDTH)) + 0.4
    text[:, GENDER] = np.resize([1.5, -1.5], words)
    direction = np.eye(WIDTH)[GENDER]
    labels = ("Female", "Male")
    composed = text[:, None] + 2.0 * np.stack([-direction, direction])
    alone = 0.4 + np.concatenate([-direction + 0.05 * rng.standard_normal((3, WIDTH)),
                                  direction + 0.05 * rng.standard_normal((3, WIDTH))])  # fmt: skip
    content = rng.standard_normal((scenes, WIDTH))
    asked = np.repeat(np.arange(scenes), 2)
    names = [*(f"w{row}" for row in range(words - 1)), "w0"]  # the last is the first in another category
    named = grouping("gender", [("Female", "Male", None)[code] for code in gender.tolist()], labels)
    people = People(
        3.0 * unit(image),  # of another length, which must not matter
        tuple(f"p{row}" for row in range(pictures)),
        (named, grouping("race", [("a", "b", "c")[code] for code in race.tolist()])),
    )
    return Material(
        people,
        named,
        Words(unit(text), tuple(names), ("x",) * (words - 1) + ("y",), ("",) * words, ("core",) * words),
        GroupPrompts(unit(alone), "gender", ("Female",) * 3 + ("Male",) * 3, ("",) * 6),
        unit(composed),
        Embeddings(
            image=unit(content),
            image_key=tuple(f"s{row}" for row in range(scenes)),
            image_target=np.arange(scenes),
            image_source=np.zeros(scenes, dtype=np.int64),
            sources=("real",),
            text=unit(content[asked] + 0.8 * rng.standard_normal((2 * scenes, WIDTH))),
            query=("",) * (2 * scenes),
            query_target=asked,
            query_slot=np.tile([0, 1], scenes),
        ),
    )
