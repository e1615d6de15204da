"""Which slots of a batch carry a picture with a wrong word on it, as a pure function of (seed, step, plan)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from datamodules.catalogue import Catalogue, Ints
from datamodules.errors import DataError
from datamodules.hashing import uniform
from datamodules.plan import MixSpec, Slots
from datamodules.quota import Quota

# Of the rules that turn a specification into slots: raised when they change, so that no run goes on under other rules.
_RELEASE = "1"

_SLOT = 71  # what a hash is drawn for; apart from the numbers of the mixing plan, which has the same seed


@dataclass(frozen=True)
class OverlaySpec:
    """How many slots carry an overlay, and where it comes from.

    Attributes:
        share: of the anchors, in [0, 1].
        views: name of the stored views to take; None writes on the anchors on the fly.
        missing_views: ``error``: refuse photos without such a view; ``skip``: they carry no overlay.
    """

    share: float = 0.25
    views: str | None = None
    missing_views: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0.0 <= self.share <= 1.0:
            raise DataError(f"data.overlay_share must lie in [0, 1], got {self.share}")
        if self.missing_views not in ("error", "skip"):
            raise DataError(f"data.missing_views is {self.missing_views!r}; choose error or skip")
        if self.views is not None and not self.views:
            raise DataError("data.views is empty; name the views that hold overlays, or null to write on the fly")


@dataclass(frozen=True)
class OverlaySlots:
    """The overlays of one global batch, K of them.

    Attributes:
        position: [K] slots in the global batch, ascending.
        view: [K] picture id of a stored overlay; -1 where it is written on the fly.
    """

    position: Ints
    view: Ints


class OverlayPlan:
    """Overlays of every step.

    Every block of a batch holds the floor or the ceiling of the share's due. A slot that carries an overlay at one
    share carries one at every higher share, where shares lie at least one slot per block apart. Stored overlays are
    those of a sample's own anchor, so a slot that holds its generated twin instead, or that of a sample without such a
    view, carries none; others of its block come first.

    Attributes:
        spec: what to draw.
        without_view: photos of the pool without a stored overlay, which carry none.

    Raises:
        DataError: where stored overlays are asked for that the shards do not hold.
    """

    def __init__(self, catalogue: Catalogue, photos: Ints, spec: OverlaySpec, mix: MixSpec, blocks: int) -> None:
        """Make the plan.

        Args:
            catalogue: of all shards.
            photos: [P] sample ids that stand in the slots of photos.
            spec: of the overlays.
            mix: of the pairs.
            blocks: of a global batch.
        """
        self.spec, self._mix, self._blocks = spec, mix, blocks
        self._quota = Quota.of([1.0 - spec.share, spec.share], mix.batch_size // blocks)
        self._anchor = catalogue.anchor
        self._view: Ints | None = None
        self.without_view = 0
        if spec.views is not None and spec.share > 0:
            self._view = self._find(catalogue, photos)

    def _find(self, catalogue: Catalogue, photos: Ints) -> Ints:
        """Each sample's stored overlay, -1 where it has none: [S]."""
        name = self.spec.views
        found = np.full(len(catalogue.anchor), -1, dtype=np.int64)
        if name in catalogue.view_names:
            views = np.flatnonzero(catalogue.picture_view == catalogue.view_names.index(name))
            found[catalogue.picture_sample[views]] = views
        lacking = photos[found[photos] < 0]
        self.without_view = len(lacking)
        if len(lacking) == len(photos):
            raise DataError(
                f"the shards of data.train hold no views {name!r}: make overlays with `bias-train synthesize overlay`, "
                "or set data.views to null to write on the pictures as they are read"
            )
        if len(lacking) and self.spec.missing_views == "error":
            first = catalogue.name(int(catalogue.anchor[lacking[0]]))
            raise DataError(
                f"{len(lacking)} of {len(photos)} photos of data.train have no view {name!r}, the first being "
                f"{first!r}: make overlays of all, set data.missing_views = skip, or set data.views to null to write "
                "on the pictures as they are read"
            )
        if self._mix.share > 0 and (self._mix.composition != "mixed" or self.spec.share > 1.0 - self._mix.share):
            raise DataError(
                f"data.views takes stored overlays of photos, but data.overlay_share = {self.spec.share:g} asks for "
                f"more of them than a block has at data.share = {self._mix.share:g} and data.composition = "
                f"{self._mix.composition}: lower overlay_share, or set data.views to null"
            )
        return found

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What determines the slots, to compare two plans; names begin with ``overlays.``."""
        parts = {f"overlays.{key}": json.dumps(value) for key, value in asdict(self.spec).items()}
        return {**parts, "overlays.order": _RELEASE}

    def slots(self, step: int, pairs: Slots) -> OverlaySlots:
        """Choose the slots of one global batch.

        Args:
            step: number of the global batch.
            pairs: what stands in its slots.
        """
        batch, blocks = self._mix.batch_size, self._blocks
        wanted = np.diff(self._quota.cumulative(step * blocks + np.arange(blocks + 1, dtype=np.int64))[:, 1])
        priority = uniform(self._mix.seed, _SLOT, step * batch + np.arange(batch, dtype=np.int64))
        view = np.full(batch, -1, dtype=np.int64)
        if self._view is not None:
            own = pairs.picture == self._anchor[pairs.sample]
            view = np.where(own, self._view[pairs.sample], -1)
            priority = priority + (view < 0)  # after all others
        order = priority.reshape(blocks, -1).argsort(axis=1, kind="stable") + np.arange(blocks)[:, None] * (
            batch // blocks
        )
        position = np.sort(np.concatenate([row[:count] for row, count in zip(order, wanted, strict=True)]))
        if self._view is not None:
            position = position[view[position] >= 0]
        return OverlaySlots(position, view[position])
