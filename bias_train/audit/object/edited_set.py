"""Reads shards of edited pictures as questions about objects, without a pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_train.embed import embed_pictures, embed_texts
from bias_train.metrics.functional.object.questions import Bools, Queries, Questions
from bias_train.stats import Ints
from datamodules.catalogue import Catalogue
from datamodules.errors import DataError
from datamodules.evaluation import EvaluationSet
from datamodules.hashing import mix
from datamodules.index import ShardIndex
from datamodules.objects.mentions import Mentions
from datamodules.objects.vocabulary import Vocabulary, load_vocabulary
from datamodules.sample import Sample, View
from models.retriever import Retriever

REMOVED, CONTROL, ADDED = "removed", "control", "added"  # a view's meta["edit"]


@dataclass(frozen=True)
class EditedSet:
    """Edited pictures, what they search, and what is asked.

    Attributes:
        pictures: all pictures, in the order of the questions' rows.
        texts: all texts, each once, likewise: two equal captions must have equal scores.
        questions: which rows are what.
        counts: what was taken and what was left out, by reason.
        edits: how pictures were edited: inpainters, dilations, and the share of the picture that was painted.
        vocabulary: by which captions were parsed.
    """

    pictures: EvaluationSet
    texts: tuple[str, ...]
    questions: Questions
    counts: dict[str, int]
    edits: dict[str, Any]
    vocabulary: Vocabulary


def edited_set(
    shards: Sequence[str],
    gallery: Sequence[str] = (),
    *,
    vocabulary: str | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    limit: int | None = None,
    seed: int = 0,
) -> EditedSet:
    """Find what is asked of edited pictures.

    A query among captions is a picture (anchor) and an object that it shows beside at least one other; its forms are
    the anchor, the view without the object, and the view with an edited background where there is one. A query among
    pictures is a caption that mentions an object and at least one other, and the same caption edited. The gallery holds
    the unedited pictures and captions, those of the query among them; pictures without a list of objects are no part
    of the gallery of captions' queries, since nobody knows what they lack.

    Args:
        shards: sets of edited pictures (`bias-train synthesize decorrelated`).
        gallery: further sets of captioned pictures to search; a picture whose key the edited sets have comes once.
        vocabulary: table of categories and their words; None takes COCO's.
        pairs: spurious pairs (a, b) by name.
        limit: at most this many edited pictures (anchors), drawn at random; None takes all. The gallery stays.
        seed: of the choice under a limit.

    Raises:
        DataError: for shards that cannot be read or hold no edited picture, and for an edited picture that lacks its
            list of objects.
    """
    words = load_vocabulary(vocabulary)
    numbered = _numbers(words, pairs)
    catalogue = Catalogue.of([ShardIndex.load(location) for location in (*shards, *gallery)])
    edited = sum(len(index) for index in catalogue.indexes[: len(shards)])
    reader = _Reader(catalogue, words)
    samples = [catalogue.sample(row) for row in range(len(catalogue.anchor))]
    asked = [row for row in range(edited) if _edits(samples[row], REMOVED)]
    if not asked:
        raise DataError(
            f"{', '.join(map(str, shards))}: holds no picture from which an object was taken away; make some with "
            "`bias-train synthesize decorrelated`"
        )
    if limit is not None:
        rows = np.array(asked)
        asked = sorted(rows[np.argsort(mix(seed, 9, rows), kind="stable")[:limit]].tolist())
    chosen, seen = set(asked), set()
    for row, sample in enumerate(samples):
        if sample.key in seen:
            reader.counts["pictures of the gallery that the edited sets have too"] += 1
            continue
        seen.add(sample.key)
        reader.add(row, sample, ask=row in chosen)
    return reader.finish(numbered)


@torch.inference_mode()
def embed_edited(
    retriever: Retriever, asked: EditedSet, *, batch_size: int = 64, workers: int = 0, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Embed a set with a retriever.

    Args:
        retriever: the dual encoder; moved to ``device`` and put into evaluation mode.
        asked: what to embed.
        batch_size: pictures at once.
        workers: loader processes.
        device: where to compute.

    Returns:
        ``(image, text)``, [N, D] and [T, D] float32 on the CPU, L2-normalised, in the order of the questions' rows.
    """
    image = embed_pictures(retriever, asked.pictures, batch_size=batch_size, workers=workers, device=device)
    return image, embed_texts(retriever, asked.texts, device=device)


