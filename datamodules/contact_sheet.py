"""A sheet of pictures from a shard set, labelled by source: the look that no count replaces."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.errors import DataError
from datamodules.hashing import mix
from datamodules.index import ShardIndex
from datamodules.sample import ANCHOR

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_GAP, _TEXT_LINES, _FONT_SIZE, _MARGIN = 8, 2, 13, 110
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


def contact_sheet(index: ShardIndex, path: str | Path, *, columns: int = 10, rows: int = 2, tile: int = 128) -> Path:
    """Draw pictures of every source.

    A set with views shows one sample a column, its anchor above its views. A set without shows a band of pictures for
    each source. Pictures are drawn by the hash of their number, so the same set gives the same sheet.

    Args:
        index: the set, or several joined ones.
        path: a .png or .jpg to write.
        columns: pictures beside each other.
        rows: bands of samples, or rows for each source.
        tile: side of a picture in pixels; its aspect is kept.

    Raises:
        DataError: if the file cannot be written or is of another type.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise DataError(f"{path}: a contact sheet is a .png or a .jpg")
    if columns < 1 or rows < 1:
        raise DataError(f"contact sheet of {columns} x {rows} pictures: must be 1 or more each")
    bands = _samples_with_views(index, columns, rows) if len(index.view_names) > 1 else _sources(index, columns, rows)
    font = ImageFont.load_default(_FONT_SIZE)
    line = _FONT_SIZE + 3
    band_heights = [len(lines) * (tile + _GAP) + _TEXT_LINES * line + _GAP for lines in bands]
    sheet = Image.new("RGB", (_MARGIN + columns * (tile + _GAP) + _GAP, sum(band_heights) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for lines, height in zip(bands, band_heights, strict=True):
        for row, (name, pictures) in enumerate(lines):
            y = top + row * (tile + _GAP)
            for at, text in enumerate(wrapped(draw, font, name, _MARGIN - 2 * _GAP, 3)):
                draw.text((_GAP, y + at * line), text, _INK, font)
            for column, (sample, picture) in enumerate(pictures):
                paste_picture(sheet, index, sample, picture, (_MARGIN + column * (tile + _GAP), y), tile, font)
        for column, (sample, _) in enumerate(lines[0][1]):
            caption = _caption(index, sample)
            y = top + len(lines) * (tile + _GAP) - 4
            for at, text in enumerate(wrapped(draw, font, caption, tile, _TEXT_LINES)):
                draw.text((_MARGIN + column * (tile + _GAP), y + at * line), text, _FAINT, font)
        top += height
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, quality=90)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


_Line = tuple[str, list[tuple[int, int | None]]]
"""A row of the sheet: what stands before it, and its (sample, picture) pairs; None where a sample lacks the view."""


def _samples_with_views(index: ShardIndex, columns: int, rows: int) -> list[list[_Line]]:
    views = np.diff(index.view_start)
    # Samples with many views first: an anchor alone shows no comparison.
    order = np.lexsort((mix(1, np.arange(len(index))), -views))[: columns * rows]
    bands = []
    for start in range(0, len(order), columns):
        samples = [int(row) for row in order[start : start + columns]]
        lines = []
        for code, view in enumerate(index.view_names):
            pictures = [(sample, _picture(index, sample, code)) for sample in samples]
            if any(picture is not None for _, picture in pictures):
                lines.append((_line_name(index, view, [picture for _, picture in pictures]), pictures))
        bands.append(lines)
    return bands


def _line_name(index: ShardIndex, view: str, pictures: list[int | None]) -> str:
    sources = sorted({index.sources[int(index.view_source[p])] for p in pictures if p is not None})
    source = ", ".join(sources)
    return source if view in (ANCHOR, source) else f"{view} ({source})"


def _picture(index: ShardIndex, sample: int, code: int) -> int | None:
    begin, end = int(index.view_start[sample]), int(index.view_start[sample + 1])
    found = np.flatnonzero(index.view_name[begin:end] == code)
    return begin + int(found[0]) if len(found) else None


def _sources(index: ShardIndex, columns: int, rows: int) -> list[list[_Line]]:
    anchor = index.view_start[:-1]
    bands = []
    for code, source in enumerate(index.sources):
        samples = np.flatnonzero(index.view_source[anchor] == code)
        samples = samples[np.argsort(mix(1, samples), kind="stable")][: columns * rows]
        for start in range(0, len(samples), columns):
            part = [(int(row), int(anchor[row])) for row in samples[start : start + columns]]
            bands.append([(source, [*part])])
    return [[(name, list(pictures)) for name, pictures in band] for band in bands]


def paste_picture(
    sheet: Image.Image,
    index: ShardIndex,
    sample: int,
    picture: int | None,
    place: tuple[int, int],
    tile: int,
    font: Font,
) -> None:
    """Draw one picture of a set, or what is wrong with it, into a sheet.

    Args:
        sheet: is drawn on.
        index: the set.
        sample: number of the sample.
        picture: number of its picture, None where it lacks one.
        place: left and top of the tile.
        tile: side of the tile, in which the picture is centred.
        font: of what is written instead of a picture.
    """
    draw = ImageDraw.Draw(sheet)
    x, y = place
    if picture is None:
        draw.text((x + 6, y + tile // 2 - 8), "none", _FAINT, font)
        return
    try:
        data = index.read_bytes(int(index.shard[sample]), int(index.offset[picture]), int(index.size[picture]))
        with Image.open(io.BytesIO(data)) as image:
            rgb = image.convert("RGB")
    except Exception:  # the sheet is where one looks for broken pictures
        draw.rectangle((x, y, x + tile - 1, y + tile - 1), outline=(200, 0, 0))
        draw.text((x + 6, y + tile // 2 - 8), "broken", (200, 0, 0), font)
        return
    scale = tile / max(rgb.size)
    size = max(round(rgb.width * scale), 1), max(round(rgb.height * scale), 1)
    sheet.paste(rgb.resize(size, Image.Resampling.BICUBIC), (x + (tile - size[0]) // 2, y + (tile - size[1]) // 2))


def _caption(index: ShardIndex, sample: int) -> str:
    try:
        return (index.sample(sample).captions or (index.keys[sample],))[0]
    except DataError:
        return index.keys[sample]


def wrapped(draw: ImageDraw.ImageDraw, font: Font, text: str, width: int, lines: int) -> list[str]:
    """Break a text at spaces into at most so many lines of at most this width, the last one shortened if need be."""
    found: list[str] = []
    rest = text.split()
    while rest and len(found) < lines:
        line = rest.pop(0)
        while rest and draw.textlength(f"{line} {rest[0]}", font) <= width:
            line = f"{line} {rest.pop(0)}"
        cut = bool(rest) and len(found) == lines - 1
        while draw.textlength(line + "…" * cut, font) > width and len(line) > 1:
            line, cut = line[:-1], True
        found.append(line + "…" * cut)
    return found
