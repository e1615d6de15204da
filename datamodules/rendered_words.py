"""Words that are rendered alone on a canvas in every step, the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.hashing import generator
from datamodules.lettering.canvas import STYLES, render_word
from datamodules.lettering.fonts import DEFAULT, covering, font_names

_WORDS = 81  # what is drawn; apart from the numbers of the plans, which have the same seed


class RenderedWords:
    """Some words of a list in each step, drawn without repetition from (seed, step) alone.

    The styles take turns over the words of all steps. A word that would not fit has smaller letters.

    Args:
        words: the list.
        count: words a step; 0 for none.
        seed: of the draws.
        points: em of the letters in pixels; None for those of the rendered-word probe
            (:func:`datamodules.lettering.canvas.render_word`).
        y: where they stand, as a share of the canvas's height.

    Raises:
        DataError: if the list is too short, or no installed font can write a word.
    """

    def __init__(
        self, words: Sequence[str], count: int, seed: int, points: float | None = None, y: float = 0.5
    ) -> None:
        if count < 0 or count == 1:
            raise DataError(
                f"data.rendered_words is {count}; give 0 for none, or at least 2, since a loss compares them with each "
                "other"
            )
        if count > len(words):
            raise DataError(
                f"data.rendered_words is {count}, but data.words holds {len(words)} words; lower it, or give more words"
            )
        if points is not None and not points > 0:
            raise DataError(
                f"data.rendered_points is {points}; letters need more than 0 pixels, or null for the probe's"
            )
        if not 0 <= y <= 1:
            raise DataError(f"data.rendered_y is {y}; it is a share of the canvas's height, in [0, 1]")
        self.words, self.count, self.points, self.y, self._seed = tuple(words), count, points, y, seed
        self._fonts = {word: _font(word) for word in self.words} if count else {}

    def at(self, step: int) -> list[tuple[str, str]]:
        """The words of a step, each with its style.

        Example:
            >>> rendered = RenderedWords(["cat", "dog", "sea"], 2, seed=0)
            >>> rendered.at(7) == rendered.at(7), [style for _, style in rendered.at(1)]
            (True, ['gray/white', 'gray/black'])
        """
        drawn = generator(self._seed, _WORDS, step).choice(len(self.words), self.count, replace=False)
        styles = tuple(STYLES)
        return [
            (self.words[word], styles[(step * self.count + place) % len(styles)])
            for place, word in enumerate(drawn.tolist())
        ]

    def draw(self, step: int, out: npt.NDArray[np.uint8]) -> list[str]:
        """Render the words of a step.

        Args:
            step: number of the global batch.
            out: uint8 [count, size, size, 3] to write to.

        Returns:
            The words.
        """
        drawn = self.at(step)
        for room, (word, style) in zip(out, drawn, strict=True):
            room[...] = render_word(
                word, size=room.shape[0], style=style, font=self._fonts[word], points=self.points, fit=True, y=self.y
            ).image
        return [word for word, _ in drawn]


def _font(word: str) -> str:
    """The default font, or the first one that has the word's letters."""
    names = dict.fromkeys((DEFAULT, *font_names()))
    return covering(names, word)[0]
