"""Which polygons are filled for each view of each picture of a shard: a pure function of its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datamodules.hashing import string_id
from datamodules.ocr.polygons import Quad, borrow, relative
from datamodules.ocr.words import split_words, words_said
from datamodules.text_removal.settings import EraseSettings
from datamodules.text_spans import PictureText, Span

_CONTROL = "control-"
_Pool = list[tuple[int, Quad]]


@dataclass(frozen=True)
class Erasure:
    """One view to make.

    Attributes:
        view: its name.
        found: pieces of text that are taken out, or whose number of polygons is borrowed.
        quads: what is filled, corners in pixels; none where nothing was found, and the view is the picture.
        spans: the text that is taken out; none for a control.
        donors: keys of the pictures that the polygons are from, for a control.
    """

    view: str
    found: int
    quads: tuple[Quad, ...]
    spans: tuple[Span, ...] = ()
    donors: tuple[str, ...] = ()


class ErasePlanner:
    """Plans the views of a shard's pictures.

    Polygons for controls are borrowed within the shard, so that shards can be made in any order, on any machine.

    Args:
        texts: of the shard's pictures, by number in the index; those that could not be read are left out.
        captions: of each of them.
        keys: of each of them.
        settings: which views, and the seed.
    """

    def __init__(
        self,
        texts: Mapping[int, PictureText],
        captions: Mapping[int, Sequence[str]],
        keys: Mapping[int, str],
        settings: EraseSettings,
    ) -> None:
        self.texts, self.keys, self.settings = texts, keys, settings
        self._gone: dict[str, dict[int, tuple[Span, ...]]] = {
            "erased": {row: text.spans for row, text in texts.items()},
            "erased-caption": {row: words_said(text.spans, captions[row]) for row, text in texts.items()},
        }
        self._pools = {view: self._pool(gone) for view, gone in self._gone.items()}
        words = {row: tuple(word for span in text.spans for word in split_words(span)) for row, text in texts.items()}
        self._words = self._pool(words)

    def _pool(self, spans: Mapping[int, tuple[Span, ...]]) -> _Pool:
        return [(row, quad) for row, its in spans.items() for quad in relative(its, self.texts[row].size)]

    def plan(self, row: int) -> tuple[Erasure, ...]:
        """Plan the views of a picture.

        Args:
            row: its number; of ``texts``.
        """
        return tuple(
            self._control(row, view) if view.startswith(_CONTROL) else self._erased(row, view)
            for view in self.settings.views
        )

    def _erased(self, row: int, view: str) -> Erasure:
        spans = self._gone[view][row]
        return Erasure(view, len(spans), tuple(span.quad for span in spans), spans)

    def _control(self, row: int, view: str) -> Erasure:
        of = view.removeprefix(_CONTROL)
        gone, pool, text = self._gone[of][row], self._pools[of], self.texts[row]
        if of == "erased-caption" and all(owner == row for owner, _ in pool):
            pool = self._words  # no other picture says what its captions say; a word is a word
        draw = (self.settings.seed, string_id(self.keys[row]), string_id(of))
        borrowed = borrow(pool, gone, text.spans, row, text.size, *draw)
        donors = tuple(self.keys[owner] for owner, _ in borrowed)
        return Erasure(view, len(gone), tuple(quad for _, quad in borrowed), donors=donors)
