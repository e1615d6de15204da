"""OCR and blur at query time, as a change of pictures: the baseline that every other remedy has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datamodules.decode import Picture


@dataclass(frozen=True)
class OcrBlur:
    """Reads a picture and blurs what is written on it; can be sent to loader workers.

    Attributes:
        reader: a `datamodules.ocr.TextReader`.
    """

    reader: Any

    @classmethod
    def of(cls, engine: str) -> OcrBlur:
        """Take an engine by name.

        Raises:
            DataError: for another name, or an engine that is not installed.
        """
        from datamodules.ocr import reader_of

        return cls(reader_of(engine))

    @property
    def name(self) -> str:
        """The engine and its version."""
        return str(self.reader.name)

    def describe(self) -> dict[str, Any]:
        """All that decides how a picture is changed: the engine with its options, and the blur."""
        from datamodules.ocr.blur import DILATION
        from datamodules.ocr.fill import BlurFill

        return {"reader": self.reader.describe(), "fill": BlurFill().describe(), "dilation": DILATION}

    def __call__(self, image: Picture) -> Picture:
        """Uint8 [H, W, 3] to the same, blurred where the engine has read something."""
        from datamodules.ocr.blur import read_and_blur

        return read_and_blur(image, self.reader)
