"""Notes which of a sample's pictures and captions ask what about text, sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bias_train.audit.text.rendering import Rendering
from bias_train.metrics.functional.text.questions import Attacks, Erasures, Overlays, Pairs, Words
from bias_train.stats import Ints
from datamodules.catalogue import Catalogue
from datamodules.errors import DataError
from datamodules.evaluation import EvaluationSet
from datamodules.hashing import uniform
from datamodules.lettering.words import normalised, pick_word, says
from datamodules.sample import ANCHOR, Sample
from datamodules.text_spans import REMOVED, PictureText

LABEL = "{label}"
CLEAN, OVERLAY = "clean", "overlay"  # a view's meta["edit"]
WRITTEN = "written"  # where an anchor's meta says what was written on it
_OTHER = 7  # what a draw is for: any number that stays
# A relative score's edit, and that of its control.
ERASED = {"RSA": ("erased", "control-erased"), "RSC": ("erased-caption", "control-erased-caption")}


@dataclass
class _Edited:
    """Pictures in two or three forms with their captions, as lists that grow."""

    forms: list[tuple[int, ...]] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    caption: list[int] = field(default_factory=list)
    caption_of: list[int] = field(default_factory=list)

    def add(self, forms: tuple[int, ...], target: int, captions: Iterable[int]) -> None:
        for caption in captions:
            self.caption.append(caption)
            self.caption_of.append(len(self.forms))
        self.forms.append(forms)
        self.target.append(target)

    def columns(self) -> dict[str, Ints]:
        return {name: _ints(getattr(self, name)) for name in ("target", "caption", "caption_of")}

    def form(self, place: int) -> Ints:
        return _ints([forms[place] for forms in self.forms])


class SampleReader:
    """Goes through samples and notes which rows are what."""

    def __init__(self, catalogue: Catalogue, query: str, label_prompt: str) -> None:
        self.catalogue, self.query, self.label_prompt = catalogue, query, label_prompt
        self.counts: Counter[str] = Counter()
        self.engines: Counter[str] = Counter()
        self.fonts: Counter[str] = Counter()
        self.relevance = "a caption is answered by its own picture"
        self._picture: dict[int, int] = {}  # rows by picture id
        self._text: dict[str, int] = {}  # rows by text

    # Roles -----------------------------------------------------------------------------------------------------------

    def pairs(self, rows: Ints, what: str, sets: Sequence[str], *, clean: bool = True) -> Pairs:
        """Pictures with captions; ``clean`` takes the picture before anything was written on it.

        In a reading set whose every sample has a label (what a sign says), or a single caption, captions and pictures
        of one label or caption answer each other: the same few words stand in many pictures.
        """
        image, image_target, text, text_target = [], [], [], []
        labels = None if clean else self._said(rows)
        targets = np.asarray(self.catalogue.group[rows], dtype=np.int64) if labels is None else labels
        for row, target in zip(rows.tolist(), targets.tolist(), strict=True):
            sample = self.catalogue.sample(row)
            view = self._clean_view(sample) if clean else ANCHOR
            captions = sample.captions_of(view)
            if not captions:
                self.counts[f"{what} pictures without captions"] += 1
                continue
            image.append(self._view_row(row, view))
            image_target.append(target)
            text += [self._text_row(caption) for caption in captions]
            text_target += [target] * len(captions)
        if not image:
            raise DataError(f"{', '.join(map(str, sets))}: holds no picture with captions, as {what} pairs")
        self.counts[f"{what} pictures"], self.counts[f"{what} captions"] = len(image), len(text)
        if labels is not None:
            self.counts[f"{what} labels"] = len(set(image_target))
            self.relevance = "a caption is answered by the pictures that say the same (by label, else by caption)"
        return Pairs(_ints(image), _ints(image_target), _ints(text), _ints(text_target))

    def _said(self, rows: Ints) -> Ints | None:
        """What each picture of a reading set says, as a number: label or only caption; None where some have neither."""
        labels = np.asarray(self.catalogue.sample_label[rows], dtype=np.int64)
        if np.all(labels >= 0):
            return labels
        captions = [self.catalogue.sample(row).captions for row in rows.tolist()]
        if any(len(one) != 1 for one in captions):
            return None
        number = {caption: place for place, (caption,) in enumerate(dict.fromkeys(captions))}
        return _ints([number[caption] for (caption,) in captions])

    def edited(self, rows: Ints) -> tuple[Overlays | None, tuple[tuple[str, Erasures], ...]]:
        """Pictures with a wrong word, and pictures with text removed."""
        over, asked = _Edited(), list[tuple[str, tuple[str, ...]]]()
        erased = {name: _Edited() for name in ERASED}
        bare = Counter[str]()
        for row in rows.tolist():
            sample = self.catalogue.sample(row)
            self._overlay(row, sample, over, asked)
            for name, edits in ERASED.items():
                self._erasure(row, sample, name, edits, erased[name], bare)
        self.counts["overlaid pictures"] = len(over.forms)
        overlays = None
        if over.forms:
            query = _ints([self._query_row(word) for word, _ in asked])
            overlays = Overlays(over.form(0), over.form(1), query, **over.columns(), other=self._others(asked))
        erasures = []
        for name, one in erased.items():
            if one.forms:
                own = one.columns()
                forms = one.form(0), one.form(1), one.form(2)
                found = Erasures(*forms, own["target"], own["caption"], own["caption_of"], bare[name])
                erasures.append((name, found))
                self.counts[f"{name}: pictures with text removed"] = len(one.forms)
            if bare[name]:
                self.counts[f"{name}: pictures without such text"] = bare[name]
        return overlays, tuple(erasures)

    def attacks(self, rows: Ints, sets: Sequence[str]) -> Attacks:
        """Labelled pictures with a wrong word; classes are all labels and all written words.

        A picture without the word is the view ``clean``, or the anchor where the word is in a view; else, where there
        is one, the view ``erased``.
        """
        found: list[tuple[int, int, str, str, int]] = []
        spelt: dict[str, str] = {}
        for row in rows.tolist():
            sample = self.catalogue.sample(row)
            attack = self._attacked(sample)
            if attack is None or sample.label is None:
                self.counts["attack pictures without a label or a word"] += 1
                continue
            before, after, word = attack
            if before is None and ERASED["RSA"][0] in self._edits(sample):
                # Nobody photographed it without the word, but somebody has taken the word out.
                before = self._edits(sample)[ERASED["RSA"][0]]
                self.counts["attacked pictures compared with an erased one"] += 1
            label, written = normalised(sample.label), normalised(word)
            if label == written:
                self.counts["attack pictures with their own label written"] += 1
                continue
            spelt[label] = sample.label
            spelt.setdefault(written, word)
            place = -1 if before is None else self._view_row(row, before)
            found.append((self._view_row(row, after), place, label, written, self._target(row)))
        if not found:
            raise DataError(
                f"{', '.join(map(str, sets))}: holds no labelled picture with a wrong word (a label, and "
                "meta['written'] or a view overlay)"
            )
        names = sorted(spelt)
        number = {name: place for place, name in enumerate(names)}
        attacked, clean, labels, words, targets = zip(*found, strict=True)
        self.counts |= Counter({"attacked pictures": len(found), "attack classes": len(names)})
        self.counts["attacked pictures with a clean one"] = sum(one >= 0 for one in clean)
        prompts = [self._text_row(self.label_prompt.format(label=spelt[name])) for name in names]
        return Attacks(
            _ints(attacked), _ints(clean), _ints([number[one] for one in labels]),
            _ints([number[one] for one in words]), _ints(targets), _ints(prompts),
        )  # fmt: skip

    def words(self, rendering: Rendering) -> Words:
        """Rendered words, whose rows follow those of the pictures: no picture may be read after this."""
        rows = np.arange(len(self._picture), len(self._picture) + len(rendering), dtype=np.int64)
        word = _ints([self._text_row(text) for text in rendering.texts])
        return Words(rendering.styles, rows.reshape(len(rendering.styles), -1), word)

    def record(self, *, reading: bool) -> dict[str, Any]:
        """Templates, engines and fonts, by name."""
        found: dict[str, Any] = {"query for a written word": self.query, "prompt for a label": self.label_prompt}
        for name, counter in (("text found by", self.engines), ("fonts of overlays", self.fonts)):
            if counter:
                found[name] = dict(counter)
        return found | ({"reading": self.relevance} if reading else {})

    # One sample ------------------------------------------------------------------------------------------------------

    def _overlay(self, row: int, sample: Sample, over: _Edited, asked: list[tuple[str, tuple[str, ...]]]) -> None:
        attack = self._attacked(sample)
        if attack is None:
            return
        before, after, word = attack
        if before is None:
            self.counts["overlays without the picture before"] += 1
            return
        captions = sample.captions_of(before)
        if not captions:
            self.counts["overlays of pictures without captions"] += 1
            return
        if says(captions, word):
            self.counts["overlays whose word a caption says"] += 1
            return
        lettering = (sample.views[after].meta if after else sample.meta).get("lettering")
        if isinstance(lettering, dict) and "font" in lettering:
            self.fonts[str(lettering["font"])] += 1
        forms = (self._view_row(row, before), self._view_row(row, after))
        over.add(forms, self._target(row), map(self._text_row, captions))
        asked.append((word, tuple(captions)))

    def _others(self, asked: Sequence[tuple[str, tuple[str, ...]]]) -> Ints:
        """For each picture the query for a word of another one, which neither stands on it nor in its captions."""
        words = tuple(dict.fromkeys(word for word, _ in asked))
        found = []
        for place, (word, captions) in enumerate(asked):
            try:
                other = pick_word(words, (*captions, word), float(uniform(_OTHER, place)))
            except DataError:  # captions say all of them
                found.append(-1)
            else:
                found.append(self._query_row(other))
        return _ints(found)

    def _query_row(self, word: str) -> int:
        return self._text_row(self.query.format(word=word))

    def _attacked(self, sample: Sample) -> tuple[str | None, str, str] | None:
        """Views before and after a wrong word, and the word; the first is None where nobody kept it."""
        for name, view in sample.views.items():
            if view.meta.get("edit") == OVERLAY:
                word = view.meta.get("word")
                if not isinstance(word, str) or not word.split():
                    raise DataError(
                        f"sample {sample.key!r}, view {name!r}: an overlay must say its word in meta['word']"
                    )
                # An anchor that was written on as well is no picture without writing.
                before = self._edits(sample).get(CLEAN, None if WRITTEN in sample.meta else ANCHOR)
                return before, name, word
        written = sample.meta.get(WRITTEN)
        if isinstance(written, dict) and written.get("kind", "misleading") == "misleading" and written.get("word"):
            return self._edits(sample).get(CLEAN), ANCHOR, str(written["word"])
        return None

    def _erasure(
        self, row: int, sample: Sample, name: str, edits: tuple[str, str], found: _Edited, bare: Counter[str]
    ) -> None:
        views = self._edits(sample)
        erased, control = (views.get(edit) for edit in edits)
        if erased is None:
            # Text was looked for in this picture, and none of it is removed here.
            bare[name] += any(edit in views for edit, _ in ERASED.values())
            return
        meta = sample.views[erased].meta
        told = PictureText.from_meta(meta, f"sample {sample.key!r}, view {erased!r}", REMOVED)
        if name == "RSA":
            self.engines[str(meta.get("engine", told.engine if told is not None else "unknown"))] += 1
        if told is not None and not told.spans:
            bare[name] += 1
        elif sample.captions:
            place = -1 if control is None else self._view_row(row, control)
            forms = (self._view_row(row, ANCHOR), self._view_row(row, erased), place)
            found.add(forms, self._target(row), map(self._text_row, sample.captions))

    def _clean_view(self, sample: Sample) -> str:
        """The view before anything was written on the picture, else the anchor."""
        return self._edits(sample).get(CLEAN, ANCHOR)

    @staticmethod
    def _edits(sample: Sample) -> dict[str, str]:
        """Names of a sample's views by what was done to them."""
        return {str(view.meta["edit"]): name for name, view in sample.views.items() if "edit" in view.meta}

    # Rows ------------------------------------------------------------------------------------------------------------

    def _target(self, row: int) -> int:
        return int(self.catalogue.group[row])

    def _view_row(self, row: int, view: str) -> int:
        """A picture's row; views follow their anchor in the catalogue."""
        first = picture = int(self.catalogue.anchor[row])
        if view:
            last = first + int(np.searchsorted(self.catalogue.picture_sample[first:], row, side="right"))
            names = [self.catalogue.view_names[code] for code in self.catalogue.picture_view[first:last].tolist()]
            picture += names.index(view)
        return self._picture.setdefault(picture, len(self._picture))

    def _text_row(self, text: str) -> int:
        return self._text.setdefault(text, len(self._text))

    def texts(self) -> tuple[str, ...]:
        """All texts in the order of their rows."""
        return tuple(self._text)

    def pictures(self) -> EvaluationSet:
        """All pictures in the order of their rows."""
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
