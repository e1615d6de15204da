"""A sheet of edited pictures: original, object out, control, decoy, and what became of the caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.contact_sheet import paste_picture, wrapped
from datamodules.errors import DataError
from datamodules.hashing import mix
from datamodules.index import ShardIndex

_GAP, _LINE, _TEXT_LINES = 8, 16, 3
_COLUMNS = ("original", "object out", "control: as much elsewhere", "decoy pasted in")


def edit_sheet(index: ShardIndex, path: str | Path, *, rows: int = 12, tile: int = 240) -> Path:
    """Draw edits, one a row, drawn by the hash of their number: the same set gives the same sheet.

    Args:
        index: a set with objects taken out.
        path: a .png or .jpg to write.
        rows: edits to show.
        tile: side of a picture in pixels.

    Raises:
        DataError: if the set has no such views, or the file cannot be written.
    """
    path = Path(path).expanduser()
    codes = np.array([name.startswith("no-") for name in index.view_names])
    edits = np.flatnonzero(codes[index.view_name])
    if not len(edits):
        raise DataError(f"{index.store.location}: has no views with an object taken out")
    edits = edits[np.argsort(mix(1, edits), kind="stable")][:rows]
    font = ImageFont.load_default(13)
    height = tile + _TEXT_LINES * _LINE + 2 * _GAP
    sheet = Image.new("RGB", (len(_COLUMNS) * (tile + _GAP) + _GAP, _LINE + 2 * _GAP + len(edits) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(_COLUMNS):
        draw.text((_GAP + column * (tile + _GAP), _GAP), title, "black", font)
    for number, picture in enumerate(edits.tolist()):
        top = _LINE + 2 * _GAP + number * height
        sample = int(np.searchsorted(index.view_start, picture, side="right")) - 1
        first, last = int(index.view_start[sample]), int(index.view_start[sample + 1])
        names = {index.view_names[int(index.view_name[at])]: at for at in range(first, last)}
        about = index.sample(sample)
        view = index.view_names[int(index.view_name[picture])]
        added = next((name for name in names if name.startswith("with-")), None)
        shown = ("", view, str(about.views[view].meta["control"]), added)
        mentioned = about.views[view].meta["mentioned"]
        which = mentioned.index(True) if True in mentioned else 0
        for column, name in enumerate(shown):
            place = (_GAP + column * (tile + _GAP), top)
            paste_picture(sheet, index, sample, None if name is None else names.get(name), place, tile, font)
            caption = "" if name is None else about.captions_of(name)[which]
            text = f"{name or about.key}: {caption}" if caption else ""
            for at, line in enumerate(wrapped(draw, font, text, tile, _TEXT_LINES)):
                draw.text((place[0], top + tile + 2 + at * _LINE), line, "black", font)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, quality=90)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
    return path
