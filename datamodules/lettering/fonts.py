"""Open fonts by name: those of matplotlib are always there, the others come with the extra ``text``.

Every font is open (the OFL, Apache, or Bitstream Vera licence) and comes in a package of its own; none is copied here.
``arimo`` has the widths of Arial, which the parrot-caption paper writes with and which may not be shipped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from PIL import ImageFont, features

from datamodules.errors import DataError

Look = Literal["sans", "serif", "mono", "hand"]

DEFAULT = "dejavu-sans"
EXTRA = 'pip install "bias-train[text]"'


@dataclass(frozen=True)
class Font:
    """Where a font is found.

    Attributes:
        package: importable name of the package that carries it.
        file: its path in the package.
        look: ``sans``, ``serif``, ``mono`` or ``hand`` (as if written by hand).
    """

    package: str
    file: str
    look: Look


_DEJAVU = "mpl-data/fonts/ttf/DejaVu"

FONTS = {
    "dejavu-sans": Font("matplotlib", f"{_DEJAVU}Sans.ttf", "sans"),
    "dejavu-sans-bold": Font("matplotlib", f"{_DEJAVU}Sans-Bold.ttf", "sans"),
    "dejavu-serif": Font("matplotlib", f"{_DEJAVU}Serif.ttf", "serif"),
    "dejavu-serif-bold": Font("matplotlib", f"{_DEJAVU}Serif-Bold.ttf", "serif"),
    "dejavu-mono": Font("matplotlib", f"{_DEJAVU}SansMono.ttf", "mono"),
    "arimo": Font("fontpkg_arimo", "files/Arimo[wght].ttf", "sans"),
    "roboto-slab": Font("fontpkg_roboto_slab", "files/RobotoSlab[wght].ttf", "serif"),
    "caveat": Font("fontpkg_caveat", "files/Caveat[wght].ttf", "hand"),
    "kalam": Font("fontpkg_kalam", "files/Kalam-Regular.ttf", "hand"),
    "permanent-marker": Font("fontpkg_permanent_marker", "files/PermanentMarker-Regular.ttf", "hand"),
    "shadows-into-light": Font("fontpkg_shadows_into_light", "files/ShadowsIntoLight.ttf", "hand"),
    "noto-sans-arabic": Font("fontpkg_noto_sans_arabic", "files/NotoSansArabic[wdth,wght].ttf", "sans"),
    "noto-sans-devanagari": Font("fontpkg_noto_sans_devanagari", "files/NotoSansDevanagari[wdth,wght].ttf", "sans"),
    "noto-sans-thai": Font("fontpkg_noto_sans_thai", "files/NotoSansThai[wdth,wght].ttf", "sans"),
    "noto-sans-cjk": Font("noto_cjk_sans_jp_regular", "NotoSansCJKjp-Regular.otf", "sans"),
}

# Scripts that are drawn letter beside letter, from left to right; every other one is shaped, or drawn wrongly.
_PLAIN = frozenset(["Latn", "Grek", "Cyrl", "Armn", "Geor", "Hani", "Hira", "Kana", "Hang", "Bopo", "Zyyy"])
# Of the scripts that are shaped, those for which reordering alone does, without tables of the font.
_NO_TABLES = frozenset(["Hebr", "Zinh"])
# Scripts whose writing leaves no spaces between words.
_UNSPACED = frozenset(["Hani", "Hira", "Kana", "Bopo", "Thai", "Laoo", "Khmr", "Mymr"])


def font_names(look: Look | None = None) -> tuple[str, ...]:
    """Names of the fonts that are installed.

    Args:
        look: only those of this look.

    Example:
        >>> "dejavu-sans" in font_names("sans"), "dejavu-sans" in font_names("hand")
        (True, False)
    """
    return tuple(name for name, font in FONTS.items() if look in (None, font.look) and _file(font) is not None)


@cache
def _file(font: Font) -> Path | None:
    try:
        spec = find_spec(font.package)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / font.file
    return path if path.is_file() else None


@cache
def font_path(name: str) -> str:
    """The file of a font.

    Args:
        name: one of ``FONTS``, or the path of a .ttf or .otf file of one's own.

    Raises:
        DataError: if there is no such font, or its package is not installed.

    Example:
        >>> font_path("dejavu-sans").endswith("DejaVuSans.ttf")
        True
    """
    if name in FONTS:
        path = _file(FONTS[name])
        if path is None:
            raise DataError(f"font {name}: its package {FONTS[name].package} is not installed; {EXTRA}")
        return str(path)
    if name.lower().endswith((".ttf", ".otf", ".ttc")):
        own = Path(name).expanduser()
        if not own.is_file():
            raise DataError(f"font {name}: there is no such file")
        try:
            ImageFont.truetype(str(own), 12)
        except OSError as error:
            raise DataError(f"font {name}: cannot be read as a font ({error})") from error
        return str(own)
    raise DataError(f"font {name!r}: is none of {', '.join(FONTS)}, nor a .ttf or .otf file")


def composed(text: str) -> str:
    """The text with letters and their accents as one character where there is one (Unicode's NFC)."""
    return unicodedata.normalize("NFC", text)


@lru_cache(maxsize=8192)
def scripts_of(text: str) -> frozenset[str]:
    """Codes of the scripts of a text, by ISO 15924; ``Zyyy`` is what they share, ``Zinh`` are combining marks.

    Example:
        >>> sorted(scripts_of("stop 停"))
        ['Hani', 'Latn', 'Zyyy']
    """
    from fontTools.unicodedata import script

    return frozenset(script(letter) for letter in composed(text))


def is_unspaced(text: str) -> bool:
    """Whether words of this script stand without spaces between them, so that captions cannot be split at them."""
    return not scripts_of(text).isdisjoint(_UNSPACED)


def is_shaped(text: str) -> bool:
    """Whether the script has to be shaped: joined, reordered, or written from right to left."""
    return not scripts_of(text) <= _PLAIN


@cache
def can_shape() -> bool:
    """Whether Pillow has what shapes writing here: Raqm, with FriBiDi and HarfBuzz."""
    return all(features.check(name) for name in ("raqm", "fribidi", "harfbuzz"))


@cache
def _letters(path: str) -> frozenset[int]:
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True, fontNumber=0) as font:
        return frozenset(font.getBestCmap() or ())


