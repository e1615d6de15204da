"""What decides the data of a set with objects taken out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from datamodules.errors import DataError
from datamodules.reencode import ImageFormat


@dataclass(frozen=True)
class DecorrelationSettings:
    """What decides the data.

    Attributes:
        inpainter: what fills masks, as its ``describe`` says.
        vocabulary: digest of the table of categories.
        all_objects: take out every object that can be, not only those of mined pairs.
        min_npmi: see :func:`datamodules.objects.pairs.mine_pairs`.
        min_support: likewise.
        related: digest of the table of related pairs, None without one.
        objects: digest of the side file of objects, None where they are the shards'.
        retriever: what measured the likeness of names, and verifies; None where nothing does.
        verify: look whether the object is gone.
        min_area: smallest share of the picture that an object's mask may have.
        max_area: the largest.
        dilation: pixels that masks are widened by, at a longer side of 640.
        decoys: paste an unrelated object into a view of each edited sample.
        quality: of the JPEG.
        seed: of every random choice.
        limit: take the first so many samples only.
    """

    inpainter: dict[str, Any]
    vocabulary: str
    all_objects: bool = False
    min_npmi: float = 0.15
    min_support: int = 200
    related: str | None = None
    objects: str | None = None
    retriever: str | None = None
    verify: bool = False
    min_area: float = 0.01
    max_area: float = 0.3
    dilation: float = 13.0
    decoys: bool = True
    quality: int = 92
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_area < self.max_area < 1:
            raise DataError(
                f"--min-area {self.min_area} and --max-area {self.max_area}: two shares, 0 < min < max < 1, are needed"
            )
        if self.dilation < 0:
            raise DataError(f"--dilation {self.dilation}: must be 0 or more")
        if not -1 <= self.min_npmi <= 1:
            raise DataError(f"--min-npmi {self.min_npmi}: lies in [-1, 1]")
        if self.min_support < 1:
            raise DataError(f"--min-support {self.min_support}: must be 1 or more")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"--limit {self.limit}: must be 1 or more")
        if self.verify and self.retriever is None:
            raise DataError("--verify: needs a retriever that looks; give --model, --hf-model or --run too")
        self.image_format  # noqa: B018 - checks the quality

    @property
    def image_format(self) -> ImageFormat:
        """How all pictures of the set are written."""
        return ImageFormat(quality=self.quality)

    def to_json(self) -> dict[str, Any]:
        """All of it, for the record and for comparing two runs."""
        return asdict(self)
