"""Carries out the plan of one sample: the object out, as much blurred elsewhere, another one in."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from datamodules.decode import Picture
from datamodules.decorrelation.background import control_mask
from datamodules.decorrelation.inpaint import Inpainter
from datamodules.decorrelation.paste import paste
from datamodules.decorrelation.planning import Decoy, EditPlan, Objects, ObjectSource, Removal
from datamodules.decorrelation.settings import DecorrelationSettings
from datamodules.errors import DataError
from datamodules.hashing import mix, string_id
from datamodules.objects.masks import Mask, dilate, object_mask, union_mask
from datamodules.objects.mentions import Mentions
from datamodules.objects.vocabulary import slug
from datamodules.reencode import decode_rgb
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.work import Chosen, Result, png

SMALL, LARGE = "the object is too small", "the object is too large"
COVERS = "its mask covers another object that a caption mentions"
NO_ROOM = "no room on the background for a control"
NO_PLACE = "no place for the decoy"
_MOST_COVERED = 0.5


class _EditError(Exception):
    """Why an edit cannot be made."""


class SampleEditor:
    """Edits samples, one at a time; the same everywhere.

    Args:
        photos: the samples.
        objects: where objects are looked up.
        mentions: the parser.
        settings: what decides the data.
        inpainter: fills masks.
    """

    def __init__(
        self,
        photos: Photos,
        objects: ObjectSource,
        mentions: Mentions,
        settings: DecorrelationSettings,
        inpainter: Inpainter,
    ) -> None:
        self.photos, self.objects, self.mentions = photos, objects, mentions
        self.settings, self.inpainter = settings, inpainter

    def __call__(self, row: int, plan: EditPlan) -> Result:
        """Make a sample's new views.

        Args:
            row: the sample's number in the index.
            plan: what to do.

        Returns:
            The views (each suffix is a view's whole name), and as ``failed`` one "view: why" for each that is missing.

        Raises:
            DataError: naming the sample, for objects that cannot be drawn.
        """
        failed = [f"{view}: {why}" for view, why in plan.dropped]
        chosen: list[Chosen] = []
        sample = self.photos.index.sample(row)
        try:
            picture = np.asarray(decode_rgb(self.photos.picture(row), sample.key))
        except DataError as error:
            return Result(failed=(*failed, f"anchor: broken picture ({error})"))
        try:
            scene = _Scene(picture, self.objects.of(sample))
            for removal in plan.removals:
                try:
                    chosen += self._remove(sample.key, scene, removal)
                except _EditError as error:
                    failed.append(f"no-{slug(removal.category)}: {error}")
            if plan.decoys and chosen:
                added = (self._add(sample.key, scene, decoy) for decoy in plan.decoys)
                first = next((view for view in added if view is not None), None)
                chosen += [first] if first is not None else []
                failed += [] if first is not None else [f"with-: {NO_PLACE}"]
        except DataError as error:
            raise DataError(f"sample {sample.key!r}: {error}") from error
        return Result(tuple(chosen), made=len(chosen), failed=tuple(failed))

    def _remove(self, key: str, scene: _Scene, removal: Removal) -> list[Chosen]:
        settings, category = self.settings, removal.category
        name = slug(category)
        outline = scene.of(category)
        share = float(outline.mean())
        if share < settings.min_area:
            raise _EditError(SMALL)
        if share > settings.max_area:
            raise _EditError(LARGE)
        mask = dilate(outline, settings.dilation)
        left = set().union(*(self.mentions.of(caption) for caption in removal.captions))
        if any(scene.covered(other, mask) > _MOST_COVERED for other in sorted(left & scene.categories)):
            raise _EditError(COVERS)
        draw = (settings.seed, string_id(key), string_id(category))
        room = control_mask(mask, scene.occupied | mask, *draw)
        if room is None:
            raise _EditError(NO_ROOM)
        elsewhere, same_shape = room
        about = {"inpainter": self.inpainter.describe(), "object": category, "edited": True}
        size = {"dilation": settings.dilation, "area": float(mask.mean()), "object_area": share}
        removed = about | {
            "edit": "removed",
            "mentioned": list(removal.mentioned),
            "how": list(removal.how),
            "control": f"control-{name}",
            "mask": size | {"box": _box(mask)},
        }
        control = about | {"edit": "control", "mask": size | {"box": _box(elsewhere), "same_shape": same_shape}}
        return [
            self._chosen(f"no-{name}", scene.picture, mask, removed, removal.captions, int(mix(*draw, 0))),
            self._chosen(f"control-{name}", scene.picture, elsewhere, control, None, int(mix(*draw, 1))),
        ]

    def _chosen(
        self, view: str, picture: Picture, mask: Mask, meta: dict[str, Any], captions: tuple[str, ...] | None, seed: int
    ) -> Chosen:
        filled = self.inpainter(picture, mask, seed)
        return Chosen(view, meta, png(Image.fromarray(filled)), captions)

    def _add(self, key: str, scene: _Scene, decoy: Decoy) -> Chosen | None:
        index = self.photos.index
        donor = index.sample(decoy.donor.row)
        thing = self.objects.of(donor)[decoy.donor.number]
        try:
            home = np.asarray(decode_rgb(self.photos.picture(decoy.donor.row), donor.key))
        except DataError:
            return None
        outline = object_mask(thing, *home.shape[:2])
        others = [scene.of(category) for category in sorted(scene.categories)]
        draw = (self.settings.seed, string_id(key), string_id("place"))
        too_small = outline.mean() < self.settings.min_area
        made = None if too_small else paste(scene.picture, others, home, outline, *draw)
        if made is None:
            return None
        picture, mask = made
        meta = {
            "edit": "added",
            "object": decoy.category,
            "edited": True,
            "donor": {"key": donor.key, "object": decoy.donor.number},
            "mask": {"area": float(mask.mean()), "box": _box(mask)},
        }
        return Chosen(f"with-{slug(decoy.category)}", meta, png(Image.fromarray(picture)), decoy.captions)


class _Scene:
    """A picture and the masks of its objects, each drawn once."""

    def __init__(self, picture: Picture, objects: Objects) -> None:
        self.picture, self.objects = picture, objects
        self.categories = {thing["category"] for thing in objects}
        self.occupied = union_mask(objects, *picture.shape[:2])
        self._masks: dict[str, Mask] = {}

    def of(self, category: str) -> Mask:
        """All instances of a category, crowds too."""
        if category not in self._masks:
            its = [thing for thing in self.objects if thing["category"] == category]
            self._masks[category] = union_mask(its, *self.picture.shape[:2])
        return self._masks[category]

    def covered(self, category: str, mask: Mask) -> float:
        """Share of a category's pixels that a mask hides."""
        its = self.of(category)
        return float((its & mask).sum() / max(its.sum(), 1))


def _box(mask: Mask) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
