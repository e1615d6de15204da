"""Scores of a picture, with and without its text, against its captions: the pictures they need, and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from datamodules.curation.cache import cache_key
from datamodules.curation.erasing import ABOUT, erase, mask_text
from datamodules.curation.examine import NOT_SAID, Examined, anchor_bytes
from datamodules.decode import Picture, decode, fit
from datamodules.errors import SampleError
from datamodules.index import ShardIndex
from datamodules.ocr.polygons import Quad, borrow, relative
from datamodules.ocr.words import words_said
from datamodules.text_spans import PictureText

VARIANTS = ("raw", "erased", "erased-caption", "control-erased", "control-erased-caption", "masked")
"""Rows of a sample's scores. All but the first and last are names of views, which are used where shards have them."""

_POOL = 512  # polygons that controls of a shard borrow from, at most

Floats = npt.NDArray[np.floating[Any]]


class PairScorer(Protocol):
    """A dual encoder as a measure of how well a picture fits a caption."""

    @property
    def key(self) -> str:
        """Hash of all that its vectors depend on."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures that it takes."""

    def images(self, pictures: Picture) -> Floats:
        """[n, H, W, 3] uint8 to [n, D], L2-normalised."""

    def texts(self, captions: Sequence[str]) -> Floats:
        """[n] captions to [n, D], L2-normalised."""


@dataclass(frozen=True)
class ScorePlan:
    """Which pictures a sample's scores need.

    Attributes:
        row: of the index.
        captions: [C] of the anchor.
        text: in the picture; None where nothing is known to be.
        views: number of the stored view for a variant.
        quads: polygons that are filled in for a variant.
        same: variants that are the picture itself, because nothing is to be removed.
        missing: variants that cannot be had: a control where no other picture of the shard has text.
    """

    row: int
    captions: tuple[str, ...]
    text: PictureText | None
    views: dict[str, int] = field(default_factory=dict)
    quads: dict[str, tuple[Quad, ...]] = field(default_factory=dict)
    same: frozenset[str] = frozenset(VARIANTS)
    missing: frozenset[str] = frozenset()

    @property
    def pictures(self) -> tuple[str, ...]:
        """The variants that are pictures of their own, "raw" first."""
        return tuple(name for name in VARIANTS if name == "raw" or name not in self.same | self.missing)

    def key(self, index: ShardIndex, scorer: str) -> bytes:
        """Hash of all that the scores depend on."""
        first = int(index.view_start[self.row])
        views = {name: _content(index, first + number) for name, number in self.views.items()}
        text = None if self.text is None else self.text.to_json()
        return cache_key(
            "scores", scorer, ABOUT, _content(index, first), views, self.quads, sorted(self.same), sorted(self.missing),
            text, self.captions,
        )  # fmt: skip


def _content(index: ShardIndex, picture: int) -> list[int]:
    return [int(index.crc[picture]), int(index.size[picture])]


class ScorePlanner:
    """Plans the scores of one shard's samples.

    Args:
        index: of the shard.
        examined: all samples of the shard, from which controls borrow polygons.
        seed: of what is borrowed.
    """

    def __init__(self, index: ShardIndex, examined: Sequence[Examined], seed: int) -> None:
        self.index, self.seed = index, seed
        every = [
            (one.row, quad)
            for one in examined
            if one.text is not None and one.text.spans
            for quad in relative(one.text.spans, one.text.size)
        ]
        self._pool = every[:: max(-(-len(every) // _POOL), 1)]
        self._code = {name: code for code, name in enumerate(index.view_names)}

    def plan(self, one: Examined) -> ScorePlan | None:
        """Plan a sample's scores; None where it has no caption or could not be read."""
        if not one.captions or one.problem not in ("", NOT_SAID):
            return None
        if one.text is None or not one.text.spans:
            return ScorePlan(one.row, one.captions, None)
        views = self._views(one.row)
        own, said = one.text.spans, words_said(one.text.spans, one.captions)
        quads: dict[str, tuple[Quad, ...]] = {}
        missing = set()
        for name, removed in (("erased", own), ("erased-caption", said)):
            if removed and name not in views:
                quads[name] = tuple(span.quad for span in removed)
            control = f"control-{name}"
            if removed and control not in views:
                lent = borrow(self._pool, removed, own, one.row, one.text.size, self.seed, one.row, len(name))
                if lent:
                    quads[control] = tuple(quad for _, quad in lent)
                else:
                    missing.add(control)
        same = frozenset(VARIANTS) - {"masked", *views, *quads} - missing
        return ScorePlan(one.row, one.captions, one.text, views, quads, same, frozenset(missing))

    def _views(self, row: int) -> dict[str, int]:
        first, last = int(self.index.view_start[row]), int(self.index.view_start[row + 1])
        held = self.index.view_name[first:last].tolist()
        return {name: held.index(self._code[name]) for name in VARIANTS[1:-1] if self._code.get(name) in held}


class Renderer:
    """Makes the pictures of plans, in the scorer's size.

    Args:
        index: of the shards.
        size: height and width.
    """

    def __init__(self, index: ShardIndex, size: tuple[int, int]) -> None:
        self.index, self.size = index, size

    def __call__(self, plans: Sequence[ScorePlan]) -> list[Picture | None]:
        """For each plan [variants of ``plan.pictures``, H, W, 3] uint8; None where a picture cannot be read."""
        return [self._pictures(plan) for plan in plans]

    def _pictures(self, plan: ScorePlan) -> Picture | None:
        name = self.index.keys[plan.row]
        try:
            anchor = decode(anchor_bytes(self.index, plan.row), name)
            return np.stack([fit(self._variant(plan, variant, anchor), self.size) for variant in plan.pictures])
        except SampleError:
            return None

    def _variant(self, plan: ScorePlan, variant: str, anchor: Picture) -> Picture:
        if variant == "raw":
            return anchor
        if variant in plan.views:
            number = plan.views[variant]
            return decode(anchor_bytes(self.index, plan.row, number), f"{self.index.keys[plan.row]}.{variant}")
        assert plan.text is not None
        return mask_text(anchor, plan.text) if variant == "masked" else erase(anchor, plan.text, plan.quads[variant])


def score(scorer: PairScorer, plans: Sequence[ScorePlan], pictures: Sequence[Picture]) -> list[Floats]:
    """Score some samples at once.

    Args:
        scorer: embeds.
        plans: of the samples.
        pictures: of each plan, as a :class:`Renderer` makes them.

    Returns:
        [6, C] float32 cosines for each, rows in the order of ``VARIANTS``, NaN for what is missing.
    """
    if not plans:
        return []
    image = scorer.images(np.concatenate(list(pictures)))
    texts = [caption for plan in plans for caption in plan.captions]
    different = {text: at for at, text in enumerate(dict.fromkeys(texts))}
    text = scorer.texts(list(different))
    found, first = [], 0
    for plan in plans:
        names = plan.pictures
        rows = image[first : first + len(names)]
        first += len(names)
        cosine = rows @ text[[different[caption] for caption in plan.captions]].T
        scores = np.full((len(VARIANTS), len(plan.captions)), np.nan, dtype=np.float32)
        for at, name in enumerate(VARIANTS):
            if name not in plan.missing:
                scores[at] = cosine[names.index(name) if name in names else 0]
        found.append(scores)
    return found
