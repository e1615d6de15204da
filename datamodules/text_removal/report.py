"""Says what was found and taken out: ``erased.json`` and a sheet to look at, beside the shards."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from datamodules.index import ShardIndex
from datamodules.lettering.words import normalised
from datamodules.synthesis.work import Counts, write_whole
from datamodules.text_removal.settings import VIEWS, EraseSettings
from datamodules.text_removal.sheet import erase_sheet
from datamodules.text_spans import PictureText

REPORT, SHEET = "erased.json", "contact_sheet.jpg"
_MOST_WORDS = 50


def write_report(folder: Path, index: ShardIndex, counts: Counts, settings: EraseSettings) -> dict[str, Any]:
    """Write the report of a whole set.

    Args:
        folder: of the set.
        index: of the set.
        counts: of all its shards.
        settings: what decided the data.

    Returns:
        What ``erased.json`` holds: of each view, how many there are, in how many something was found, how many pieces,
        and the mean share of the picture that was filled where something was.
    """
    made, edited, found = Counter[str](), Counter[str](), Counter[str]()
    areas = defaultdict[str, list[float]](list)
    words = Counter[str]()
    with_text = 0
    engines = set[str]()
    for row in range(len(index)):
        sample = index.sample(row)
        text = PictureText.from_meta(sample.meta, f"sample {sample.key!r}")
        if text is not None:
            engines.add(text.engine)
            with_text += bool(text.spans)
            words.update(word for word in map(normalised, text.words()) if word)
        for name in VIEWS:
            if name not in sample.views:
                continue
            meta = sample.views[name].meta
            made[name] += 1
            found[name] += int(meta["found"])
            if meta["edited"]:
                edited[name] += 1
                areas[name].append(float(meta["mask"]["area"]))
    report = {
        "settings": settings.to_json(),
        "engines": sorted(engines),
        "samples": len(index),
        "samples_with_text": with_text,
        "views": {
            name: {
                "made": made[name],
                "edited": edited[name],
                "pieces": found[name],
                "mean_area": sum(areas[name]) / len(areas[name]) if areas[name] else None,
            }
            for name in VIEWS
            if made[name]
        },
        "not_made": dict(sorted(counts.skipped.items())),
        "most_common_words": dict(words.most_common(_MOST_WORDS)),
    }
    write_whole(folder / REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    erase_sheet(index, folder / SHEET)
    return report
