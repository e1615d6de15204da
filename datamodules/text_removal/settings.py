"""What decides the data of a set with text taken out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from datamodules.errors import DataError
from datamodules.ocr.blur import DILATION
from datamodules.reencode import ImageFormat

VIEWS = ("erased", "erased-caption", "control-erased", "control-erased-caption")
"""All text; the words of it that a caption says; and for each, as many polygons borrowed from other pictures."""

KNOWN = "known"
"""The reader that reads nothing, but takes the spans that the samples' meta has."""


@dataclass(frozen=True)
class EraseSettings:
    """What decides the data.

    Attributes:
        reader: what finds text, as its ``describe`` says; ``{"name": "known"}`` for the spans in the samples' meta.
        fill: what fills polygons, as it was asked for.
        views: which of :data:`VIEWS` are made.
        dilation: pixels that polygons are widened by, at a longer side of 640.
        quality: of the JPEG.
        seed: of the polygons that are borrowed.
        limit: take the first so many samples only.

    Raises:
        DataError: for values out of range.
    """

    reader: dict[str, Any]
    fill: dict[str, Any]
    views: tuple[str, ...] = VIEWS
    dilation: float = DILATION
    quality: int = 92
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        for view in self.views:
            if view not in VIEWS:
                raise DataError(f"--views {view}: choose of {', '.join(VIEWS)}")
        if not self.views or len(set(self.views)) < len(self.views):
            raise DataError("--views: name one or more, each once")
        if not 0 <= self.dilation < 640:
            raise DataError(f"--dilation {self.dilation}: must be 0 or more pixels, and fewer than 640")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"--limit {self.limit}: must be 1 or more")
        self.image_format  # noqa: B018 - checks the quality

    @property
    def is_known(self) -> bool:
        """Whether the text is taken from the samples' meta."""
        return self.reader["name"] == KNOWN

    @property
    def image_format(self) -> ImageFormat:
        """How all pictures of the set are written."""
        return ImageFormat(quality=self.quality)

    def to_json(self) -> dict[str, Any]:
        """All of it, for the record and for comparing two runs."""
        return asdict(self) | {"views": list(self.views)}
