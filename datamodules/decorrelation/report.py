"""Says what was mined and made: ``decorrelated.json``, ``pairs.csv`` and a sheet to look at, beside the shards."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from datamodules.decorrelation.planning import Planner
from datamodules.decorrelation.settings import DecorrelationSettings
from datamodules.decorrelation.sheet import edit_sheet
from datamodules.index import ShardIndex
from datamodules.objects.pairs import Pair
from datamodules.synthesis.work import Counts, write_whole

REPORT, PAIRS, SHEET = "decorrelated.json", "pairs.csv", "contact_sheet.jpg"


def write_report(
    folder: Path, index: ShardIndex, counts: Counts, settings: DecorrelationSettings, planner: Planner
) -> dict[str, Any]:
    """Write the report of a whole set.

    Args:
        folder: of the set.
        index: of the set.
        counts: of all its shards.
        settings: what decided the data.
        planner: what was mined.

    Returns:
        What ``decorrelated.json`` holds.
    """
    views, captions, objects = Counter[str](), Counter[str](), Counter[str]()
    for row in range(len(index)):
        for view in index.sample(row).views.values():
            if "edit" in view.meta:
                views[view.meta["edit"]] += 1
                captions.update(view.meta.get("how", ()))
            if view.meta.get("edit") == "removed":
                objects[view.meta["object"]] += 1
    report = {
        "settings": settings.to_json(),
        "vocabulary": {
            "version": planner.mentions.vocabulary.version,
            "sha256": planner.mentions.vocabulary.digest,
            "unknown_categories": sorted(planner.unknown),
        },
        "samples": len(index),
        "views": dict(sorted(views.items())),
        "captions_of_removed": dict(sorted(captions.items())),
        "removed": dict(objects.most_common()),
        "not_made": dict(sorted(counts.skipped.items())),
        "pairs_mined": [asdict(pair) for pair in planner.mined],
    }
    write_whole(folder / REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    write_whole(folder / PAIRS, pairs_csv(planner.pairs).encode())
    if views["removed"]:
        edit_sheet(index, folder / SHEET)
    return report


def pairs_csv(pairs: list[Pair]) -> str:
    """Write pairs as a table, a line each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(Pair)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(pair) for pair in pairs)
    return text.getvalue()
