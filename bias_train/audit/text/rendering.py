"""A list of words as pictures of a plain canvas, drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_train.errors import RunError
from bias_train.stats import Ints
from datamodules.decode import fit
from datamodules.lettering.canvas import POINTS, SIDE, STYLES, RenderedWord, render_word
from datamodules.lettering.fonts import DEFAULT, covers
from datamodules.lettering.words import digest_of
from models.retriever import Retriever

WORD = "{word}"


@dataclass(frozen=True)
class Rendering:
    """Words and how they are drawn: the paper's canvas is 224 pixels wide, its letters 32 points high.

    Attributes:
        words: W of them, each another one; those that the font cannot write are left out.
        styles: S of `datamodules.lettering.canvas.STYLES` (background/ink).
        size: of the canvas in pixels; it is resized to what the retriever takes.
        points: em of the letters in pixels; None for the paper's 32 of 224, in proportion.
        font: name of a font of `datamodules.lettering.fonts`.
        fit: whether long words are shrunk until they fit; else they are cut off, as the paper does.
        y: where the words stand, as a share of the canvas's height; in its middle as in the paper.
        prompt: how a word is asked for, with ``{word}``; the paper states none, and the bare word is ours.
        left_out: words that the font cannot write.

    Raises:
        RunError: for fewer than two words, a style that does not exist, or a prompt without a place for the word.
    """

    words: tuple[str, ...]
    styles: tuple[str, ...] = tuple(STYLES)
    size: int = SIDE
    points: float | None = None
    font: str = DEFAULT
    fit: bool = False
    y: float = 0.5
    prompt: str = WORD
    left_out: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        distinct = tuple(dict.fromkeys(self.words))
        object.__setattr__(self, "words", tuple(word for word in distinct if covers(self.font, word)))
        object.__setattr__(self, "left_out", tuple(word for word in distinct if not covers(self.font, word)))
        if len(self.words) < 2:
            raise RunError(
                f"of {len(distinct)} words the font {self.font} can write {len(self.words)}; two at least can be told "
                "apart"
            )
        unknown = next((style for style in self.styles if style not in STYLES), None)
        if unknown is not None or not self.styles:
            raise RunError(f"styles: {unknown!r} is none; choose from {', '.join(STYLES)}")
        check_prompt(self.prompt, "word_prompt")

    def __len__(self) -> int:
        """Return the number of pictures, S times W."""
        return len(self.styles) * len(self.words)

    @property
    def em(self) -> float:
        """Of the letters in pixels of the canvas, before any are shrunk."""
        return POINTS * self.size / SIDE if self.points is None else float(self.points)

    @property
    def texts(self) -> tuple[str, ...]:
        """How the words are asked for, [W]."""
        return tuple(self.prompt.format(word=word) for word in self.words)

    @cached_property
    def overflow(self) -> float:
        """Share of the words that do not fit on the canvas and are cut off."""
        return float(np.mean([self._draw(word, self.styles[0]).overflow for word in self.words]))

    def pictures(self, rows: Ints, image_size: tuple[int, int]) -> Tensor:
        """Draw some of the pictures, which stand style by style.

        Args:
            rows: [b] in 0 to S W - 1.
            image_size: height and width that a retriever takes.

        Returns:
            [b, 3, H, W] uint8.
        """
        drawn = np.empty((len(rows), *image_size, 3), dtype=np.uint8)
        for out, row in zip(drawn, rows.tolist(), strict=True):
            style, word = divmod(row, len(self.words))
            fit(self._draw(self.words[word], self.styles[style]).image, image_size, out=out)
        return torch.from_numpy(drawn).permute(0, 3, 1, 2)

    def batches(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Ints]:
        """Row numbers of one rank's part, in batches."""
        rows = np.arange(rank, len(self), world_size)
        yield from (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))

    def record(self) -> dict[str, Any]:
        """What another must know to draw and ask for the same words."""
        return {
            "words": len(self.words),
            "sha256": digest_of(self.words),
            "prompt": self.prompt,
            "font": self.font,
            "styles": list(self.styles),
            "canvas": f"{self.size} px, letters of {self.em:g} px, "
            + ("long words shrunk" if self.fit else "long words cut off")
            + ("" if self.y == 0.5 else f", at {self.y:g} of the height"),
            "overflow share": round(self.overflow, 4),
            "words that the font cannot write": len(self.left_out),
        }

    def _draw(self, word: str, style: str) -> RenderedWord:
        return render_word(
            word, size=self.size, style=style, font=self.font, points=self.points, fit=self.fit, y=self.y
        )


@torch.inference_mode()
def embed_rendered(
    retriever: Retriever, rendering: Rendering, *, batch_size: int = 64, device: str | torch.device = "cpu"
) -> Tensor:
    """Embed rendered words: [S W, D] float32 on the CPU, style by style; `embed_pictures` has the arguments."""
    retriever = retriever.to(device).eval()
    parts = [
        retriever.encode_image(rendering.pictures(rows, retriever.image_size).to(device)).float().cpu()
        for rows in rendering.batches(batch_size)
    ]
    return torch.cat(parts)


def check_prompt(prompt: str, option: str, place: str = WORD) -> None:
    """Require a template with one place for a word, and no other.

    Raises:
        RunError: naming the option.
    """
    name = place.strip("{}")
    try:
        filled = prompt.format(**{name: "x"}) != prompt.format(**{name: "y"})
    except (KeyError, IndexError, ValueError):
        filled = False
    if not filled:
        raise RunError(
            f"{option}: {prompt!r} has no place for the word; write {place} where it goes, and no other braces"
        )


def limited(words: Sequence[str], most: int | None) -> tuple[str, ...]:
    """At most some of the words, evenly spread over the list, which may be sorted.

    >>> limited(["a", "b", "c", "d", "e"], 3)
    ('a', 'c', 'e')
    """
    distinct = tuple(dict.fromkeys(words))
    if most is None or most >= len(distinct):
        return distinct
    places = np.linspace(0, len(distinct) - 1, most).round().astype(int)
    return tuple(distinct[place] for place in places.tolist())
