"""The LightningDataModule of the text axis: pairs, pictures with a wrong word on them, and words as pictures."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from datamodules.catalogue import Catalogue, Place
from datamodules.decode import Crop, decode_and_fit
from datamodules.errors import DataError, SampleError, Skip
from datamodules.hashing import string_id, uniform
from datamodules.lettering.fonts import covering
from datamodules.lettering.overlay import UNIFORMS, LetteringOptions, draw_lettering, write
from datamodules.lettering.words import digest_of, load_words, pick_word
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.overlay_plan import OverlayPlan, OverlaySpec
from datamodules.picture_ring import InRing, Slot
from datamodules.plan import MixingPlan, MixSpec, Slots
from datamodules.rendered_words import RenderedWords
from datamodules.stream import MixedStream, as_tensor

log = logging.getLogger(__name__)

_AUGMENT = 101  # a stored overlay is cropped like its anchor
# What a hash is drawn for; apart from the numbers of the plans, which have the same seed.
_WORD, _LETTERING = 72, 73


@dataclass(frozen=True)
class Wording:
    """How captions and queries say a written word.

    Attributes:
        word_query: a query for what the word names, with ``{word}``.
        caption_with_word: the caption and the word, with ``{caption}``, which is put in without its full stop, and
            ``{word}``.
    """

    word_query: str = "a photo of a {word}"
    caption_with_word: str = "{caption} with the word {word}"

    def __post_init__(self) -> None:
        """Check that there are places for words and captions."""
        for option, parts in (("word_query", ("word",)), ("caption_with_word", ("caption", "word"))):
            for part in parts:
                if f"{{{part}}}" not in getattr(self, option):
                    raise DataError(
                        f"data.{option}: {getattr(self, option)!r} has no place for the {part}; write {{{part}}} where "
                        "it goes"
                    )

    def query(self, word: str) -> str:
        """Fill ``word_query``."""
        return self.word_query.replace("{word}", word)

    def caption(self, caption: str, word: str) -> str:
        """Fill ``caption_with_word``.

        Example:
            >>> Wording().caption("A dog runs.", "stop")
            'A dog runs with the word stop'
        """
        # The word first: a caption may hold braces.
        return self.caption_with_word.replace("{word}", word).replace("{caption}", caption.rstrip(" ."))


class TextSpottingPlan(MixingPlan):
    """A mixing plan of pairs, some of which carry an overlay, with words to render beside it.

    Attributes:
        overlays: which slots carry one.
        rendered: the words of every step.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        spec: MixSpec,
        overlays: OverlaySpec,
        words: Sequence[str],
        rendered: int = 0,
        points: float | None = None,
        y: float = 0.5,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Make the plan.

        Args:
            catalogue: of all shards.
            spec: of the pairs.
            overlays: of the overlays.
            words: that may be written.
            rendered: words to render in a step.
            points: em of their letters in pixels; None for the rendered-word probe's.
            y: where they stand, as a share of the canvas's height.
            options: what else determines the pictures and captions of overlays, for the fingerprint.
        """
        super().__init__(catalogue, spec)
        catalogue = self.catalogue  # without what a selection leaves out
        self.overlays = OverlayPlan(catalogue, self._pools[0].astype(np.int64), overlays, spec, self.blocks)
        self.words, self.rendered = tuple(words), RenderedWords(words, rendered, spec.seed, points, y)
        self._options = options or {}
        # A spare is an ordinary photo, never a view of one.
        self._spares[0] = catalogue.anchor[self._pools[0]]
        self._last: tuple[int, Slots] | None = None

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What the fingerprint is made of, overlays and words included."""
        words = {
            "overlays.words": f"{len(self.words)} words, {digest_of(self.words)[:16]}",
            "overlays.rendered_words": str(self.rendered.count),
            "overlays.rendered_points": json.dumps(self.rendered.points),
            "overlays.rendered_y": json.dumps(self.rendered.y),
            **{f"overlays.{name}": json.dumps(value, sort_keys=True) for name, value in self._options.items()},
        }
        parts = {**super().fingerprint_parts, **self.overlays.fingerprint_parts, **words}
        text = json.dumps(parts, sort_keys=True)
        return {**parts, "plan": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def slots(self, step: int) -> Slots:
        """Fill one global batch; the last one is kept, since pairs and overlays are made of it one after the other."""
        if self._last is None or self._last[0] != step:
            self._last = step, super().slots(step)
        return self._last[1]


@dataclass
class TextSpottingStream(MixedStream):
    """Device batches in which some anchors carry an overlay; see :class:`datamodules.stream.MixedStream`.

    Attributes:
        wording: how captions and queries say the words.
        lettering: how words are written.
    """

    plan: TextSpottingPlan
    wording: Wording = field(default_factory=Wording)
    lettering: LetteringOptions = field(default_factory=LetteringOptions)

    def batch(self, step: int, slot: Slot | None = None) -> dict[str, Any]:
        """Make this rank's part of one global batch.

        Returns:
            What :meth:`MixedStream.batch` does.

            With a share of overlays above 0 also edit uint8 [E, 3, H, W], edit_index int64 [E] (row of the anchor),
            edit_added bool [E] (all true), edit_caption_id int64 [E], edit_caption, edit_key and edit_word lists of E,
            and with a tokenizer edit_tokens and edit_prompt_tokens int64 [E, L]. An overlay that cannot be had, or
            whose anchor cannot, is left out.

            With words to render also word uint8 [W, 3, H, W], word_text list of W, and with a tokenizer word_tokens
            int64 [W, L]: the same on every rank.
        """
        batch = super().batch(step, slot)
        if self.plan.overlays.spec.share > 0:
            self._add_overlays(batch, step, slot)
        if self.plan.rendered.count:
            images, sent = self._room(self.plan.rendered.count, slot)
            batch["word_text"] = self.plan.rendered.draw(step, images)
            batch["word"] = sent or as_tensor(images)
            if self.tokenize is not None:
                batch["word_tokens"] = self.tokenize(batch["word_text"])
        return batch

    def _add_overlays(self, batch: dict[str, Any], step: int, slot: Slot | None) -> None:
        plan, catalogue = self.plan, self.plan.catalogue
        size = plan.spec.batch_size // self.world_size
        pairs = plan.slots(step)
        overlays = plan.overlays.slots(step, pairs)
        mine = overlays.position // size == self.rank
        position, view = overlays.position[mine], overlays.view[mine]
        sample, epoch, picture = (x[position] for x in (pairs.sample, pairs.epoch, pairs.picture))
        images, sent = self._room(len(position), slot)
        anchors = _pictures(batch["image"], slot)
        stored = self._stored(view, sample, epoch)
        word_draws = uniform(plan.spec.seed, _WORD, sample, epoch).tolist()
        draws = uniform(plan.spec.seed, _LETTERING, sample[:, None], epoch[:, None], np.arange(UNIFORMS))
        index: list[int] = []
        words: list[str] = []
        texts: list[str] = []
        names: list[str] = []
        for at, row in enumerate((position - self.rank * size).tolist()):
            if catalogue.name(int(picture[at])) != batch["key"][row]:
                continue  # a spare took the anchor's place
            caption, room = batch["caption"][row], images[len(index)]
            try:
                if stored is None:
                    name = batch["key"][row]
                    # Of all captions: one that is not shown in this step may say the word as well.
                    said = (*catalogue.captions(int(catalogue.anchor[sample[at]])), caption)
                    word = _wrong_word(plan.words, said, word_draws[at], name)
                    room[...] = write(anchors[row], draw_lettering(word, draws[at], self.lettering))[0]
                else:
                    place, crop = stored[at]
                    name = catalogue.name(int(view[at]))
                    word = _written_word(catalogue, int(sample[at]), str(plan.overlays.spec.views))
                    decode_and_fit(place.read(), self.image_size, name, crop, room)
            except SampleError as error:
                batch["skipped"].append(Skip(error.kind, str(error)))
                continue
            index.append(row)
            words.append(word)
            texts.append(self.wording.caption(caption, word))
            names.append(name)
        batch |= {
            "edit": sent.first(len(index)) if sent else as_tensor(images[: len(index)]),
            "edit_index": torch.tensor(index, dtype=torch.int64),
            "edit_added": torch.ones(len(index), dtype=torch.bool),
            "edit_caption_id": torch.tensor([string_id(text) for text in texts], dtype=torch.int64),
            "edit_caption": texts,
            "edit_key": names,
            "edit_word": words,
        }
        if self.tokenize is not None:
            nothing = batch["tokens"][:0]  # not every tokenizer takes an empty list
            batch["edit_tokens"] = self.tokenize(texts) if texts else nothing
            batch["edit_prompt_tokens"] = self.tokenize([self.wording.query(w) for w in words]) if words else nothing

    def _stored(self, view: Any, sample: Any, epoch: Any) -> list[tuple[Place, Crop | None]] | None:
        """Where stored overlays lie, and how they are cropped; None where words are written on the fly."""
        if self.plan.overlays.spec.views is None:
            return None
        crops = self._draw_crops(_AUGMENT, sample, epoch)
        return list(zip(self.plan.catalogue.places(view), crops, strict=True))


def _pictures(images: Any, slot: Slot | None) -> npt.NDArray[np.uint8]:
    """A batch's pictures as they lie in memory: uint8 [B, H, W, 3]."""
    if isinstance(images, InRing):
        assert slot is not None
        return np.asarray(slot.ring.read(images).numpy())
    return np.asarray(images.permute(0, 2, 3, 1).numpy())


def _wrong_word(words: Sequence[str], captions: Sequence[str], u: float, name: str) -> str:
    try:
        return pick_word(words, captions, u)
    except DataError as error:
        raise SampleError("no wrong word", f"{name}: {error}") from error


def _written_word(catalogue: Catalogue, sample: int, view: str) -> str:
    """The word that a stored overlay shows, by its meta."""
    word = catalogue.sample(sample).views[view].meta.get("word")
    if not isinstance(word, str) or not word:
        raise DataError(
            f"{catalogue.key(sample)}.{view}: its meta has no 'word', so it is no overlay of "
            "`bias-train synthesize overlay`; name other views in data.views, or set it to null to write on the fly"
        )
    return word


class TextSpottingDataModule(MixedSourceDataModule):
    """Streams pairs of photos and generated pictures as usual, some of which carry an overlay: a wrong word on them.

    An anchor with an overlay is an ordinary pair: its own picture and its own caption. The overlay, the same picture
    in the same crop with a word that none of its captions says, goes along beside it. So a loss that reads no overlays
    (`losses.InfoNCE`) trains on the very same pairs at every share: the control with equal steps. The share is exact in
    every block of the batch. Which anchors carry one depends on seed and step alone; the word and how it is written
    depend on seed, sample and epoch. So a run resumes at any step, on any number of ranks and workers.

    Words are written after a picture is decoded, cropped and mirrored, so that they are whole and legible. An overlay
    is left out and counted where it cannot be read or no word is wrong, and left out where another picture had to
    stand in for its anchor.

    Args:
        overlay_share: share of the anchors that carry an overlay, in [0, 1].
        words: file of words that are written, one a line or the first column of a CSV; None takes the list that comes
            along.
        lettering: how they are written; None takes the recipe of Defense-Prefix.
        word_query: a query for what a written word names, with ``{word}``; read by `losses.TypographicNegative`.
        caption_with_word: a caption that says the written word as well, with ``{caption}`` and ``{word}``; likewise.
            Put the word first where captions are longer than the text tower reads.
        rendered_words: words of the list that are rendered alone in every step, for `losses.AntiSync`; 0 for none.
        rendered_points: em of their letters in pixels; None for the rendered-word probe's 32 of 224 pixels, in
            proportion. Small retrievers need larger ones.
        rendered_y: where they stand, as a share of the canvas's height; in its middle as in the probe.
        views: name of stored overlays to take instead of writing on the fly, such as ``overlay``, which
            `bias-train synthesize overlay` makes; a crop (``augment.scale``) may cut their words.
        missing_views: ``error`` or ``skip``, of photos without such a view.
        options: those of :class:`datamodules.mixed_source.MixedSourceDataModule`.

    Raises:
        DataError: from :meth:`setup`, for anything that the shards, words and fonts cannot give.
    """

    def __init__(
        self,
        overlay_share: float = 0.25,
        words: str | None = None,
        lettering: LetteringOptions | None = None,
        word_query: str = "a photo of a {word}",
        caption_with_word: str = "{caption} with the word {word}",
        rendered_words: int = 0,
        rendered_points: float | None = None,
        rendered_y: float = 0.5,
        views: str | None = None,
        missing_views: Literal["error", "skip"] = "error",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.overlay_spec = OverlaySpec(overlay_share, views, missing_views)
        self.wording = Wording(word_query, caption_with_word)
        self.lettering = lettering or LetteringOptions()
        self.words_path = words
        self.rendered_words, self.rendered_points = rendered_words, rendered_points
        self.rendered_y = rendered_y
        if views is not None and overlay_share > 0 and self.augment.flip > 0:
            raise DataError(
                f"data.augment.flip is {self.augment.flip:g}, which would mirror the words of stored overlays "
                f"(data.views = {views}): set it to 0, or set data.views to null to write after mirroring"
            )

    def _plan(self, catalogue: Catalogue, spec: MixSpec) -> TextSpottingPlan:
        writes = self.overlay_spec.share > 0 and self.overlay_spec.views is None
        words = load_words(self.words_path) if writes or self.rendered_words else ()
        if writes:
            for word in words:
                covering(self.lettering.fonts, word)
        options = {
            "word_query": self.wording.word_query,
            "caption_with_word": self.wording.caption_with_word,
            "lettering": self.lettering.to_json(),
        }
        plan = TextSpottingPlan(
            catalogue,
            spec,
            self.overlay_spec,
            words,
            self.rendered_words,
            self.rendered_points,
            self.rendered_y,
            options,
        )
        if plan.overlays.without_view:
            log.warning(
                "%d photos have no view %r and carry no overlay (data.missing_views = skip)",
                plan.overlays.without_view,
                self.overlay_spec.views,
            )
        return plan

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Count pictures that could not be read, and stop where they are too many."""
        if "edit" in batch:
            self.seen += len(batch["edit"])
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def _stream(self, rank: int, world_size: int) -> TextSpottingStream:
        assert isinstance(self.plan, TextSpottingPlan)
        assert self.image_size is not None
        if self.rendered_words and self.image_size[0] != self.image_size[1]:
            raise DataError(
                f"data.rendered_words draws on square canvases, but pictures are {self.image_size[0]} by "
                f"{self.image_size[1]}; set it to 0"
            )
        return TextSpottingStream(
            self.plan, self.image_size, self.tokenize, self.augment, rank, world_size, self.start, *self._local_place(),
            wording=self.wording, lettering=self.lettering,
        )  # fmt: skip

    def _most_pictures(self, world_size: int) -> int:
        own = self.spec.batch_size // world_size
        assert self.plan is not None
        share = self.overlay_spec.share
        overlays = min(own, math.ceil(own * share) + self.plan.blocks) if share > 0 else 0
        return super()._most_pictures(world_size) + overlays + self.rendered_words
