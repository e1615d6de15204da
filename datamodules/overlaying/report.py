"""Says what was written on a set's pictures: ``overlay.json`` and a sheet to look at, beside the shards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.index import ShardIndex
from datamodules.lettering.words import digest_of
from datamodules.overlaying.settings import KINDS, OverlaySettings
from datamodules.overlaying.sheet import overlay_sheet
from datamodules.synthesis.work import Counts, write_whole
from datamodules.text_spans import META, PictureText

REPORT, SHEET = "overlay.json", "contact_sheet.jpg"
_FREQUENT = 20


def write_report(
    folder: Path, index: ShardIndex, counts: Counts, settings: OverlaySettings, words: tuple[str, ...]
) -> dict[str, Any]:
    """Write the report of a whole set.

    Args:
        folder: of the set.
        index: of the set.
        counts: of all its shards.
        settings: what decided the data.
        words: list of words.

    Returns:
        What ``overlay.json`` holds. Heights are those of the lines of letters in pixels, of all that was written.
    """
    kinds, views, fonts = Counter[str](), Counter[str](), Counter[str]()
    said: dict[str, Counter[str]] = {"anchors": Counter(), "views": Counter()}
    heights: list[float] = []
    for row in range(len(index)):
        sample = index.sample(row)
        if "written" in sample.meta and "lettering" in sample.meta:
            kinds[sample.meta["written"]["kind"]] += 1
            said["anchors"][sample.meta["written"]["word"]] += 1
            _look_at(sample.meta, sample.key, fonts, heights)
        for name, view in sample.views.items():
            if view.meta.get("edit") in ("overlay", "clean"):
                views[name] += 1
            if view.meta.get("edit") == "overlay":
                said["views"][view.meta["word"]] += 1
                _look_at(view.meta, sample.key, fonts, heights)
    report = {
        "settings": settings.to_json(),
        "words": {"number": len(words), "sha256": digest_of(words)},
        "samples": len(index),
        "anchors": {kind: {"number": kinds[kind], "share": kinds[kind] / len(index)} for kind in KINDS},
        "views": dict(sorted(views.items())),
        "fonts": dict(fonts.most_common()),
        "line_height": {
            name: round(float(np.quantile(heights, q)), 1)
            for name, q in (("least", 0.0), ("tenth", 0.1), ("median", 0.5), ("most", 1.0))
        }
        if heights
        else {},
        "frequent": {where: dict(counter.most_common(_FREQUENT)) for where, counter in said.items()},
        "different_words": {where: len(counter) for where, counter in said.items()},
        "not_made": dict(sorted(counts.skipped.items())),
    }
    write_whole(folder / REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    if heights:
        overlay_sheet(index, folder / SHEET)
    return report


def _look_at(meta: dict[str, Any], key: str, fonts: Counter[str], heights: list[float]) -> None:
    fonts[meta["lettering"]["font"]] += 1
    text = PictureText.from_meta(meta, f"sample {key!r}")
    assert text is not None
    a, _, _, d = text.spans[-1].quad
    lines = meta["lettering"]["text"].count("\n") + 1
    heights.append(float(np.hypot(d[0] - a[0], d[1] - a[1])) / lines)
    assert META in meta
