"""What is written can be read: by an OCR engine that knows nothing of how it was drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from datamodules import DataError
from datamodules.hashing import uniform
from datamodules.lettering.canvas import STYLES, render_word
from datamodules.lettering.fonts import font_names
from datamodules.lettering.overlay import COLOURS, UNIFORMS, LetteringOptions, draw_lettering, hand_written, write
from datamodules.lettering.words import normalised
from datamodules.ocr.engine import TextReader, reader_of

WORDS = ("bicycle", "kitchen", "lantern", "giraffe", "umbrella", "mountain", "teacup", "orange")
DARK = {"fonts": ("dejavu-sans", "dejavu-serif"), "height": (0.16, 0.24)}


@pytest.fixture(scope="module")
def reader() -> TextReader:
    try:
        return reader_of("rapidocr")
    except DataError as error:
        pytest.skip(str(error))


def read(reader: TextReader, image: np.ndarray) -> set[str]:
    return {normalised(word) for span in reader.read(image) for word in span.text.split()}


def test_overlays(reader: TextReader) -> None:
    """Black letters on a light picture, printed and by hand, upright and turned: most are read, at their place."""
    black = (COLOURS["black"], COLOURS["white"])
    looks = [LetteringOptions(colours=black, **DARK), LetteringOptions(colours=black, rotation=(-12, 12), **DARK)]
    if hand := font_names("hand"):
        looks.append(
            hand_written([font for font in hand if font != "permanent-marker"], colours=black[:1], wave=(0, 0))
        )
    found = total = 0
    for number, look in enumerate(looks):
        for place, word in enumerate(WORDS):
            corners = np.random.default_rng(place).integers(150, 230, (2, 3, 3), dtype=np.uint8)
            image = np.asarray(Image.fromarray(corners).resize((320, 240), Image.Resampling.BICUBIC))
            out, span = write(image, draw_lettering(word, uniform(number, place, np.arange(UNIFORMS)), look))
            total += 1
            for one in reader.read(out):
                middle = np.mean(one.quad, axis=0) - np.mean(span.quad, axis=0)
                if normalised(one.text) == word and np.abs(middle).max() < 12:
                    found += 1
    assert found >= 0.8 * total


def test_rendered_words(reader: TextReader) -> None:
    seen = [word in read(reader, render_word(word, style=style).image) for style in STYLES for word in WORDS]
    assert np.mean(seen) >= 0.9
