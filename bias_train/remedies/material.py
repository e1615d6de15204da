"""What remedies are fitted to and what they are measured on, and that the two have nothing in common."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.people.vectors import GroupPrompts, People, Words
from bias_train.stats import Floats, Ints
from datamodules.groups import Grouping
from datamodules.hashing import mix
from models.remedies import Calibration

Bools = NDArray[np.bool_]

_PICTURES, _WORDS, _PAIRS = 401, 402, 403


@dataclass(frozen=True)
class Material:
    """What one retriever makes of people, words and ordinary pairs. All vectors are brought to unit length.

    Attributes:
        people: M pictures whose group by ``grouping`` is known.
        grouping: the attribute in question.
        words: W neutral queries.
        prompts: queries that name a group alone, or None.
        composed: [W, G, D] each word's queries with each group, in the groups' order, or None.
        pairs: ordinary pictures and their captions, or None.
    """

    people: People
    grouping: Grouping
    words: Words
    prompts: GroupPrompts | None = None
    composed: Tensor | None = None
    pairs: Embeddings | None = None

    def __post_init__(self) -> None:
        if len(self.grouping) < 2:
            raise RunError(
                f"{self.grouping.name}: only {', '.join(self.grouping.labels)} has enough pictures; bias is between "
                "groups, so give a set with several, or a lower --minimum"
            )
        if self.pairs is not None and self.pairs.text is None:
            raise RunError("--pairs: holds no captions to ask with")
        width = self.people.image.shape[1]
        for name, text in (
            ("the words", self.words.text),
            ("the group prompts", None if self.prompts is None else self.prompts.text),
            ("the pairs", None if self.pairs is None else self.pairs.image),
        ):
            if text is not None and text.shape[1] != width:
                raise RunError(f"{name} are {text.shape[1]} wide and the pictures of people {width}: not one space")
        known = self.grouping.known
        object.__setattr__(self, "people", _unit_people(self.people.rows(known)))
        object.__setattr__(self, "grouping", self.grouping.rows(known))
        object.__setattr__(self, "words", replace(self.words, text=_unit("the words", self.words.text)))

    def explicit(self, rows: Ints) -> GroupPrompts | None:
        """Some words' queries with each group, word by word, as retention asks them."""
        if self.composed is None:
            return None
        labels = self.grouping.labels
        text = self.composed[torch.from_numpy(rows)].flatten(0, 1)
        return GroupPrompts(text, self.grouping.name, labels * len(rows), ("",) * len(text))


@dataclass(frozen=True)
class Split:
    """Which part of the material is fitted to.

    Attributes:
        pictures: [M] whether a picture is held out.
        words: [W] whether a word is held out; where none is, all are both fitted to and measured.
        targets: scenes of the ordinary pairs that are held out.
    """

    pictures: Bools
    words: Bools
    targets: Ints


def split(material: Material, held_out: float = 0.5, held_out_words: float = 0.5, seed: int = 0) -> Split:
    """Split pictures by group, words, and the scenes of ordinary pairs.

    Pictures that are the same to the last bit go to one side, and so does a word of two categories.

    Args:
        material: everything.
        held_out: share of the pictures of each group, and of the scenes, that are measured only; in (0, 1).
        held_out_words: share of the words that are measured only; in [0, 1).
        seed: of the choices.

    Raises:
        RunError: for shares out of range, or a group too small to be on both sides.
    """
    if not 0.0 < held_out < 1.0:
        raise RunError(f"--held-out is {held_out:g}; give a share between 0 and 1")
    if not 0.0 <= held_out_words < 1.0:
        raise RunError(f"--held-out-words is {held_out_words:g}; give a share from 0 and below 1")
    grouping, image = material.grouping, material.people.image.numpy()
    _, copy = np.unique(image, axis=0, return_inverse=True)
    pictures = np.zeros(len(image), dtype=bool)
    for code, label in enumerate(grouping.labels):
        rows = np.flatnonzero(grouping.code == code)
        pictures[rows] = _chosen(copy.ravel()[rows], held_out, seed, _PICTURES)
        if pictures[rows].all() or not pictures[rows].any():
            raise RunError(
                f"{grouping.name} {label!r} has {len(rows)} pictures: too few to fit to some and measure others; raise "
                "--minimum, or change --held-out"
            )
    _, word = np.unique(material.words.word, return_inverse=True)
    targets = np.empty(0, dtype=np.int64)
    if material.pairs is not None:
        ids = np.unique(material.pairs.query_target)
        targets = ids[_chosen(ids, held_out, seed, _PAIRS)]
    return Split(pictures, _chosen(word, held_out_words, seed, _WORDS), targets)


