"""What decides the data of a set with words written on its pictures."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from datamodules.errors import DataError
from datamodules.lettering.overlay import LetteringOptions
from datamodules.reencode import ImageFormat

KINDS = ("parroting", "neutral", "misleading")
"""What a word on an anchor is: one of its own captions' words; any listed word; the name of something else."""

WORD = "{word}"
"""Stands for the written word in a template of captions."""

MisleadBy = Literal["captions", "labels", "words"]


@dataclass(frozen=True)
class OverlaySettings:
    """What decides the data.

    Attributes:
        words: digest of the list of words.
        parroting: share of the anchors on which a content word of one of their captions is written.
        neutral: share on which a listed word is written that no caption says.
        misleading: share on which the name of something else is written.
        overlay: give every sample a view ``overlay`` with a misleading word.
        attack: the views' words are names of other classes, those of several words on two lines.
        caption: template of what captions of parroting anchors become, such as ``{word}``. What is written is then a
            listed word, which nothing but reading matches to the picture; None keeps captions, and writes their words.
        keep_clean: keep what was written on as the view ``clean``.
        mislead_by: where misleading words are from: ``captions`` of other samples, ``labels`` of other classes, or the
            list of ``words``.
        looks: what letterings are drawn from; each sample's from one of them, evenly.
        min_letters: smallest em in pixels; where a word does not fit in such letters, nothing is written.
        quality: of the JPEG.
        seed: of every random choice.
        limit: take the first so many samples only.
    """

    words: str
    parroting: float = 0.0
    neutral: float = 0.0
    misleading: float = 0.0
    overlay: bool = True
    attack: bool = False
    caption: str | None = None
    keep_clean: bool = False
    mislead_by: MisleadBy = "captions"
    looks: tuple[LetteringOptions, ...] = (LetteringOptions(),)
    min_letters: int = 6
    quality: int = 92
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        for kind in KINDS:
            if not 0 <= getattr(self, kind) <= 1:
                raise DataError(f"--{kind} {getattr(self, kind)}: is a share of the anchors, in [0, 1]")
        if sum(self.shares) > 1 + 1e-9:
            given = ", ".join(f"--{kind} {getattr(self, kind):g}" for kind in KINDS)
            raise DataError(f"{given}: add up to {sum(self.shares):g}, but an anchor has one word; lower one")
        if not self.overlay and not any(self.shares):
            raise DataError(f"nothing is to be written: give --views overlay, or one of --{', --'.join(KINDS)}")
        if self.caption is not None and WORD not in self.caption:
            raise DataError(f"--parrot-caption {self.caption!r}: lacks {WORD}, where the written word is to stand")
        if self.caption is not None and not self.parroting:
            raise DataError("--parrot-caption: is about parroting anchors; give --parroting a share too")
        if self.attack and not self.overlay:
            raise DataError("--attack: is about the view overlay; give --views overlay too")
        if self.attack and self.mislead_by != "labels":
            raise DataError(f"--attack: writes names of other classes; leave out --mislead-by {self.mislead_by}")
        if self.mislead_by not in ("captions", "labels", "words"):
            raise DataError(f"--mislead-by {self.mislead_by}: is none of captions, labels, words")
        if not self.looks:
            raise DataError("--look: name one")
        if self.min_letters < 1:
            raise DataError(f"--min-letters {self.min_letters}: must be 1 pixel or more")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"--limit {self.limit}: must be 1 or more")
        self.image_format  # noqa: B018 - checks the quality

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of the anchors, by ``KINDS``."""
        return self.parroting, self.neutral, self.misleading

    @property
    def image_format(self) -> ImageFormat:
        """How all pictures of the set are written."""
        return ImageFormat(quality=self.quality)

    def to_json(self) -> dict[str, Any]:
        """All of it, for the record and for comparing two runs."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {"looks": [look.to_json() for look in self.looks]}
