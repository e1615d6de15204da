"""A sheet of pictures that were written on: before, the anchor, the view with a misleading word, and a caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.contact_sheet import paste_picture, wrapped
from datamodules.errors import DataError
from datamodules.hashing import mix
from datamodules.index import ShardIndex

_GAP, _LINE, _TEXT_LINES = 8, 16, 3
_TITLES = {"clean": "before", "": "anchor", "overlay": "misleading word"}


def overlay_sheet(
    index: ShardIndex, path: str | Path, *, rows: int = 6, side_by_side: int = 3, tile: int = 200
) -> Path:
    """Draw samples that were written on, chosen by the hash of their number: the same set gives the same sheet.

    Args:
        index: a set with words on its pictures.
        path: a .png or .jpg to write.
        rows: samples below each other.
        side_by_side: samples in a row.
        tile: side of a picture in pixels.

    Raises:
        DataError: if the file cannot be written.
    """
    path = Path(path).expanduser()
    shown = [name for name in _TITLES if name in index.view_names]
    order = np.argsort(mix(1, np.arange(len(index))), kind="stable").tolist()
    samples = []
    for row in order:
        about = index.sample(row)
        if "written" in about.meta or "overlay" in about.views:
            samples.append((row, about))
        if len(samples) == rows * side_by_side:
            break
    # The default font of Pillow has Latin letters only; captions may have others.
    from datamodules.lettering.fonts import DEFAULT, font_path

    font = ImageFont.truetype(font_path(DEFAULT), 12)
    width = len(shown) * (tile + _GAP) + 2 * _GAP
    height = tile + (_TEXT_LINES + 1) * _LINE + 2 * _GAP
    count = -(-len(samples) // side_by_side)
    sheet = Image.new("RGB", (side_by_side * width, _LINE + 2 * _GAP + count * height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (row, about) in enumerate(samples):
        left, top = number % side_by_side * width + _GAP, _LINE + 2 * _GAP + number // side_by_side * height
        first = int(index.view_start[row])
        codes = index.view_name[first : int(index.view_start[row + 1])].tolist()
        at = {index.view_names[code]: first + place for place, code in enumerate(codes)}
        for column, name in enumerate(shown):
            x = left + column * (tile + _GAP)
            if number < side_by_side:
                draw.text((x, _GAP), _TITLES[name], "black", font)
            paste_picture(sheet, index, row, at.get(name), (x, top), tile, font)
            written = about.meta.get("written") if name == "" else None
            note = f"{written['kind']}: {written['word']}" if written else ""
            if name == "overlay" and name in about.views:
                note = str(about.views[name].meta["word"])
            draw.text((x, top + tile + 2), note, (160, 30, 30), font)
        caption = (about.captions or (about.label or "",))[0]
        for line, text in enumerate(wrapped(draw, font, caption, len(shown) * (tile + _GAP) - _GAP, _TEXT_LINES)):
            draw.text((left, top + tile + 2 + (line + 1) * _LINE), text, "black", font)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, quality=90)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
    return path