def _chosen(ids: Ints, share: float, seed: int, stream: int) -> Bools:
    """[n] a share of the distinct ids, chosen at random."""
    found = np.unique(ids)
    order = np.argsort(mix(seed, stream, found), kind="stable")
    return np.isin(ids, found[order[: round(share * len(found))]])


def calibration_of(material: Material, target: Floats, held: Split | None = None, seed: int = 0) -> Calibration:
    """What remedies are fitted to.

    Args:
        material: everything.
        target: [G] wanted shares.
        held: what is held out; None to fit to all.
        seed: of whatever a remedy draws.
    """
    pictures, words = np.arange(len(material.people)), np.arange(len(material.words))
    targets = np.empty(0, dtype=np.int64) if material.pairs is None else np.unique(material.pairs.query_target)
    if held is not None:
        pictures, words = np.flatnonzero(~held.pictures), np.flatnonzero(~held.words)
        targets = np.setdiff1d(targets, held.targets)
    width = material.people.image.shape[1]
    nothing = torch.empty(0, width)
    prompts, prompt_group = nothing, torch.empty(0, dtype=torch.int64)
    if material.prompts is not None:
        prompts = _unit("the group prompts", material.prompts.text)
        prompt_group = torch.from_numpy(material.prompts.codes(material.grouping.labels))
    pair_image, pair_text = nothing, nothing
    if material.pairs is not None:
        pair_image, pair_text = _row_by_row(material.pairs.targets(targets))
    composed = material.composed
    return Calibration(
        image=material.people.image[torch.from_numpy(pictures)],
        group=torch.from_numpy(material.grouping.code[pictures]),
        labels=material.grouping.labels,
        words=material.words.text[torch.from_numpy(words)],
        group_prompts=prompts,
        prompt_group=prompt_group,
        target=torch.from_numpy(target),
        pair_image=pair_image,
        pair_text=pair_text,
        seed=seed,
        composed=None if composed is None else F.normalize(composed[torch.from_numpy(words)], dim=2),
    )


def _row_by_row(pairs: Embeddings) -> tuple[Tensor, Tensor]:
    """[m, D] pictures and [m, D] captions of ordinary pairs, a row a caption; captions without a picture left out."""
    assert pairs.text is not None  # Material has seen to it
    order = np.argsort(pairs.image_target, kind="stable")
    place = np.searchsorted(pairs.image_target[order], pairs.query_target).clip(max=max(len(order) - 1, 0))
    first = order[place] if len(order) else np.empty(0, dtype=np.int64)
    there = pairs.image_target[first] == pairs.query_target if len(order) else np.zeros(0, dtype=bool)
    image = pairs.image[torch.from_numpy(first[there])]
    text = pairs.text[torch.from_numpy(np.flatnonzero(there))]
    return _unit("the pairs' pictures", image), _unit("the pairs' captions", text)


def _unit_people(people: People) -> People:
    return replace(people, image=_unit("the pictures of people", people.image))


def _unit(what: str, rows: Tensor) -> Tensor:
    """Bring rows to unit length, on which remedies are fitted and cosines rank.

    Raises:
        RunError: naming a row that has no length.
    """
    length = rows.double().norm(dim=1, keepdim=True)
    if not bool((length > 0).all()):
        row = int(torch.nonzero(~(length[:, 0] > 0))[0, 0])
        raise RunError(f"{what}: row {row} is all zeros or no number: it has no direction")
    return (rows.double() / length).float()
