"""Which slots of a batch hold an edited anchor, and which edit of it, as a pure function of (seed, step, plan)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np

from datamodules.catalogue import Catalogue, Ints
from datamodules.errors import DataError
from datamodules.hashing import mix, uniform
from datamodules.order import ShuffledOrder
from datamodules.quota import Quota

Kind = Literal["removed", "added"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PREFIX: dict[Kind, str] = {"removed": "no-", "added": "with-"}
"""How the names of views begin, before the name of the object."""

# Of the rules that turn a specification into slots: raised when they change, so that no run goes on under other rules.
_RELEASE = "1"

# What a hash is drawn for; apart from the numbers of the mixing plan, which has the same seed.
_ORDER, _SLOT, _VIEW, _CAPTION = range(61, 65)


@dataclass(frozen=True)
class EditSpec:
    """How many slots hold an edited anchor, and which edits count.

    Attributes:
        share: of the anchors, in [0, 1].
        kinds: ``removed``: views without an object; ``added``: views with a pasted one.
    """

    share: float = 0.25
    kinds: tuple[Kind, ...] = KINDS

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise DataError(f"data.edit_share must lie in [0, 1], got {self.share}")
        if not self.kinds:
            raise DataError(f"data.kinds is empty; choose {' or '.join(KINDS)}, or both")
        for kind in self.kinds:
            if kind not in KINDS:
                raise DataError(f"data.kinds names {kind!r}; choose {' or '.join(KINDS)}, or both")


@dataclass(frozen=True)
class EditSlots:
    """The edited anchors of one global batch, K of them.

    Attributes:
        position: [K] slots in the global batch, ascending.
        sample: [K] sample of each.
        caption: [K] which of its captions, one that the edit changes.
        view: [K] picture id of the edit.
        added: [K] bool, whether the edit pastes an object in.
        epoch: [K] passes over the edited anchors that were complete before this one.
    """

    position: Ints
    sample: Ints
    caption: Ints
    view: Ints
    added: np.ndarray[tuple[int], np.dtype[np.bool_]]
    epoch: Ints


class EditPlan:
    """Edited anchors of every step.

    A view counts if its name says what was done to it (``no-dog``, ``with-dog``), and it has captions of its own of
    which some differ from the anchor's: those that mention the object. Views are gone through in turn: a sample with
    three of them shows one in each pass. Of its captions a slot gets one of those that differ.

    Every block of a batch holds the floor or the ceiling of the share's due. A slot that holds an edited anchor at one
    share holds one at every higher share, where shares lie at least one slot per block apart.

    Attributes:
        catalogue: of all shards, ordinary and edited.
        spec: what to draw.
        samples: [M] samples with a view that counts.
        views: how many views count, by kind.
        left_out: views of the wanted kinds none of whose captions differ from the anchor's.

    Raises:
        DataError: where no view counts, or a view's captions are not as many as its anchor's.
    """

    def __init__(
        self, catalogue: Catalogue, samples: Ints, spec: EditSpec, batch_size: int, blocks: int, shuffle: int, seed: int
    ) -> None:
        self.catalogue, self.spec, self.seed = catalogue, spec, seed
        self.batch_size, self.blocks = batch_size, blocks
        self._quota = Quota.of([1.0 - spec.share, spec.share], batch_size // blocks)
        self._find(samples)
        if not len(self.samples):
            raise DataError(
                f"the shards of data.edited hold no edits of data.kinds = {', '.join(spec.kinds)} whose captions "
                "differ from the anchors'; make some with `bias-train synthesize decorrelated`"
            )
        self._order = ShuffledOrder(catalogue.sample_shard[self.samples], shuffle, seed, _ORDER)

    def _find(self, samples: Ints) -> None:
        """Look for views that count among some samples, which are in ascending order."""
        catalogue = self.catalogue
        prefixes = [PREFIX[kind] for kind in self.spec.kinds]
        wanted = np.array([name.startswith(tuple(prefixes)) for name in catalogue.view_names])
        added = np.array([name.startswith(PREFIX["added"]) for name in catalogue.view_names])
        first, last = (int(samples[0]), int(samples[-1])) if len(samples) else (0, -1)
        views = np.flatnonzero(
            wanted[catalogue.picture_view] & (catalogue.picture_sample >= first) & (catalogue.picture_sample <= last)
        )
        captions = [self._changed_captions(int(view)) for view in views]
        counts = np.array([len(changed) > 0 for changed in captions], dtype=bool)
        self.left_out = int(len(views) - counts.sum())
        self._view = views[counts]
        self._added = added[catalogue.picture_view[self._view]]
        self._changed_start, self._changed = _ragged([changed for changed in captions if changed])
        self.samples, start = np.unique(catalogue.picture_sample[self._view].astype(np.int64), return_index=True)
        self._view_start = np.append(start, len(self._view))
        self.views = {kind: int((self._added == (kind == "added")).sum()) for kind in self.spec.kinds}

    def _changed_captions(self, view: int) -> list[int]:
        """Numbers of the captions that an edit changes."""
        catalogue = self.catalogue
        before = catalogue.captions(int(catalogue.anchor[catalogue.picture_sample[view]]))
        after = catalogue.captions(view)
        if len(before) != len(after):
            raise DataError(
                f"{catalogue.name(view)}: has {len(after)} captions, but its anchor has {len(before)}; an edit has one "
                "for each of the anchor's, in their order"
            )
        return [number for number, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What determines the slots, to compare two plans; names begin with ``edits.``."""
        parts = {f"edits.{key}": json.dumps(value) for key, value in asdict(self.spec).items()}
        return {**parts, "edits.order": _RELEASE}

    def slots(self, step: int) -> EditSlots:
        """Choose the slots of one global batch and fill them."""
        size = self.batch_size // self.blocks
        totals = self._quota.cumulative(step * self.blocks + np.arange(self.blocks + 1, dtype=np.int64))[:, 1]
        slot = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        rank = uniform(self.seed, _SLOT, slot).reshape(self.blocks, size).argsort(axis=1, kind="stable")
        position = np.concatenate(
            [block * size + np.sort(rank[block, :count]) for block, count in enumerate(np.diff(totals))]
        )
        row, epoch = self._order.take(totals[0] + np.arange(len(position), dtype=np.int64))
        sample = self.samples[row]
        choices = np.diff(self._view_start)[row]
        turn = (mix(self.seed, _VIEW, sample) % choices.astype(np.uint64)).astype(np.int64) + epoch
        which = self._view_start[row] + turn % choices
        changed = np.diff(self._changed_start)[which]
        drawn = (uniform(self.seed, _CAPTION, sample, epoch) * changed).astype(np.int64)
        caption = self._changed[self._changed_start[which] + drawn]
        return EditSlots(position, sample, caption, self._view[which].astype(np.int64), self._added[which], epoch)

    def shards_ahead(self, step: int) -> Ints:
        """Shards that a batch's edited anchors and those soon after it are read from: numbers of the catalogue."""
        return self._order.shards_ahead(int(self._quota.cumulative(step * self.blocks)[1]))


def _ragged(rows: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Lists of several lengths as where each starts, [n + 1], and all of them in a row."""
    start = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    return start, np.array([value for row in rows for value in row], dtype=np.int64)
