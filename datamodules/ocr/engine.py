"""The interface of OCR engines, what all of them are asked, and which there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from datamodules.decode import Picture
from datamodules.errors import DataError
from datamodules.text_spans import Point, Span

ENGINES = ("rapidocr", "tesseract")

_THINNEST = 16  # pixels


@dataclass(frozen=True)
class ReaderOptions:
    """How engines read; the same for all of them, so that they can be compared.

    Attributes:
        min_confidence: pieces of text of which the engine is less sure, in [0, 1], are left out.
        shorter_side: pictures with a shorter side of fewer pixels are enlarged to it before they are read (corners are
            given in the picture's own pixels all the same): small letters are found better, large pictures take longer.
            0 enlarges nothing.
        longer_side: no picture is read with a longer side of more pixels: larger ones are shrunk before.
        max_letter_area: pieces of text whose letters and digits take more than this share of the picture each, in
            (0, 1], are left out (ours): engines see single letters as large as the picture in sand, walls and faces.
            1 leaves none out.
        threads: of the engine.

    Raises:
        DataError: for values out of range.
    """

    min_confidence: float = 0.5
    shorter_side: int = 448
    longer_side: int = 2000
    max_letter_area: float = 0.2
    threads: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise DataError(f"min_confidence {self.min_confidence}: lies in [0, 1]")
        if self.shorter_side < 0:
            raise DataError(f"shorter_side {self.shorter_side}: must be 0 (leave pictures as they are) or more pixels")
        if self.longer_side < max(self.shorter_side, 64):
            raise DataError(
                f"longer_side {self.longer_side}: must be 64 pixels or more, and not less than shorter_side"
            )
        if not 0 < self.max_letter_area <= 1:
            raise DataError(f"max_letter_area {self.max_letter_area}: is a share of the picture, in (0, 1]")
        if self.threads < 1:
            raise DataError(f"threads {self.threads}: must be 1 or more")

    def to_json(self) -> dict[str, Any]:
        """What decides what is read, for records; the number of threads does not."""
        return {name: value for name, value in asdict(self).items() if name != "threads"}


@runtime_checkable
class TextReader(Protocol):
    """Reads the text in pictures. Can be sent to another process, where it loads its engine again."""

    @property
    def name(self) -> str:
        """The engine, its version and its models; stands with what it read."""

    def describe(self) -> dict[str, Any]:
        """All that decides what it reads: name and options. Two readers with the same may share a cache."""

    def read(self, image: Picture) -> tuple[Span, ...]:
        """Read a picture.

        Args:
            image: [H, W, 3] uint8, RGB.

        Returns:
            What was found with confidence enough, in the engine's order; corners in pixels of the picture given. The
            pieces are what the engine gives, lines or words: see :func:`datamodules.ocr.words.split_words`.
        """


def reader_of(name: str, options: ReaderOptions | None = None) -> TextReader:
    """Make the reader of an engine.

    Args:
        name: "rapidocr" (PP-OCR models in ONNX, lines of text as quadrilaterals; its wheel carries the models, nothing
            is downloaded) or "tesseract" (words as upright boxes; from the system's packages).
        options: how it reads; the defaults where None.

    Raises:
        DataError: for another name, or an engine that is not installed, saying how to install it.
    """
    from datamodules.ocr.rapid import RapidOcrReader
    from datamodules.ocr.tesseract import TesseractReader

    engines: dict[str, Callable[[ReaderOptions], TextReader]] = {
        "rapidocr": RapidOcrReader,
        "tesseract": TesseractReader,
    }
    if name not in engines:
        raise DataError(f"OCR engine {name!r}: choose {' or '.join(engines)}")
    return engines[name](options or ReaderOptions())


def fitted(image: Picture, options: ReaderOptions) -> tuple[Picture, float]:
    """Bring a picture to a size at which engines read well: see :class:`ReaderOptions`.

    Returns:
        The picture, [H', W', 3] uint8, at its own aspect, and H' / H.

    Raises:
        DataError: if it is no [H, W, 3] uint8 picture.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"a picture to read must be [H, W, 3] uint8, RGB; this is {list(image.shape)} {image.dtype}")
    height, width = image.shape[:2]
    scale = min(max(options.shorter_side / min(height, width), 1.0), options.longer_side / max(height, width))
    if scale == 1:
        return np.ascontiguousarray(image), 1.0
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8), scale


def is_legible(picture: Picture) -> bool:
    """Whether a picture is high and wide enough for a letter; engines fail on thinner ones."""
    return min(picture.shape[:2]) >= _THINNEST


def span_of(text: str, quad: Any, confidence: float, scale: float) -> Span | None:
    """A piece of text as an engine gives it, or None where no letter or digit is in it.

    Bars, dots and slashes are what engines see in textures.

    Args:
        text: what it says.
        quad: [4, 2] corners in pixels of the picture that was read, clockwise from the upper left of the writing.
        confidence: the engine's, in [0, 1].
        scale: by which the picture had been enlarged.
    """
    text = " ".join(text.split())
    if not any(letter.isalnum() for letter in text):
        return None
    a, b, c, d = (_point(corner, scale) for corner in np.asarray(quad, dtype=np.float64))
    return Span(text, (a, b, c, d), float(min(max(confidence, 0.0), 1.0)))


def has_likely_size(span: Span, image: Picture, options: ReaderOptions) -> bool:
    """Whether the letters of a piece of text are not too large to be any, see ``ReaderOptions.max_letter_area``.

    Args:
        span: corners in pixels of the picture.
        image: [H, W, 3], the whole picture.
        options: how it was read.

    >>> huge = Span("M", ((0, 0), (90, 0), (90, 90), (0, 90)))
    >>> image = np.zeros((100, 100, 3), np.uint8)
    >>> has_likely_size(huge, image, ReaderOptions()), has_likely_size(huge, image, ReaderOptions(max_letter_area=1.0))
    (False, True)
    """
    letters = sum(letter.isalnum() for letter in span.text)
    most = options.max_letter_area * letters * image.shape[0] * image.shape[1]
    return options.max_letter_area == 1 or span.area() <= most  # engines' corners may reach past the picture


def _point(corner: Any, scale: float) -> Point:
    return float(corner[0]) / scale, float(corner[1]) / scale
