"""Shards whose samples say what is written in their pictures, a reader and a scorer that count what they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.reencode import ImageFormat
from datamodules.sample import Sample, View
from datamodules.text_spans import META, PictureText, Span
from datamodules.writer import ShardWriter

SIDE = 48


def box(left: float, top: float, right: float, bottom: float) -> tuple[tuple[float, float], ...]:
    return (left, top), (right, top), (right, bottom), (left, bottom)


def text_of(words: Sequence[str], size: tuple[int, int] = (SIDE, SIDE)) -> PictureText:
    """Words one under the other, each 24 x 8 pixels."""
    spans = tuple(Span(word, box(4, 4 + 10 * row, 28, 12 + 10 * row)) for row, word in enumerate(words))
    return PictureText(size, spans, "written")


def picture(words: Sequence[str], seed: int) -> np.ndarray:
    """A grey square of its own shade with a bright field for each word, whose shade is the word's."""
    pixels = np.full((SIDE, SIDE, 3), 60 + seed % 60, dtype=np.uint8)
    for row, word in enumerate(words):
        shade = 150 + blake2b(word.encode()).digest()[0] % 100
        pixels[4 + 10 * row : 12 + 10 * row, 4:28] = shade
    return pixels


@dataclass(frozen=True)
class Noted:
    """One sample: its captions, and what is written in its picture; None where nobody says."""

    key: str
    captions: tuple[str, ...]
    words: tuple[str, ...] | None
    views: tuple[str, ...] = ()


NOTED = (
    Noted("a-0", ("a stop sign", "a red sign on a pole"), ("STOP",)),
    Noted("a-1", ("a dog in the sun",), ()),
    Noted("a-2", ("open all night",), ("OPEN", "all nite")),
    Noted("b-0", ("?!",), ("stop",)),
    Noted("b-1", (), ("left",)),
    Noted("b-2", ("a cat on a mat",), None),
    Noted("c-0", ("sale! sale! sale!",), ("Sale",)),
    Noted("c-1", ("停车场",), ("停车场",)),
    Noted("c-2", ("a boat at sea", "a sail"), ("exit", "this way", "mind the gap")),
)


def write_noted(folder: Path, noted: Sequence[Noted] = NOTED, samples_per_shard: int = 3) -> Path:
    with ShardWriter(folder, samples_per_shard=samples_per_shard, image_format=ImageFormat(quality=100)) as writer:
        for seed, one in enumerate(noted):
            meta: dict[str, Any] = {} if one.words is None else {META: text_of(one.words).to_json()}
            made = {name: np.full((SIDE, SIDE, 3), 200 + place, dtype=np.uint8) for place, name in enumerate(one.views)}
            views = {name: View("real", None, {"edit": name}) for name in one.views}
            writer.write(Sample(one.key, one.captions, views=views, meta=meta), picture(one.words or (), seed), made)
    return folder


@dataclass
class CountingReader:
    """Reads a picture by its shade: what is written in the sample of that number."""

    version: str = "1"
    calls: int = 0
    stop_after: int | None = None
    noted: Sequence[Noted] = NOTED

    @property
    def name(self) -> str:
        return f"counting {self.version}"

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def read(self, image: np.ndarray) -> tuple[Span, ...]:
        if self.stop_after is not None and self.calls >= self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        seed = round(float(np.median(image[-3:, -3:]))) - 60
        return text_of(self.noted[seed].words or ()).spans


@dataclass
class CountingScorer:
    """Pictures as their mean colour in each quarter, captions as a hash; counts what it embeds."""

    key: str = "counting"
    image_size: tuple[int, int] = (16, 16)
    pictures: int = 0
    captions: int = 0
    seen: list[np.ndarray] = field(default_factory=list)

    def images(self, pictures: np.ndarray) -> np.ndarray:
        self.pictures += len(pictures)
        self.seen += list(pictures)
        parts = pictures.reshape(len(pictures), 2, 8, 2, 8, 3).mean(axis=(2, 4, 5)).reshape(len(pictures), 4)
        return unit(parts)

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        self.captions += len(captions)
        return unit(np.array([caption_vector(text) for text in captions]))


def caption_vector(text: str) -> np.ndarray:
    return np.frombuffer(blake2b(text.encode(), digest_size=4).digest(), dtype=np.uint8).astype(np.float64) + 1


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
