"""Shards of edited pictures with a few planted objects, small enough to write in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.sample import Sample, View
from datamodules.writer import ShardWriter

NAMES = ("dog", "frisbee", "cat", "bed", "person", "umbrella")
SIDE = 32


def picture(things: set[str], paint: int = 0) -> np.ndarray:
    """A grey square with a coloured field for each object; ``paint`` marks an edit."""
    pixels = np.full((SIDE, SIDE, 3), 90 + paint, dtype=np.uint8)
    for place, name in enumerate(NAMES):
        if name in things:
            left, top = place % 3 * 10, place // 3 * 14
            pixels[top : top + 12, left : left + 9] = ((40 * place) % 256, 255 - 37 * place, (90 * place) % 256)
    return pixels


def caption(things: list[str]) -> str:
    return "a photo of " + " and ".join(f"a {name}" for name in things)


def edited_sample(number: int, things: list[str], *, control: bool = True) -> tuple[Sample, np.ndarray, dict[str, Any]]:
    """A picture of some objects, with a view for each that could be taken out."""
    captions = (caption(things), caption(things[:1]))
    views, pictures = {}, {}
    for name in things:
        rest = [other for other in things if other != name]
        mentioned = [name in text for text in captions]
        texts = (caption(rest), caption(things[:1]) if things[0] != name else "a photo of something")
        about = {"object": name, "edited": True, "inpainter": "opencv telea", "mask": {"dilation": 3, "area": 0.1}}
        views[f"no-{name}"] = View("real", texts, about | {"edit": "removed", "mentioned": mentioned})
        pictures[f"no-{name}"] = picture(set(rest), paint=1)
        if control:
            views[f"control-{name}"] = View("real", None, about | {"edit": "control"})
            pictures[f"control-{name}"] = picture(set(things), paint=2)
    listed = [{"category": name, "box": [0, 0, 9, 12], "crowd": False} for name in things]
    return Sample(f"scene-{number}", captions, views=views, meta={"objects": listed}), picture(set(things)), pictures


def write_edited(folder: Path, scenes: list[list[str]], *, control: bool = True) -> Path:
    with ShardWriter(folder) as writer:
        for number, things in enumerate(scenes):
            writer.write(*edited_sample(number, things, control=control))
    return folder


def scenes(count: int = 12, seed: int = 0) -> list[list[str]]:
    """Two or three objects in each."""
    rng = np.random.default_rng(seed)
    return [sorted(rng.choice(NAMES, size=int(rng.integers(2, 4)), replace=False).tolist()) for _ in range(count)]
