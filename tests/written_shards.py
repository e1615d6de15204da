"""Shards of pictures with words on them, in every form in which an audit of text spotting asks, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.lettering.overlay import Lettering, write
from datamodules.sample import Sample, View
from datamodules.text_spans import PictureText
from datamodules.writer import ShardWriter

SIDE = 48
THINGS = ("dog", "cat", "boat", "tree", "house", "car")
WORDS = ("pepper", "violin", "kettle", "ladder")
SIGNS = ("bank", "cafe", "exit")

Picture = np.ndarray


def picture(number: int) -> Picture:
    """A field of a colour that tells the thing, with a stripe that tells the picture."""
    colour = ((40 * number) % 256, (97 * number + 60) % 256, (200 - 31 * number) % 256)
    pixels = np.full((SIDE, SIDE, 3), colour, dtype=np.uint8)
    pixels[:, number % SIDE : number % SIDE + 3] = 255 - np.array(colour)
    return pixels


def lettered(pixels: Picture, word: str) -> tuple[Picture, dict[str, Any], Lettering]:
    lettering = Lettering(text=word, font="dejavu-sans", height=0.25, x=0.5, y=0.5, colour=(0, 0, 0))
    out, span = write(pixels, lettering)
    return out, PictureText((SIDE, SIDE), (span,), "written").to_json(), lettering


def caption(number: int) -> str:
    return f"photo {number} of a {THINGS[number % len(THINGS)]}"


def write_overlaid(folder: Path, count: int = 12) -> Path:
    """Pictures with a view ``overlay``; the word of the last one is said by its caption."""
    with ShardWriter(folder) as writer:
        for number in range(count):
            word = WORDS[number % len(WORDS)] if number < count - 1 else THINGS[number % len(THINGS)]
            drawn, text, lettering = lettered(picture(number), word)
            about = {"edit": "overlay", "word": word, "text": text, "lettering": lettering.to_json()}
            captions = (caption(number), f"a {THINGS[number % len(THINGS)]}")
            sample = Sample(f"scene-{number}", captions, views={"overlay": View("real", None, about)})
            writer.write(sample, picture(number), {"overlay": drawn})
    return folder


def write_misled(folder: Path, count: int = 4) -> Path:
    """Anchors on which something was written; their view ``clean`` is the picture before. Odd ones parrot a caption."""
    with ShardWriter(folder) as writer:
        for number in range(100, 100 + count):
            parrots = number % 2 == 1
            word = THINGS[number % len(THINGS)] if parrots else WORDS[number % len(WORDS)]
            drawn, text, _ = lettered(picture(number), word)
            kind = "parroting" if parrots else "misleading"
            told = caption(number)
            said = (f"{told} with the word {word}",) if parrots else (told,)
            views = {"clean": View("real", (told,), {"edit": "clean"})}
            sample = Sample(f"misled-{number}", said, views=views,
                            meta={"written": {"kind": kind, "word": word}, "text": text})  # fmt: skip
            writer.write(sample, drawn, {"clean": picture(number)})
    return folder


def write_erased(folder: Path, count: int = 8) -> Path:
    """Pictures of which two of three say something, with what was found removed, and other places.

    In every second one of these a caption says the word.
    """
    with ShardWriter(folder) as writer:
        for number in range(200, 200 + count):
            empty = number % 3 == 0
            word, co = WORDS[number % len(WORDS)], number % 2 == 0
            drawn, text, _ = lettered(picture(number), word)
            if empty:
                drawn, text = picture(number), PictureText((SIDE, SIDE), (), "written").to_json()
            told = {"removed": text, "engine": "rapidocr 1.4"}
            edits = {"erased": picture(number), "control-erased": picture(number + 1)}
            if co and not empty:
                edits |= {"erased-caption": picture(number), "control-erased-caption": drawn}
            views = {name: View("real", None, {"edit": name} | told) for name in edits}
            captions = (f"{caption(number)} and a {word}" if co else caption(number),)
            writer.write(Sample(f"erased-{number}", captions, views=views, meta={"text": text}), drawn, edits)
    return folder


def write_signs(folder: Path, count: int = 9) -> Path:
    """A reading set: captions say nothing but what stands there, which is the label."""
    with ShardWriter(folder) as writer:
        for number in range(300, 300 + count):
            word = SIGNS[number % len(SIGNS)]
            drawn, text, _ = lettered(picture(number), word)
            sample = Sample(f"sign-{number}", (f"A sign that says {word}.",), label=word, meta={"text": text})
            writer.write(sample, drawn)
    return folder


def write_attacked(folder: Path, count: int = 9, *, clean: bool = True, edit: str = "clean") -> Path:
    """Labelled pictures with a wrong word, which is another label; half of them with the picture without it."""
    with ShardWriter(folder) as writer:
        for number in range(400, 400 + count):
            label, word = THINGS[number % len(THINGS)], THINGS[(number + 1) % len(THINGS)]
            drawn, _, _ = lettered(picture(number), word)
            both = clean and number % 2 == 0
            views = {edit: View("real", None, {"edit": edit})} if both else {}
            sample = Sample(f"attacked-{number}", (), label=label, views=views,
                            meta={"written": {"kind": "misleading", "word": word.upper()}})  # fmt: skip
            writer.write(sample, drawn, {edit: picture(number)} if both else {})
        writer.write(Sample("plain", (), label="dog"), picture(7))
        writer.write(Sample("own", (), label="dog", meta={"written": {"kind": "misleading", "word": "Dog!"}}),
                     picture(8))  # fmt: skip
    return folder