def _numbers(words: Vocabulary, pairs: Sequence[tuple[str, str]]) -> tuple[tuple[int, int], ...]:
    return tuple((words.number(a), words.number(b)) for a, b in pairs)


def _edits(sample: Sample, kind: str) -> dict[str, str]:
    """Names of the views of one kind by their object."""
    return {str(view.meta.get("object")): name for name, view in sample.views.items() if view.meta.get("edit") == kind}


@dataclass
class _Asked:
    """Queries of one direction, as lists that grow."""

    removed: list[int] = field(default_factory=list)
    original: list[int] = field(default_factory=list)
    control: list[int] = field(default_factory=list)
    category: list[int] = field(default_factory=list)
    present: list[Bools] = field(default_factory=list)
    cluster: list[int] = field(default_factory=list)

    def add(self, removed: int, original: int, control: int, category: int, present: Bools, cluster: int) -> None:
        self.removed.append(removed)
        self.original.append(original)
        self.control.append(control)
        self.category.append(category)
        self.present.append(present)
        self.cluster.append(cluster)

    def queries(self, gallery: Sequence[int], gallery_present: Sequence[Bools]) -> Queries:
        return Queries(
            removed=_ints(self.removed),
            original=_ints(self.original),
            control=_ints(self.control),
            category=_ints(self.category),
            present=np.stack(self.present),
            cluster=_ints(self.cluster),
            gallery=_ints(gallery),
            gallery_present=np.stack(gallery_present),
        )


