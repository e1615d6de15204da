"""Text of a picture: what is written, and where. The schema of ``text`` and ``removed`` in a meta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.errors import DataError

META = "text"  # where a sample's meta, or a view's, has the text that stands in its picture
REMOVED = "removed"  # where the meta of a view has the text that was taken out of the picture, and stands there no more

Point = tuple[float, float]


@dataclass(frozen=True)
class Span:
    """One piece of text in a picture.

    Attributes:
        text: what it says, as it is written.
        quad: its four corners (x, y) in pixels of the picture, clockwise from the upper left of the writing.
        confidence: of the engine that read it, in [0, 1]; None where it was written by us and is known.
    """

    text: str
    quad: tuple[Point, Point, Point, Point]
    confidence: float | None = None

    def area(self) -> float:
        """Area of the quadrilateral in pixels (shoelace formula), 0 where it is degenerate."""
        xs, ys = zip(*self.quad, strict=True)
        return abs(sum(xs[i] * ys[i - 3] - xs[i - 3] * ys[i] for i in range(4))) / 2


@dataclass(frozen=True)
class PictureText:
    """All text that is known to stand in one picture, or to have been taken out of it.

    Attributes:
        size: width and height of the picture in pixels, to which the spans' corners refer.
        spans: the pieces of text; empty where there is none.
        engine: who says so: the name and version of an OCR engine, or ``"written"`` where it was written by us.
    """

    size: tuple[int, int]
    spans: tuple[Span, ...]
    engine: str

    def words(self) -> tuple[str, ...]:
        """The words of all spans, split at white space, in their order, as they are written."""
        return tuple(word for span in self.spans for word in span.text.split())

    def to_json(self) -> dict[str, Any]:
        """The object that stands under ``text``, or under ``removed``, in a meta."""
        return {
            "size": list(self.size),
            "engine": self.engine,
            "spans": [
                {
                    "text": span.text,
                    "quad": [[round(x, 1), round(y, 1)] for x, y in span.quad],
                    **({} if span.confidence is None else {"confidence": round(span.confidence, 4)}),
                }
                for span in self.spans
            ],
        }

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any], where: str, field: str = META) -> PictureText | None:
        """Read what ``to_json`` wrote; None where a meta says nothing of text.

        Args:
            meta: of a sample or a view.
            where: names it, for the error.
            field: ``META`` for what stands in the picture, ``REMOVED`` for what was taken out of it.

        Raises:
            DataError: if it does not follow the schema.

        Example:
            >>> span = Span("STOP", ((1, 1), (9, 1), (9, 5), (1, 5)))
            >>> text = PictureText((20, 10), (span,), "written")
            >>> PictureText.from_meta({"text": text.to_json()}, "sample 'a'") == text, span.area()
            (True, 32.0)
        """
        found = meta.get(field)
        if found is None:
            return None
        try:
            width, height = found["size"]
            spans = tuple(
                Span(_string(span["text"]), _quad(span["quad"]), span.get("confidence")) for span in found["spans"]
            )
            return cls((int(width), int(height)), spans, _string(found["engine"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where}, field {field!r}: must hold size, engine and spans with text and quad ({error!r})"
            ) from error


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no string")
    return value


def _quad(value: Sequence[Sequence[float]]) -> tuple[Point, Point, Point, Point]:
    a, b, c, d = ((float(x), float(y)) for x, y in value)
    return a, b, c, d