@cache
def _shaped_scripts(path: str) -> frozenset[str]:
    """Tags of the scripts that the font has tables for."""
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True, fontNumber=0) as font:
        return frozenset(
            record.ScriptTag.strip()
            for table in ("GSUB", "GPOS")
            if table in font and font[table].table.ScriptList is not None
            for record in font[table].table.ScriptList.ScriptRecord
        )


@lru_cache(maxsize=65536)
def covers(name: str, text: str) -> bool:
    """Whether a font can write a text, and write it right.

    It must have a glyph for every letter; for a script that is shaped (Arabic, Devanagari, Thai ...) it must have
    tables for it as well, and Pillow the libraries that apply them.

    Args:
        name: of the font.
        text: any text; white space needs no glyph.

    Raises:
        DataError: as :func:`font_path`.

    Example:
        >>> covers("dejavu-sans", "кот"), covers("dejavu-sans", "猫")
        (True, False)
    """
    path = font_path(name)
    letters = [letter for letter in composed(text) if not letter.isspace() and unicodedata.category(letter) != "Cf"]
    if not letters or not all(ord(letter) in _letters(path) for letter in letters):
        return False
    shaped = scripts_of(text) - _PLAIN
    if not shaped:
        return True
    from fontTools.unicodedata import ot_tags_from_script

    return can_shape() and all(
        any(tag in _shaped_scripts(path) for tag in ot_tags_from_script(script)) for script in shaped - _NO_TABLES
    )


def covering(names: Iterable[str], text: str) -> tuple[str, ...]:
    """Those of some fonts that can write a text.

    Raises:
        DataError: naming the text, if none can.

    Example:
        >>> covering(["dejavu-sans", "dejavu-mono"], "cat")
        ('dejavu-sans', 'dejavu-mono')
    """
    names = tuple(names)
    found = tuple(name for name in names if covers(name, text))
    if found:
        return found
    if not text.strip():
        raise DataError(f"{text!r}: there is nothing to write")
    if is_shaped(text) and not can_shape():
        raise DataError(
            f"{text!r}: its script must be shaped, and Pillow lacks Raqm, FriBiDi or HarfBuzz here; install the "
            "system's libfribidi, or leave the word out"
        )
    others = [name for name in font_names() if name not in names and covers(name, text)]
    hint = f"add {others[0]}" if others else f"add a font that has its letters ({EXTRA}, or a file of your own)"
    raise DataError(f"{text!r}: no chosen font can write it ({', '.join(names)}); {hint}, or leave the word out")


@lru_cache(maxsize=512)
def load_font(name: str, pixels: int, shaped: bool = False) -> ImageFont.FreeTypeFont:
    """Load a font.

    Args:
        name: of it.
        pixels: of its em.
        shaped: by Raqm. Without, letters stand beside each other by Pillow's own layout, which is the same everywhere.

    Raises:
        DataError: as :func:`font_path`.
    """
    engine = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
    return ImageFont.truetype(font_path(name), pixels, layout_engine=engine)