class _Reader:
    """Goes through samples and notes which rows are what."""

    def __init__(self, catalogue: Catalogue, words: Vocabulary) -> None:
        self.catalogue, self.words = catalogue, words
        self.counts: Counter[str] = Counter()
        self._mentions = Mentions(words)
        self._number = {name: place for place, name in enumerate(words.categories)}
        self._picture: dict[int, int] = {}  # rows by picture id
        self._text: dict[str, int] = {}  # rows by text
        self._mentioned: list[Bools] = []  # of each text
        self._i2t, self._t2i = _Asked(), _Asked()
        self._captions: list[tuple[int, int]] = []  # (text row, sample)
        self._anchors: list[tuple[int, int]] = []  # (picture row, sample)
        self._annotated: list[tuple[int, Bools]] = []  # (picture row, objects)
        self._inpainters: Counter[str] = Counter()
        self._masks: list[tuple[float, float]] = []

    def add(self, row: int, sample: Sample, *, ask: bool) -> None:
        """Put a sample's anchor and captions into the gallery, and ask with its edits."""
        anchor = self._picture_row(int(self.catalogue.anchor[row]))
        self._anchors.append((anchor, row))
        captions = [self._text_row(caption) for caption in sample.captions]
        self._captions += [(caption, row) for caption in captions]
        present = self._objects(sample)
        if present is not None:
            self._annotated.append((anchor, present))
        else:
            self.counts["pictures without a list of objects"] += 1
        if ask:
            self._ask(row, sample, anchor, captions, present)

    def _ask(self, row: int, sample: Sample, anchor: int, captions: list[int], present: Bools | None) -> None:
        if present is None:
            raise DataError(
                f"sample {sample.key!r}: has edited views but no list meta['objects'], so that nobody knows what else "
                "it shows"
            )
        controls = _edits(sample, CONTROL)
        views = {name: int(self.catalogue.anchor[row]) + 1 + at for at, name in enumerate(self._view_names(row))}
        for thing, name in sorted(_edits(sample, REMOVED).items()):
            category = self._number.get(thing)
            if category is None:
                self.counts["edits of an object that the vocabulary does not have"] += 1
                continue
            view = sample.views[name]
            self._note_edit(view)
            if not present[category]:
                self.counts["edits of an object that is not annotated"] += 1
                continue
            if present.sum() < 2:
                self.counts["edits that leave no annotated object"] += 1
            else:
                control = controls.get(thing)
                place = -1 if control is None else self._picture_row(views[control])
                self._i2t.add(self._picture_row(views[name]), anchor, place, category, present, row)
            self._ask_captions(row, sample, view, name, category, captions)

    def _ask_captions(
        self, row: int, sample: Sample, view: View, name: str, category: int, captions: list[int]
    ) -> None:
        edited = sample.captions_of(name)
        if len(edited) != len(captions):
            raise DataError(
                f"sample {sample.key!r}, view {name!r}: has {len(edited)} captions for the anchor's {len(captions)}; "
                "each must be the edit of one"
            )
        for original, before, after in zip(captions, sample.captions, edited, strict=True):
            if before == after:
                continue
            mentioned = self._mentioned[original]
            if not mentioned[category]:
                self.counts["edited captions that did not mention the object"] += 1
            elif mentioned.sum() < 2:
                self.counts["edited captions that mention no other object"] += 1
            else:
                text = self._text_row(after)
                if self._mentioned[text][category]:
                    self.counts["edited captions that still mention the object"] += 1
                else:
                    self._t2i.add(text, original, -1, category, mentioned, row)

    def _view_names(self, row: int) -> list[str]:
        """Names of a sample's views in the order of their pictures, which follow the anchor."""
        first = int(self.catalogue.anchor[row])
        last = first + int(np.searchsorted(self.catalogue.picture_sample[first:], row, side="right"))
        return [self.catalogue.view_names[code] for code in self.catalogue.picture_view[first + 1 : last].tolist()]

    def _objects(self, sample: Sample) -> Bools | None:
        listed = sample.meta.get("objects")
        if listed is None:
            return None
        present = np.zeros(len(self._number), dtype=bool)
        for thing in listed:
            number = self._number.get(str(thing.get("category")))
            if number is None:
                self.counts["annotated objects that the vocabulary does not have"] += 1
            else:
                present[number] = True
        return present

    def _note_edit(self, view: View) -> None:
        self._inpainters[str(view.meta.get("inpainter", "unknown"))] += 1
        mask = view.meta.get("mask") or {}
        if "dilation" in mask and "area" in mask:
            self._masks.append((float(mask["dilation"]), float(mask["area"])))

    def _picture_row(self, picture: int) -> int:
        return self._picture.setdefault(picture, len(self._picture))

    def _text_row(self, text: str) -> int:
        row = self._text.setdefault(text, len(self._text))
        if row == len(self._mentioned):
            self._mentioned.append(self._mentions.matrix([text])[0])
        return row

    def finish(self, pairs: tuple[tuple[int, int], ...]) -> EditedSet:
        """Put everything together."""
        if not self._i2t.category or not self._captions:
            told = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
            raise DataError(f"the edited pictures hold nothing to ask with ({told or 'no captions'})")
        gallery = [text for text, _ in self._captions]
        i2t = self._i2t.queries(gallery, [self._mentioned[text] for text in gallery])
        t2i = None
        if self._t2i.category:
            t2i = self._t2i.queries(*(list(part) for part in zip(*self._annotated, strict=True)))
        (text, text_target), (image, image_target) = (
            np.array(rows, dtype=np.int64).T for rows in (self._captions, self._anchors)
        )
        questions = Questions(
            self.words.categories, i2t, t2i, text.copy(), text_target.copy(), image.copy(), image_target.copy(), pairs
        )
        counts = dict(self.counts) | {
            "pictures asked with": len(set(self._i2t.cluster)),
            "queries among captions": len(self._i2t.category),
            "queries with control": sum(place >= 0 for place in self._i2t.control),
            "queries among pictures": len(self._t2i.category),
            "captions searched": len(gallery),
            "pictures searched": len(self._annotated),
        }
        edits: dict[str, Any] = {"inpainters": dict(self._inpainters)}
        if self._masks:
            for name, values in zip(("dilation", "area"), zip(*self._masks, strict=True), strict=True):
                edits[name] = [min(values), max(values)]
        return EditedSet(self._pictures(), tuple(self._text), questions, counts, edits, self.words)

    def _pictures(self) -> EvaluationSet:
        picture = _ints(list(self._picture))
        nothing = np.empty(0, dtype=np.int64)
        return EvaluationSet(
            keys=tuple(self.catalogue.name(one) for one in picture.tolist()),
            picture=picture,
            target=self.catalogue.picture_sample[picture].astype(np.int64),
            source=self.catalogue.picture_source[picture].astype(np.int64),
            sources=self.catalogue.sources,
            queries=(),
            query_target=nothing,
            query_slot=nothing,
            relevance="pair",
            target_names=(),
            corpus=self.catalogue,
        )


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)
