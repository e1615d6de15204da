"""A sheet of pictures with text taken out, beside their controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.contact_sheet import paste_picture, wrapped
from datamodules.errors import DataError
from datamodules.hashing import mix
from datamodules.index import ShardIndex
from datamodules.text_removal.settings import VIEWS
from datamodules.text_spans import REMOVED

_GAP, _LINE, _TEXT_LINES = 8, 16, 2
_TITLES = {
    "": "original",
    "erased": "all text out",
    "erased-caption": "words of captions out",
    "control-erased": "control: as much elsewhere",
    "control-erased-caption": "control of captions' words",
}


def erase_sheet(index: ShardIndex, path: str | Path, *, rows: int = 12, tile: int = 220) -> Path | None:
    """Draw samples in which text was found, one a row, drawn by the hash of their number.

    Args:
        index: a set with text taken out.
        path: a .png or .jpg to write.
        rows: samples to show.
        tile: side of a picture in pixels.

    Returns:
        The path; None where no sample of the set has text.

    Raises:
        DataError: if the file cannot be written.
    """
    path = Path(path).expanduser()
    made = [view for view in VIEWS if view in index.view_names]
    samples = np.argsort(mix(1, np.arange(len(index))), kind="stable").tolist()
    shown: list[int] = []
    for sample in samples:
        if any(view.meta.get("edited") for name, view in index.sample(sample).views.items() if name in made):
            shown.append(sample)
        if len(shown) == rows:
            break
    if not shown:
        return None
    columns = ["", *made]
    font = ImageFont.load_default(13)
    height = tile + _TEXT_LINES * _LINE + 2 * _GAP
    sheet = Image.new("RGB", (len(columns) * (tile + _GAP) + _GAP, _LINE + 2 * _GAP + len(shown) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, view in enumerate(columns):
        draw.text((_GAP + column * (tile + _GAP), _GAP), _TITLES[view], "black", font)
    for number, sample in enumerate(shown):
        top = _LINE + 2 * _GAP + number * height
        first, last = int(index.view_start[sample]), int(index.view_start[sample + 1])
        pictures = {index.view_names[int(index.view_name[at])]: at for at in range(first, last)}
        about = index.sample(sample)
        for column, view in enumerate(columns):
            place = (_GAP + column * (tile + _GAP), top)
            paste_picture(sheet, index, sample, pictures.get(view), place, tile, font)
            text = about.captions[0] if not view and about.captions else ""
            if view in about.views and REMOVED in about.views[view].meta:
                gone = [span["text"] for span in about.views[view].meta[REMOVED]["spans"]]
                text = f"out: {', '.join(gone)}" if gone else "nothing found"
            for at, line in enumerate(wrapped(draw, font, text, tile, _TEXT_LINES)):
                draw.text((place[0], top + tile + 2 + at * _LINE), line, "black", font)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, quality=90)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
    return path
