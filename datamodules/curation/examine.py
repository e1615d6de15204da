"""One sample's text and how much of its captions it says; the work that goes to other processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from datamodules.curation.area import area_share
from datamodules.curation.overlap import fuzzy_ratio, ratio, word_set
from datamodules.decode import Picture, decode
from datamodules.errors import DataError, SampleError
from datamodules.index import ShardIndex
from datamodules.lettering.fonts import is_unspaced
from datamodules.text_spans import META, PictureText, Span


class Reader(Protocol):
    """Reads the text in pictures, as `datamodules.ocr.engine.TextReader`."""

    @property
    def name(self) -> str:
        """Engine and version."""

    def describe(self) -> dict[str, object]:
        """All that decides what it reads."""

    def read(self, image: Picture) -> tuple[Span, ...]:
        """[H, W, 3] uint8 to what is written in it."""


MakeReader = Callable[[], Reader]

NOT_SAID = "not annotated"  # the problem of a sample whose shards say nothing of text; taken for one without any


@dataclass(frozen=True)
class Examined:
    """What was found of one sample with C captions.

    Attributes:
        row: of the index.
        captions: of the anchor.
        text: in the picture; None where nothing is known of it.
        problem: why nothing is known: "undecodable" and the like, or `NOT_SAID`; empty where all is well.
        fresh: whether the picture was read now, so that the result is worth keeping.
        area: share of the picture that lies under text.
        cotr: [C] NaN for a caption without a word.
        fuzzy: [C] likewise; empty where no threshold was given.
        unspaced: [C] whether a caption is in a script without spaces.
    """

    row: int
    captions: tuple[str, ...]
    text: PictureText | None
    problem: str
    fresh: bool
    area: float
    cotr: tuple[float, ...]
    fuzzy: tuple[float, ...]
    unspaced: tuple[bool, ...]


class Examiner:
    """Examines samples of one shard set.

    Args:
        index: of the set.
        make_reader: makes what reads pictures, once it is needed; None takes what the shards say of their text.
        fuzzy: threshold of fuzzy CoTR; None leaves it out.
        normalise: see :func:`datamodules.curation.overlap.cotr`.
    """

    def __init__(self, index: ShardIndex, make_reader: MakeReader | None, fuzzy: float | None, normalise: bool) -> None:
        self.index, self.make_reader = index, make_reader
        self.fuzzy, self.normalise = fuzzy, normalise
        self._reader: Reader | None = None

    def __call__(self, task: tuple[Sequence[int], Sequence[bytes | None]]) -> list[Examined]:
        """Examine some samples.

        Args:
            task: rows of the index, and what :func:`to_bytes` kept of each one's text; None where its picture has to be
                read.
        """
        rows, known = task
        return [self._one(row, kept) for row, kept in zip(rows, known, strict=True)]

    def _one(self, row: int, kept: bytes | None) -> Examined:
        text: PictureText | None = None
        problem, fresh = "", False
        captions = self.index.captions(row)
        if self.make_reader is None:
            text = PictureText.from_meta(self.index.sample(row).meta, f"sample {self.index.keys[row]!r}")
            problem = "" if text is not None else NOT_SAID
        elif kept is not None:
            text, problem = of_bytes(kept)
        else:
            fresh = True
            try:
                text = self._read(row)
            except SampleError as error:
                problem = error.kind
        written = word_set(text.words(), normalise=self.normalise) if text is not None else frozenset[str]()
        said = [word_set(caption, normalise=self.normalise) for caption in captions]
        return Examined(
            row, captions, text, problem, fresh,
            area=area_share(text) if text is not None else 0.0,
            cotr=tuple(ratio(words, written) for words in said),
            fuzzy=() if self.fuzzy is None else tuple(fuzzy_ratio(words, written, self.fuzzy) for words in said),
            unspaced=tuple(not caption.isascii() and is_unspaced(caption) for caption in captions),
        )  # fmt: skip

    def _read(self, row: int) -> PictureText:
        if self._reader is None:
            assert self.make_reader is not None
            self._reader = self.make_reader()
        picture = decode(anchor_bytes(self.index, row), self.index.keys[row])
        height, width = picture.shape[:2]
        text = PictureText((width, height), self._reader.read(picture), self._reader.name)
        # Rounded as it is kept, so that a second run finds the same.
        return PictureText.from_meta({META: text.to_json()}, "what was read") or text


def anchor_bytes(index: ShardIndex, row: int, view: int = 0) -> bytes:
    """Read the bytes of a sample's anchor, or of its n-th view.

    Raises:
        SampleError: if they cannot be read or are not those that were indexed.
    """
    at = int(index.view_start[row]) + view
    return index.read_picture(int(index.shard[row]), int(index.offset[at]), int(index.size[at]), int(index.crc[at]))


def to_bytes(found: Examined) -> bytes:
    """What is worth keeping of a picture: its text, or why there is none."""
    kept = found.problem if found.text is None else found.text.to_json()
    return json.dumps(kept, ensure_ascii=False).encode()


def of_bytes(kept: bytes) -> tuple[PictureText | None, str]:
    """The text that :func:`to_bytes` kept, and the problem.

    Raises:
        DataError: if it is damaged.
    """
    try:
        found = json.loads(kept)
    except ValueError as error:
        raise DataError(f"the cache of curation is damaged ({error}); remove it") from error
    if isinstance(found, str):
        return None, found
    return PictureText.from_meta({META: found}, "the cache of curation"), ""
