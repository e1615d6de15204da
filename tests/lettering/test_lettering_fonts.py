"""Which fonts can write which words: against the glyphs that Pillow draws, and with what shapes scripts taken away."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import ImageFont

from datamodules import DataError
from datamodules.lettering import fonts
from datamodules.lettering.fonts import FONTS, covering, covers, font_names, font_path

WORDS = {
    "Latn": "kitchen", "Latn-accents": "Kühlschränke", "Grek": "γάτα", "Cyrl": "кошка", "Arab": "قطة", "Hebr": "חתול",
    "Deva": "बिल्ली", "Thai": "ขนมปัง", "Hani": "猫", "Kana": "ネコ", "Hang": "고양이",
}  # fmt: skip
ALWAYS = {"dejavu-sans", "dejavu-sans-bold", "dejavu-serif", "dejavu-serif-bold", "dejavu-mono"}


@pytest.fixture
def all_fonts() -> tuple[str, ...]:
    if missing := FONTS.keys() - set(font_names()):
        pytest.skip(f"fonts of the extra `text` are not installed: {sorted(missing)}")
    return font_names()


def test_matplotlibs_fonts_are_always_there() -> None:
    assert set(font_names()) >= ALWAYS
    assert all(Path(font_path(name)).is_file() for name in font_names())


def test_every_look_and_script_has_a_font(all_fonts: tuple[str, ...]) -> None:
    assert len(font_names("hand")) >= 3
    for word in WORDS.values():
        assert covering(all_fonts, word)


@pytest.mark.parametrize("name", sorted(FONTS))
def test_covers_agrees_with_what_is_drawn(name: str) -> None:
    """A letter without a glyph is drawn as the glyph of a code point that no font has."""
    if name not in font_names():
        with pytest.raises(DataError, match=r"bias-train\[text\]"):
            font_path(name)
        pytest.skip(f"the font {name} is not installed")
    font = ImageFont.truetype(font_path(name), 40, layout_engine=ImageFont.Layout.BASIC)
    missing = bytes(font.getmask("\U0010fffe"))
    for script in ("Latn", "Grek", "Cyrl", "Hani", "Kana", "Hang"):  # no letter of these needs a neighbour
        word = WORDS[script]
        drawn = all(bytes(font.getmask(letter)) != missing for letter in word)
        assert covers(name, word) == drawn, (name, script)


def test_a_word_that_no_font_has_is_named() -> None:
    with pytest.raises(DataError, match=r"'猫': no chosen font can write it \(dejavu-sans, dejavu-mono\)"):
        covering(("dejavu-sans", "dejavu-mono"), "猫")
    with pytest.raises(DataError, match="nothing to write"):
        covering(("dejavu-sans",), "  ")


def test_shaped_scripts_need_what_shapes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Raqm and FriBiDi, Arabic would be drawn in single letters from left to right."""
    for cached in (fonts.covers, fonts.can_shape):
        cached.cache_clear()
    monkeypatch.setattr("datamodules.lettering.fonts.features.check", lambda name: False)
    try:
        assert not covers("dejavu-sans", WORDS["Arab"])
        assert not covers("dejavu-sans", WORDS["Hebr"])
        assert covers("dejavu-sans", WORDS["Cyrl"])
        with pytest.raises(DataError, match="libfribidi"):
            covering(("dejavu-sans",), WORDS["Arab"])
    finally:
        for cached in (fonts.covers, fonts.can_shape):
            cached.cache_clear()


def test_shaped_scripts_need_tables_of_the_font(monkeypatch: pytest.MonkeyPatch) -> None:
    if not fonts.can_shape():
        pytest.skip("Pillow lacks Raqm, FriBiDi or HarfBuzz here")
    assert covers("dejavu-sans", WORDS["Arab"])
    fonts.covers.cache_clear()
    monkeypatch.setattr(fonts, "_shaped_scripts", lambda path: frozenset())
    try:
        assert not covers("dejavu-sans", WORDS["Arab"])  # it has the letters, but cannot join them
        assert covers("dejavu-sans", WORDS["Hebr"])  # whose letters stand alone
    finally:
        fonts.covers.cache_clear()


def test_arabic_is_joined_and_runs_from_right_to_left() -> None:
    """The last letter of the word, tall alef, stands at its left end; and joined letters are not the single ones."""
    if not fonts.can_shape():
        pytest.skip("Pillow lacks Raqm, FriBiDi or HarfBuzz here")
    shaped = fonts.load_font("dejavu-sans", 60, shaped=True)
    single = fonts.load_font("dejavu-sans", 60, shaped=False)
    word = "سا"  # seen, alef
    assert bytes(shaped.getmask(word)) != bytes(single.getmask(word))
    mask = shaped.getmask(word)
    width, height = mask.size
    tops = [min((y for y in range(height) if mask.getpixel((x, y)) > 128), default=height) for x in range(width)]
    assert tops.index(min(tops)) < width / 2


def test_a_font_file_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.ttf"
    own.write_bytes(Path(font_path("dejavu-mono")).read_bytes())
    assert covers(str(own), "cat")
    with pytest.raises(DataError, match="no such file"):
        font_path(str(tmp_path / "none.ttf"))
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    with pytest.raises(DataError, match="cannot be read as a font"):
        font_path(str(tmp_path / "broken.ttf"))
    with pytest.raises(DataError, match="font 'comic-sans': is none of dejavu-sans"):
        font_path("comic-sans")
