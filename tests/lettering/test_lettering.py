"""Words on pictures: where they are, against the pixels that changed; what they look like, against Pillow's drawing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from datamodules import DataError
from datamodules.hashing import uniform
from datamodules.lettering.fonts import font_path
from datamodules.lettering.overlay import (
    UNIFORMS,
    Lettering,
    LetteringOptions,
    TooSmallError,
    draw_lettering,
    hand_written,
    in_two_lines,
    write,
)
from datamodules.text_spans import Span

FONTS = ("dejavu-sans", "dejavu-sans-bold", "dejavu-serif", "dejavu-mono")
WILD = LetteringOptions(
    fonts=FONTS, height=(0.05, 0.5), stroke=(0.0, 0.02), rotation=(-90, 90), slant=(-20, 20), wave=(0, 0.2), paper=0.3,
    two_lines=True,
)  # fmt: skip


def picture(seed: int, height: int = 224, width: int = 224) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(90, 166, (height, width, 3), dtype=np.uint8)


def draws(seed: int) -> npt.NDArray[np.float64]:
    return uniform(seed, np.arange(UNIFORMS))


def distance_inside(span: Span, y: npt.NDArray[np.intp], x: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """How far pixel centres lie within a quadrilateral that is told clockwise, by the side that is next."""
    corners = np.array(span.quad)
    points = np.stack([x + 0.5, y + 0.5], axis=1)
    sides = np.roll(corners, -1, axis=0) - corners
    cross = [s[0] * (points[:, 1] - c[1]) - s[1] * (points[:, 0] - c[0]) for s, c in zip(sides, corners, strict=True)]
    return np.asarray(np.min(np.stack(cross) / np.linalg.norm(sides, axis=1)[:, None], axis=0))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["a", "cat", "hot dog", "great white shark", "gypsy", "Å", "electroencephalographically"]),
    st.integers(40, 300),
    st.integers(40, 300),
)
def test_all_that_changes_lies_within_the_corners(seed: int, word: str, height: int, width: int) -> None:
    image = picture(seed, height, width)
    before = image.copy()
    lettering = draw_lettering(word, draws(seed), WILD)
    out, span = write(image, lettering)
    assert np.array_equal(image, before)
    y, x = np.nonzero((out != image).any(axis=-1))
    assert len(y)
    assert distance_inside(span, y, x).min() >= 0
    quad = np.array(span.quad)
    assert (quad >= -1).all()
    assert (quad <= (width + 1, height + 1)).all()
    assert span.text == word
    assert span.confidence is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["cat", "umbrella", "gypsy"]), st.floats(-90, 90))
def test_the_corners_are_no_wider_than_need_be(seed: int, word: str, degrees: float) -> None:
    """They are the smallest rectangle around what changed, but for a few pixels; and turn as the writing does."""
    options = LetteringOptions(fonts=FONTS, height=(0.15, 0.3), rotation=(degrees, degrees))
    image = np.full((224, 224, 3), 77, np.uint8)
    out, span = write(image, draw_lettering(word, draws(seed), options))
    y, x = np.nonzero((out != image).any(axis=-1))
    _, (one, other), _ = cv2.minAreaRect(np.stack([x, y], axis=1).astype(np.float32))
    assert span.area() <= (one + 8) * (other + 8)
    a, b, _, d = np.array(span.quad)
    assert np.degrees(np.arctan2(-(b - a)[1], (b - a)[0])) == pytest.approx(degrees, abs=0.1)
    assert (b - a) @ (d - a) == pytest.approx(0, abs=0.1)
    assert (b - a)[0] * (d - a)[1] - (b - a)[1] * (d - a)[0] > 0  # clockwise, y pointing down


@pytest.mark.parametrize("stroke", [0, 1, 3])
def test_letters_are_those_of_pillow(stroke: int) -> None:
    """Pillow draws letters with an edge itself, in its own way of putting colours together."""
    image = picture(5)
    lettering = Lettering(
        "giraffe", height=40 / 224, x=0.3, y=0.6, colour=(250, 220, 30), stroke_colour=(30, 60, 220),
        stroke=stroke / 224,
    )  # fmt: skip
    out, span = write(image, lettering)
    font = ImageFont.truetype(font_path("dejavu-sans"), 40, layout_engine=ImageFont.Layout.BASIC)
    alone = Image.new("L", (224, 224))  # tells where the ink of a word is that is written at (20, 100)
    ImageDraw.Draw(alone).text((20, 100), "giraffe", font=font, anchor="ls", fill=255, stroke_width=stroke)
    left, top, right, bottom = alone.getbbox() or (0, 0, 0, 0)
    assert span.quad[2] == (span.quad[0][0] + right - left + 4, span.quad[0][1] + bottom - top + 4)
    canvas = Image.fromarray(image)
    ImageDraw.Draw(canvas).text(
        (span.quad[0][0] + 2 - left + 20, span.quad[0][1] + 2 - top + 100), "giraffe", font=font, anchor="ls",
        fill=lettering.colour, stroke_fill=lettering.stroke_colour, stroke_width=stroke,
    )  # fmt: skip
    assert np.abs(np.asarray(canvas).astype(int) - out).max() <= 3


def test_places() -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    for x, y, column, edge in ((0, 0, 0, min), (1, 1, 1, max)):
        _, span = write(image, Lettering("cat", x=float(x), y=float(y)))
        assert edge(px for px, _ in span.quad) == 300 * column
        assert edge(py for _, py in span.quad) == 200 * column
    _, span = write(image, Lettering("cat"))
    assert np.abs(np.mean(span.quad, axis=0) - (150, 100)).max() <= 1


def test_a_text_too_wide_is_shrunk_until_it_may_not_be() -> None:
    image = np.full((60, 90, 3), 90, np.uint8)
    long = Lettering("electroencephalographically", height=0.9)
    out, span = write(image, long)
    changed = np.nonzero((out != image).any(axis=-1))[1]
    assert changed.max() - changed.min() > 60
    assert max(x for x, _ in span.quad) <= 90
    with pytest.raises(TooSmallError, match=r"90 x 60 pixels: 'electro.*below 12 pixels"):
        write(image, long, least=12)
    with pytest.raises(TooSmallError):
        write(np.zeros((3, 3, 3), np.uint8), Lettering("cat"))


def test_drawn_letterings_are_pure_and_of_their_ranges() -> None:
    options = LetteringOptions(fonts=FONTS, rotation=(-30, 10), paper=0.25, x=(0.2, 0.4))
    many = [draw_lettering("cat", draws(seed), options) for seed in range(2000)]
    assert many[:50] == [draw_lettering("cat", draws(seed).tolist(), options) for seed in range(50)]
    heights = np.array([one.height for one in many])
    assert 19.99 / 224 <= heights.min() < 20.5 / 224
    assert 39.5 / 224 < heights.max() <= 40.01 / 224
    assert heights.mean() == pytest.approx(30 / 224, rel=0.02)
    assert all(-30 <= one.rotation <= 10 and 0.2 <= one.x <= 0.4 for one in many)
    assert all(one.colour != one.stroke_colour for one in many)
    assert np.mean([one.paper is not None for one in many]) == pytest.approx(0.25, abs=0.04)
    for font in FONTS:
        assert np.mean([one.font == font for one in many]) == pytest.approx(1 / 4, abs=0.04)
    # Nothing about one draw tells of another: height and place, say.
    assert abs(np.corrcoef(heights, [one.y for one in many])[0, 1]) < 0.08


def test_another_process_writes_the_same_bytes() -> None:
    code = (
        "import numpy as np\nfrom hashlib import sha256\nfrom datamodules.hashing import uniform\n"
        "from datamodules.lettering.overlay import *\n"
        "image = np.full((224, 224, 3), 100, np.uint8)\n"
        "options = LetteringOptions(rotation=(-20, 20), wave=(0, .1), paper=.5)\n"
        "print(sha256(b''.join(write(image, draw_lettering('cat', uniform(s, np.arange(UNIFORMS)), options))[0]"
        ".tobytes() for s in range(20))).hexdigest())"
    )
    image, options = (
        np.full((224, 224, 3), 100, np.uint8),
        LetteringOptions(rotation=(-20, 20), wave=(0, 0.1), paper=0.5),
    )
    own = sha256(b"".join(write(image, draw_lettering("cat", draws(s), options))[0].tobytes() for s in range(20)))
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == own.hexdigest()


def test_only_fonts_that_have_the_letters_are_drawn() -> None:
    options = LetteringOptions(fonts=("dejavu-sans", "dejavu-serif"))
    assert {draw_lettering("قطة", draws(seed), options).font for seed in range(20)} == {"dejavu-sans"}
    with pytest.raises(DataError, match="'猫': no chosen font can write it"):
        draw_lettering("猫", draws(0), options)
    with pytest.raises(DataError, match=f"needs {UNIFORMS} uniform numbers, got 3"):
        draw_lettering("cat", [0.1, 0.2, 0.3])


@given(st.lists(st.text("abcdef", min_size=1, max_size=9), min_size=1, max_size=6))
def test_two_lines_lose_nothing(words: list[str]) -> None:
    lines = in_two_lines(" ".join(words)).split("\n")
    assert " ".join(lines) == " ".join(words)
    assert len(lines) == min(len(words), 2)
    longest = min((max(len(" ".join(words[:at])), len(" ".join(words[at:]))) for at in range(1, len(words))), default=0)
    assert len(words) == 1 or max(map(len, lines)) == longest


def test_case_and_lines_are_options() -> None:
    shout = LetteringOptions(case="upper", two_lines=True)
    lettering = draw_lettering("hot  dog", draws(1), shout)
    assert lettering.text == "HOT\nDOG"
    assert write(picture(0), lettering)[1].text == "HOT DOG"
    assert draw_lettering("Hot dog!", draws(1)).text == "Hot dog!"


def test_records_are_read_again() -> None:
    for seed in range(30):
        lettering = draw_lettering("hot dog", draws(seed), replace(WILD, case="title"))
        again = Lettering.from_json(json.loads(json.dumps(lettering.to_json())))
        assert again == lettering
        assert np.array_equal(write(picture(1), again)[0], write(picture(1), lettering)[0])
    with pytest.raises(DataError, match="lettering: cannot be read"):
        Lettering.from_json({"text": "cat", "size": 3})


def test_hand_written_looks() -> None:
    options = hand_written(FONTS, paper=1.0)
    lettering = draw_lettering("cat", draws(3), options)
    assert lettering.paper is not None
    assert lettering.stroke == 0
    assert lettering.rotation != 0
    out, span = write(np.zeros((224, 224, 3), np.uint8), lettering)
    assert (out == lettering.paper).all(axis=-1).sum() > 0.3 * span.area()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": (0.3, 0.1)}, "height: 0.3 to 0.1 is no range"),
        ({"height": (0.0, 0.1)}, "height"),
        ({"x": (0, 2)}, "x: 0 to 2"),
        ({"fonts": ()}, "fonts: name one or more"),
        ({"colours": ((0, 0, 0),)}, "colours: two or more"),
        ({"paper": 1.5}, "paper: 1.5 is a share"),
        ({"case": "shout"}, "case: 'shout' is none of"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LetteringOptions(**options)  # type: ignore[arg-type]


def test_what_is_no_picture_or_no_lettering() -> None:
    for broken in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((9, 9, 4), np.uint8)):
        with pytest.raises(DataError, match=r"must be uint8 \[H, W, 3\]"):
            write(broken, Lettering("cat"))  # type: ignore[arg-type]
    for wrong in (
        {"text": " "},
        {"text": "cat", "height": 0.0},
        {"text": "cat", "x": 1.2},
        {"text": "cat", "stroke": 1},
    ):
        with pytest.raises(DataError, match="lettering"):
            Lettering(**wrong)  # type: ignore[arg-type]
