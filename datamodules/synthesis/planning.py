"""Decides what is drawn for each sample: its prompts, or why there are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from datamodules.errors import DataError
from datamodules.reencode import image_size
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.prompts import PromptWriter, split_captions
from datamodules.synthesis.settings import TwinSettings
from datamodules.synthesis.work import Plan

AT_ONCE = 32
"""Samples that a writer of prompts is given at once."""

BROKEN = "broken picture"
_NOT_A_PHOTO, _NO_CAPTION, _ONE_CAPTION = "not a photo", "no caption", "no caption to hold out"
_HINTS = {
    _NO_CAPTION: "none of the samples has a caption to make a prompt of; import them with captions",
    _ONE_CAPTION: "no sample has such a caption besides another, so none can be held out; leave out --hold-out",
    _NOT_A_PHOTO: "none of the samples is a photo; twins are made of photos",
    BROKEN: "none of the pictures can be read",
}


def plan_samples(photos: Photos, rows: Sequence[int], settings: TwinSettings, writer: PromptWriter) -> Iterator[Plan]:
    """Plan samples, some at a time.

    Args:
        photos: the samples.
        rows: which of them.
        settings: say which captions may be used.
        writer: words the prompts.
    """
    for start in range(0, len(rows), AT_ONCE):
        plans = [_unworded(photos, row, settings) for row in rows[start : start + AT_ONCE]]
        asked = [plan.used for plan in plans if not plan.skip]
        worded = iter(writer(asked) if asked else [])
        for plan in plans:
            yield plan if plan.skip else replace(plan, prompts=next(worded))


def _unworded(photos: Photos, row: int, settings: TwinSettings) -> Plan:
    sample = photos.index.sample(row)
    if not sample.is_real:
        return Plan(sample.key, skip=_NOT_A_PHOTO)
    captions = split_captions(sample, settings.prompts, settings.seed)
    if captions is None:
        return Plan(sample.key, skip=_ONE_CAPTION if sample.captions else _NO_CAPTION)
    try:
        size = image_size(photos.picture(row), sample.key)
    except DataError:
        return Plan(sample.key, skip=BROKEN)
    return Plan(sample.key, (), "", size, captions.slot, captions.held_out, captions.used)


def check_captions(photos: Photos) -> None:
    """Refuse a set without captions.

    Raises:
        DataError: saying so.
    """
    if not photos.index.caption_count.any():
        raise DataError(f"{photos.location}: {_HINTS[_NO_CAPTION]}")


def check_plans(photos: Photos, plans: Iterable[Plan]) -> None:
    """Refuse a set for which nothing would be drawn, instead of copying it.

    Raises:
        DataError: with the most frequent reason.
    """
    reasons = [plan.skip for plan in plans]
    if reasons and "" not in reasons:
        raise DataError(f"{photos.location}: {_HINTS[max(sorted(set(reasons)), key=reasons.count)]}")
