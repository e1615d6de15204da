"""Decides what is done to each sample: which objects go, what its captions become, what is pasted in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.decorrelation.edit_captions import CaptionEditor
from datamodules.decorrelation.settings import DecorrelationSettings
from datamodules.errors import DataError
from datamodules.hashing import generator, string_id
from datamodules.objects.mentions import Mentions
from datamodules.objects.pairs import Pair, mine_pairs, npmi
from datamodules.objects.vocabulary import slug
from datamodules.sample import Sample
from datamodules.synthesis.photos import Photos
from datamodules.taxonomy.prompts import with_article

CROWD = "a crowd of the category is annotated"
UNEDITABLE = "no caption is left without it"
_WITHOUT_ARTICLE = frozenset({"broccoli", "scissors", "skis"})
_DECOYS = 8  # objects that are drawn for a sample, of which one is pasted

Objects = tuple[Mapping[str, Any], ...]


class Donor(NamedTuple):
    """An object of another picture that can be pasted.

    Attributes:
        row: of its sample.
        number: in the sample's objects.
    """

    row: int
    number: int


@dataclass(frozen=True)
class Removal:
    """One object to take out of a sample.

    Attributes:
        category: of all the instances that go.
        captions: what the sample's captions become, in their order.
        how: how each came about: "untouched", "deleted", "hypernym", or "borrowed" from another caption of the sample.
        mentioned: whether each caption mentioned the object before.
    """

    category: str
    captions: tuple[str, ...]
    how: tuple[str, ...]
    mentioned: tuple[bool, ...]


@dataclass(frozen=True)
class Decoy:
    """An object to paste into a sample: its category, where it comes from, and the captions with it."""

    category: str
    donor: Donor
    captions: tuple[str, ...]


@dataclass(frozen=True)
class EditPlan:
    """What is done to one sample.

    Attributes:
        key: of the sample.
        removals: one view each, and one control each.
        decoys: what could be pasted in; the first that finds its place is.
        dropped: (view, why) of what cannot be done.
    """

    key: str
    removals: tuple[Removal, ...] = ()
    decoys: tuple[Decoy, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()


class ObjectSource:
    """Annotated objects of samples: those of the shards' ``meta["objects"]``, or of a side file by key.

    Args:
        side: objects by key, instead of the shards'.
    """

    def __init__(self, side: Mapping[str, Any] | None = None) -> None:
        self.side = side

    def of(self, sample: Sample) -> Objects:
        """The objects of a sample.

        Raises:
            DataError: naming the sample, if they are no list of objects with a category and a place.
        """
        found = sample.meta.get("objects") if self.side is None else self.side.get(sample.key)
        if found is None:
            return ()
        if not isinstance(found, list) or not all(isinstance(thing, Mapping) and _is_object(thing) for thing in found):
            raise DataError(
                f"sample {sample.key!r}: its objects must be a list of {{'category': ..., 'box': [left, top, width, "
                "height]}, each with 'polygons' or 'rle' where they are known"
            )
        return tuple(found)


def _is_object(thing: Mapping[str, Any]) -> bool:
    return isinstance(thing.get("category"), str) and any(thing.get(name) for name in ("polygons", "rle", "box"))


class Planner:
    """Reads what a whole set shows, mines its pairs, and plans any of its samples.

    Every process of a set reads the whole set, so that all mine the same pairs and draw from the same donors.

    Args:
        photos: the samples.
        mentions: the parser; its vocabulary says which categories there are.
        objects: where objects are looked up.
        settings: what decides the data.
        cosine: [C, C] likeness of the categories' names, None where nothing measured it.
        related: pairs that are related.

    Raises:
        DataError: if no sample has objects of the vocabulary.
    """

    def __init__(
        self,
        photos: Photos,
        mentions: Mentions,
        objects: ObjectSource,
        settings: DecorrelationSettings,
        *,
        cosine: npt.NDArray[np.floating] | None = None,
        related: Collection[frozenset[str]] = (),
    ) -> None:
        self.photos, self.mentions, self.objects, self.settings = photos, mentions, objects, settings
        self.editor = CaptionEditor(mentions)
        self.categories = mentions.vocabulary.categories
        self._number = {category: at for at, category in enumerate(self.categories)}
        self.unknown: set[str] = set()
        self._donors: dict[str, list[Donor]] = {}
        self.present = self._read()
        if not self.present.any():
            raise DataError(
                f"{photos.location}: no sample has objects of the vocabulary (found: "
                f"{', '.join(sorted(self.unknown)[:5]) or 'none at all'}); import them with --instances, give "
                "--objects FILE.json, or a --vocabulary of these categories"
            )
        self.pairs = mine_pairs(
            self.present,
            self.categories,
            min_npmi=settings.min_npmi,
            min_support=settings.min_support,
            cosine=cosine,
            related=related,
        )
        self._partners: dict[str, set[str]] = {}
        for pair in self.mined:
            self._partners.setdefault(pair.a, set()).add(pair.b)
        # Of objects that come together by chance at most, and are not alike, one is pasted in.
        tied = npmi(self.present) > 0
        if cosine is not None:
            tied |= cosine >= np.median(cosine[np.triu_indices(len(self.categories), 1)])
        for one, other in (sorted(pair) for pair in related):
            tied[self._number[one], self._number[other]] = tied[self._number[other], self._number[one]] = True
        self._tied = tied

    @property
    def mined(self) -> list[Pair]:
        """The pairs that are edited."""
        return [pair for pair in self.pairs if not pair.why]

    def _read(self) -> npt.NDArray[np.bool_]:
        index = self.photos.index
        present = np.zeros((len(index), len(self.categories)), dtype=bool)
        for row in range(len(index)):
            for number, thing in enumerate(self.objects.of(index.sample(row))):
                category = thing["category"]
                if category not in self._number:
                    self.unknown.add(category)
                    continue
                present[row, self._number[category]] = True
                # A box is no outline to cut along.
                if not thing.get("crowd") and (thing.get("polygons") or thing.get("rle")):
                    self._donors.setdefault(category, []).append(Donor(row, number))
        return present

    def plan(self, row: int) -> EditPlan:
        """Plan one sample."""
        sample = self.photos.index.sample(row)
        mentioned = [self.mentions.of(caption) for caption in sample.captions]
        shown = {self.categories[at] for at in np.flatnonzero(self.present[row])}
        wanted = set().union(*mentioned) & shown
        if not self.settings.all_objects:
            wanted = {category for category in wanted if self._partners.get(category, set()) & shown}
        crowds = {thing["category"] for thing in self.objects.of(sample) if thing.get("crowd")}
        removals, dropped = [], []
        for category in sorted(wanted):
            view = f"no-{slug(category)}"
            removal = self._removal(sample, category, [category in those for those in mentioned])
            if category in crowds:
                dropped.append((view, CROWD))
            elif removal is None:
                dropped.append((view, UNEDITABLE))
            else:
                removals.append(removal)
        near = shown.union(*mentioned)
        decoys = tuple(self._decoys(row, sample, near)) if removals and self.settings.decoys else ()
        return EditPlan(sample.key, tuple(removals), decoys, tuple(dropped))

    def _removal(self, sample: Sample, category: str, mentioned: Sequence[bool]) -> Removal | None:
        """Edit the captions; one that cannot stand without the object takes another's place, which is as true."""
        edits = [self.editor(caption, category) for caption in sample.captions]
        sound = [edit for edit in edits if edit is not None and edit.how != "hypernym"]
        captions, how = [], []
        for number, edit in enumerate(edits):
            if (edit is None or edit.how == "hypernym") and sound:
                captions.append(sound[number % len(sound)].text)
                how.append("borrowed")
            elif edit is not None:
                captions.append(edit.text)
                how.append(edit.how)
            else:
                return None
        return Removal(category, tuple(captions), tuple(how), tuple(mentioned))

    def _decoys(self, row: int, sample: Sample, near: Collection[str]) -> Iterator[Decoy]:
        numbers = [self._number[category] for category in near]
        free = [
            category
            for category in sorted(self._donors)
            if category not in near and not self._tied[self._number[category], numbers].any()
        ]
        rng = generator(self.settings.seed, string_id(sample.key), string_id("decoy"))
        for _ in range(_DECOYS if free else 0):
            category = free[int(rng.integers(len(free)))]
            donors = self._donors[category]
            donor = donors[int(rng.integers(len(donors)))]
            if donor.row != row:
                captions = tuple(with_mention(caption, category) for caption in sample.captions)
                yield Decoy(category, donor, captions)


def with_mention(caption: str, category: str) -> str:
    """Say that an object is there too.

    >>> with_mention("A man rides a horse.", "umbrella")
    'A man rides a horse and an umbrella.'
    >>> with_mention("A man", "scissors")
    'A man and scissors'
    """
    text = caption.rstrip()
    stop = "." if text.endswith(".") else ""
    bare = (category.endswith("s") and not category.endswith("ss")) or category == "broccoli"
    name = category if bare and category != "bus" else with_article(category)
    return f"{text.rstrip(' .')} and {name}{stop}"
