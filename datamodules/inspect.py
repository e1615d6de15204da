"""Looks at a shard set before anybody trains on it: what it holds, which mixes it allows, what is broken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.decode import decode
from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.problems import Problems

BROKEN, BLANK = "broken picture", "blank picture"

_CHUNK = 512


@dataclass(frozen=True)
class Ratios:
    """Largest share of generated anchors that a set can give in each mode of the mixing plan.

    Attributes:
        replace: share of the photos that a generated picture can stand in for.
        add: 1 where there are generated pictures beside photos (streams repeat), else 0.
        unpaired: as ``add``.
        pairing: what ``replace`` pairs by: "twin", "class" or "none".
        replace_by: ``replace`` for each generator alone.
    """

    replace: float
    add: float
    unpaired: float
    pairing: str
    replace_by: dict[str, float]


@dataclass(frozen=True)
class Inspection:
    """What a shard set holds.

    Attributes:
        shards: number of tars.
        bytes: their size.
        samples: number of samples.
        pictures: number of anchors and views.
        anchors: anchors by source.
        views: views by source.
        view_names: views by name.
        captions: number of captions.
        captions_per_sample: fewest and most.
        without_caption: samples that have none, and so can only stand in a gallery.
        labels: pictures by class and source.
        unlabelled: samples without a class.
        groups: how many different things are shown.
        ratios: attainable shares of generated pictures.
        problems: what was left out of the index.
        broken: pictures that cannot be decoded or are blank, None where nobody looked.
    """

    shards: int
    bytes: int
    samples: int
    pictures: int
    anchors: dict[str, int]
    views: dict[str, int]
    view_names: dict[str, int]
    captions: int
    captions_per_sample: tuple[int, int]
    without_caption: int
    labels: dict[str, dict[str, int]]
    unlabelled: int
    groups: int
    ratios: Ratios
    problems: Problems
    broken: Problems | None = field(default=None)


def inspect_shards(
    index: ShardIndex, *, decode_all: bool = False, on_picture: Callable[[int, int], None] | None = None
) -> Inspection:
    """Count what a set holds.

    Args:
        index: of one set, or of several joined ones.
        decode_all: decode every picture as the training stream would, see :func:`broken_pictures`.
        on_picture: called with the pictures decoded and their total, for a progress bar.
    """
    anchor, sample_of = _anchors(index)
    names, counts = index.sources, index.caption_count
    labels: dict[str, dict[str, int]] = {}
    label_of_picture = index.label[sample_of]
    for code, label in enumerate(index.labels):
        by_source = np.bincount(index.view_source[label_of_picture == code], minlength=len(names))
        labels[label] = _named(names, by_source)
    return Inspection(
        shards=len(index.shards),
        bytes=sum(info.bytes for info in index.shards),
        samples=len(index),
        pictures=len(index.offset),
        anchors=_named(names, np.bincount(index.view_source[anchor], minlength=len(names))),
        views=_named(names, np.bincount(np.delete(index.view_source, anchor), minlength=len(names))),
        view_names=_named(index.view_names[1:], np.bincount(index.view_name, minlength=len(index.view_names))[1:]),
        captions=int(counts.sum()),
        captions_per_sample=(int(counts.min()), int(counts.max())) if len(counts) else (0, 0),
        without_caption=int((counts == 0).sum()),
        labels=labels,
        unlabelled=int((index.label < 0).sum()),
        groups=len(np.unique(index.group)),
        ratios=attainable_ratios(index),
        problems=index.problems,
        broken=broken_pictures(index, on_picture=on_picture) if decode_all else None,
    )


def attainable_ratios(index: ShardIndex) -> Ratios:
    """How large a share of generated pictures each mode can reach, by the plan's own rules of pairing.

    A photo's twin is a view of its own sample; where no photo has such a view, generated pictures of its class pair
    with it.
    """
    anchor, sample_of = _anchors(index)
    photo = index.view_source[anchor] == 0
    generated = index.view_source > 0
    any_mix = float(bool(photo.any() and generated.any()))
    by_twin = bool((generated & photo[sample_of]).any())
    replaceable = np.zeros(len(index), dtype=bool)
    replace_by = {}
    for code, name in enumerate(index.sources[1:], 1):
        pictures = index.view_source == code
        can = np.zeros(len(index), dtype=bool)
        if by_twin:
            can[sample_of[pictures]] = True
        else:
            can = (index.label >= 0) & np.isin(index.label, np.unique(index.label[sample_of[pictures]]))
        replace_by[name] = float(can[photo].mean()) if photo.any() else 0.0
        replaceable |= can
    share = float(replaceable[photo].mean()) if photo.any() else 0.0
    return Ratios(share, any_mix, any_mix, "twin" if by_twin else "class" if share else "none", replace_by)


def broken_pictures(index: ShardIndex, *, on_picture: Callable[[int, int], None] | None = None) -> Problems:
    """Decode every picture as the training stream would.

    Counts as ``BROKEN`` what the stream would have to replace, and as ``BLANK`` pictures of one colour: generators'
    safety filters return those in place of a picture, and they would be learned as what the caption says.

    Args:
        index: the set.
        on_picture: called with the pictures decoded and their total.
    """
    _, sample_of = _anchors(index)
    shard = index.shard[sample_of]
    # In the order in which they lie on disk.
    order = np.lexsort((index.offset, shard))
    broken = Problems()

    def look(picture: int) -> tuple[str, str] | None:
        name = picture_name(index, picture, int(sample_of[picture]))
        try:
            pixels = decode(
                index.read_bytes(int(shard[picture]), int(index.offset[picture]), int(index.size[picture])), name
            )
        except DataError as error:
            return BROKEN, f"{index.shards[shard[picture]].name}: {error}"
        return (BLANK, f"{index.shards[shard[picture]].name}: {name}") if np.ptp(pixels, (0, 1)).max() == 0 else None

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        done = 0
        for chunk in _chunks(order):
            for found in pool.map(look, chunk.tolist()):
                if found is not None:
                    broken.add(*found)
            done += len(chunk)
            if on_picture is not None:
                on_picture(done, len(order))
    return broken


def picture_name(index: ShardIndex, picture: int, sample: int) -> str:
    """A picture's name for people: its sample's key and, for a view, ``.view``."""
    view = index.view_names[int(index.view_name[picture])]
    return f"{index.keys[sample]}.{view}" if view else index.keys[sample]


def _anchors(index: ShardIndex) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Picture number of each sample's anchor [S], and sample number of each picture [V]."""
    return index.view_start[:-1], np.repeat(np.arange(len(index)), np.diff(index.view_start))


def _named(names: tuple[str, ...], counts: npt.NDArray[Any]) -> dict[str, int]:
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _chunks(order: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(order), _CHUNK):
        yield order[start : start + _CHUNK]
