"""A set of rendered-word probes: every word alone on a blank canvas, in every style (arXiv 2312.14232, section 5.1)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.lettering.canvas import POINTS, SIDE, STYLES, render_word
from datamodules.lettering.fonts import DEFAULT, covering, covers
from datamodules.lettering.words import digest_of
from datamodules.reencode import Encoded
from datamodules.sample import GENERATED, Sample
from datamodules.synthesis.work import write_whole
from datamodules.text_spans import META, PictureText, Span
from datamodules.writer import ShardWriter

REPORT = "words.json"
_NAMED = 20  # words that the report names, at most


def write_probes(
    folder: str | Path,
    words: Sequence[str],
    *,
    styles: Sequence[str] = tuple(STYLES),
    font: str = DEFAULT,
    size: int = SIDE,
    points: float | None = None,
    fit: bool = False,
    leave_out: bool = False,
    overwrite: bool = False,
    samples_per_shard: int = 1000,
    on_sample: Callable[[int], None] | None = None,
) -> tuple[ShardIndex, dict[str, Any]]:
    """Write probes as shards: a sample for each word and style, whose caption and label are the word.

    Pictures are PNG, so that they are those of `render_word` to the pixel. All styles of a word are of one group.
    Beside the shards stands ``words.json``: list and digest, font, size, and the share of words that overflow.

    Args:
        folder: of the new set.
        words: as they are written.
        styles: of ``STYLES``.
        font: name of a font or path of its file.
        size: side of the canvas in pixels.
        points: em of the letters in pixels; None for 32 of 224.
        fit: shrink long words instead of clipping them.
        leave_out: words that the font cannot write, instead of refusing them; they are counted and named.
        overwrite: replace the shard set that the folder holds.
        samples_per_shard: samples in each shard but the last.
        on_sample: called with the number of samples written so far.

    Returns:
        The index, and what ``words.json`` holds.

    Raises:
        DataError: naming a word that the font cannot write, or a style that there is not; if nothing is left to write.
    """
    for style in styles:
        if style not in STYLES:
            raise DataError(f"style {style!r}: is none of {', '.join(STYLES)}")
    if not styles or len(set(styles)) < len(styles):
        raise DataError(f"styles {list(styles)}: name each once, and one or more")
    unwritable = [word for word in words if not covers(font, word)]
    if unwritable and not leave_out:
        covering((font,), unwritable[0])  # says why
    # A set without a sample would be measured as if nothing could be read: the paper's own script on a newer Pillow.
    written = [word for word in words if covers(font, word)]
    if not written:
        raise DataError(f"list of {len(words):,} words: the font {font} can write none of them; name another font")
    overflowing: dict[str, int] = dict.fromkeys(styles, 0)
    named: dict[str, None] = {}
    with ShardWriter(folder, samples_per_shard=samples_per_shard, overwrite=overwrite) as writer:
        for number, word in enumerate(written):
            for style in styles:
                probe = render_word(word, size=size, style=style, font=font, points=points, fit=fit)
                overflowing[style] += probe.overflow
                if probe.overflow:
                    named[word] = None
                left, top, right, bottom = probe.box
                quad = ((left, top), (right, top), (right, bottom), (left, bottom))
                meta = {
                    "rendered": {
                        "word": word, "style": style, "font": font, "points": probe.points, "fit": fit,
                        "overflow": probe.overflow,
                    },
                    META: PictureText((size, size), (Span(probe.word, quad),), "written").to_json(),
                }  # fmt: skip
                sample = Sample(
                    f"word-{number:06d}-{style.replace('/', '-')}", (word,), GENERATED, word, f"word-{number:06d}",
                    meta=meta,
                )  # fmt: skip
                writer.write(sample, Encoded(_png(probe.image), "png"))
                if on_sample is not None:
                    on_sample(len(writer))
    assert writer.index is not None
    report = {
        "words": {"number": len(written), "sha256": digest_of(written)},
        "left_out": {"number": len(unwritable), "words": unwritable[:_NAMED]},
        "styles": list(styles),
        "font": font,
        "size": size,
        "points": POINTS * size / SIDE if points is None else points,
        "fit": fit,
        "overflow": {
            "share": sum(overflowing.values()) / (len(written) * len(styles)),
            "by_style": {style: number / len(written) for style, number in overflowing.items()},
            "words": list(named)[:_NAMED],
        },
    }
    write_whole(Path(folder).expanduser() / REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    return writer.index, report


def _png(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
