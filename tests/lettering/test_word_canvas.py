"""Words alone on a canvas: overflow, fitting and centring, measured on the ink itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from datamodules import DataError
from datamodules.lettering.canvas import STYLES, render_word

LONG = ("electroencephalographically", "incomprehensibilities", "hippopotamus", "MMMMMMMMMM")
SHORT = ("a", "cat", "gypsy", "Übung", "t-shirt", "watermelon", "null", "nan")


def ink(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where the picture is not its background, which is the colour of most pixels."""
    grey = image[..., 0].astype(int)
    return np.asarray(grey != np.bincount(grey.ravel()).argmax())


def bounds(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


@pytest.mark.parametrize("word", LONG + SHORT)
@pytest.mark.parametrize("font", ["dejavu-sans", "dejavu-serif-bold", "dejavu-mono"])
def test_overflow_is_what_a_larger_canvas_shows(word: str, font: str) -> None:
    """Written with letters of the same size where there is room, the ink is wider than the canvas, or is not."""
    left, top, right, bottom = bounds(ink(render_word(word, size=1200, points=32, font=font).image))
    found = render_word(word, font=font)
    assert found.overflow == (max(right - left, bottom - top) > 224)
    shown = ink(found.image)
    if found.overflow:
        assert shown[:, :10].any() or shown[:, -10:].any()  # clipped, as in the paper, and not left out
    assert found.image.shape == (224, 224, 3)
    assert found.image.dtype == np.uint8


@pytest.mark.parametrize("word", LONG + SHORT)
def test_fitted_words_are_whole(word: str) -> None:
    found = render_word(word, fit=True)
    assert not found.overflow
    left, top, right, bottom = bounds(ink(found.image))
    assert min(left, top) >= 7
    assert max(right, bottom) <= 217
    larger = ink(render_word(word, size=624, points=found.points).image)  # nothing of it is missing
    assert np.array_equal(larger[200:424, 200:424], ink(found.image))
    assert larger.sum() == ink(found.image).sum()
    assert found.points <= 32
    if not render_word(word).overflow and right - left < 200:
        assert found.points == 32


def test_words_stand_in_the_middle_and_their_box_is_told() -> None:
    for word in SHORT:
        found = render_word(word)
        left, top, right, bottom = bounds(ink(found.image))
        assert abs((left + right) - 224) <= 2, word
        assert abs((top + bottom) - 224) <= 2, word
        assert np.abs(np.array(found.box) - (left, top, right, bottom)).max() <= 1


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_words_stand_where_they_are_put(share: float) -> None:
    """The middle of the ink, from top to bottom; from left to right it stays in the middle of the canvas."""
    for word in SHORT:
        found = render_word(word, y=share)
        left, top, right, bottom = bounds(ink(found.image))
        assert abs((top + bottom) / 2 - share * 224) <= 1, word
        assert abs((left + right) - 224) <= 2, word
        assert not found.overflow
        assert np.abs(np.array(found.box) - (left, top, right, bottom)).max() <= 1
        # The same letters, moved and no more.
        middle = ink(render_word(word).image)
        _, above, _, below = bounds(middle)
        assert np.array_equal(ink(found.image)[top:bottom], middle[above:below])


def test_the_middle_is_the_default_and_ink_past_an_edge_is_told() -> None:
    assert np.array_equal(render_word("gypsy", y=0.5).image, render_word("gypsy").image)
    for y in (0.0, 1.0):
        found = render_word("gypsy", y=y)
        assert found.overflow
        assert 0 < ink(found.image).sum() < ink(render_word("gypsy").image).sum()


@pytest.mark.parametrize("style", STYLES)
def test_styles_are_background_and_ink(style: str) -> None:
    grey = {"white": 255, "black": 0, "gray": 128}
    background, letters = (grey[name] for name in style.split("/"))
    image = render_word("MMM", style=style).image
    assert (image == image[..., :1]).all()
    assert image[0, 0, 0] == background
    assert (image == letters).any()
    assert image.min() == min(background, letters)
    assert image.max() == max(background, letters)


def test_case_punctuation_and_forms() -> None:
    """Case and punctuation are drawn; composed and decomposed accents are one; white space is one space."""
    cat = render_word("cat").image
    assert not np.array_equal(render_word("Cat").image, cat)
    assert not np.array_equal(render_word("cat!").image, cat)
    assert np.array_equal(render_word("cafe\u0301").image, render_word("café").image)
    assert np.array_equal(render_word(" hot \n dog ").image, render_word("hot dog").image)


def test_letters_grow_with_the_canvas_unless_told() -> None:
    assert render_word("cat").points == 32
    assert render_word("cat", size=448).points == 64
    assert render_word("cat", size=448, points=20).points == 20
    assert [render_word(word, size=112).overflow for word in LONG] == [render_word(word).overflow for word in LONG]


@pytest.mark.parametrize(
    ("word", "options", "message"),
    [
        ("cat", {"style": "red/blue"}, "style 'red/blue': is none of white/black"),
        ("  ", {}, "nothing to write"),
        ("猫", {}, "'猫': no chosen font can write it"),
        ("cat", {"points": -1}, "must be more than 0"),
        ("cat", {"size": 0}, "must be 1 or more"),
        ("cat", {"y": 1.01}, r"y of 1\.01: is a share of the canvas's height"),
        ("cat", {"y": -0.1}, r"y of -0\.1: is a share"),
        ("cat", {"y": float("nan")}, "y of nan: is a share"),
        ("cat", {"font": "arial"}, "font 'arial': is none of"),
    ],
)
def test_what_cannot_be_drawn(word: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        render_word(word, **options)  # type: ignore[arg-type]
