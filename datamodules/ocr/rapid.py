"""Reads by RapidOCR: the PP-OCR models in ONNX, which its wheel carries."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.decode import Picture
from datamodules.errors import DataError
from datamodules.ocr.engine import ReaderOptions, fitted, has_likely_size, is_legible, span_of
from datamodules.text_spans import Span

_PACKAGES = ("rapidocr", "onnxruntime")


_TALL = 1.5  # height to width from which RapidOCR turns a line before it reads it
_SHORT = 2  # letters that may well stand in a tall box without being turned


def reading_quad(text: str, quad: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Turn a line's corners so that they begin at the upper left of the writing.

    RapidOCR gives them from the upper left of the picture. Tall lines are taken to run from top to bottom, the letters
    lying on their left side, as on the back of a book; whether one runs upwards is not told.

    Args:
        text: what the line says.
        quad: [4, 2], clockwise from the upper left.

    Returns:
        [4, 2]

    >>> reading_quad("SPINE", np.array([[0, 0], [10, 0], [10, 50], [0, 50]])).tolist()
    [[10, 0], [10, 50], [0, 50], [0, 0]]
    """
    width, height = np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[3] - quad[0])
    return np.roll(quad, -1, axis=0) if height >= _TALL * width and len(text) > _SHORT else quad


class RapidOcrReader:
    """Finds lines of text as quadrilaterals, also slanted ones, and reads them (Latin and Chinese scripts).

    The detection network is the one of Liao et al., "Real-time Scene Text Detection with Differentiable Binarization"
    (AAAI 2020), as PaddleOCR trained it. Nothing is downloaded.

    Args:
        options: how it reads.

    Raises:
        DataError: if the extra is not installed.
    """

    def __init__(self, options: ReaderOptions = ReaderOptions()) -> None:  # noqa: B008 - immutable
        for package in _PACKAGES:
            if find_spec(package) is None:
                raise DataError(f"{package} is not installed, which reads pictures: pip install 'bias-train[ocr]'")
        self.options = options
        self._engine: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_engine": None}  # sessions of onnxruntime cannot be sent to another process

    @property
    def name(self) -> str:
        """RapidOCR's version; the models are those of its wheel."""
        return f"rapidocr {version('rapidocr')}"

    def describe(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": self.name, **self.options.to_json()}

    def read(self, image: Picture) -> tuple[Span, ...]:
        """Read a picture, see :class:`datamodules.ocr.engine.TextReader`; gives lines.

        Raises:
            DataError: if the engine fails.
        """
        picture, scale = fitted(image, self.options)
        if not is_legible(picture):
            return ()
        if self._engine is None:
            self._engine = self._load()
        try:
            found = self._engine(np.ascontiguousarray(picture[..., ::-1]))  # it takes BGR
        except Exception as error:  # its own errors have no common base
            said = " ".join(f"{type(error).__name__} {error}".split())[-200:]
            raise DataError(f"rapidocr: failed on a picture of {list(image.shape)} ({said})") from error
        if found.boxes is None or found.txts is None or found.scores is None:
            return ()
        spans = (
            span_of(text, reading_quad(text, quad), score, scale)
            for text, quad, score in zip(found.txts, found.boxes, found.scores, strict=True)
            if score >= self.options.min_confidence
        )
        return tuple(span for span in spans if span is not None and has_likely_size(span, image, self.options))

    def _load(self) -> Any:
        from rapidocr import RapidOCR

        return RapidOCR(
            params={
                "Global.log_level": "error",  # it logs what it loads, and a warning for every picture without text
                "Global.text_score": 0.0,  # the threshold is ours
                # Sizes are ours, so that detection and recognition see the same pixels.
                "Det.limit_side_len": 32,
                "Global.max_side_len": max(self.options.longer_side, 2000),
                "EngineConfig.onnxruntime.intra_op_num_threads": self.options.threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
