"""Options of commands that ask a retriever with rendered words, and what they make."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bias_train.cli.inputs import positive

if TYPE_CHECKING:
    from bias_train.audit.text.rendering import Rendering


def add_rendered_words(parser: argparse.ArgumentParser) -> None:
    """Add the group of options to a command."""
    words = parser.add_argument_group("rendered words")
    words.add_argument(
        "--words", metavar="FILE", help="one a line, or the first column of a CSV (default: our own list)"
    )
    words.add_argument(
        "--word-limit", type=int, default=1000, metavar="N",
        help="at most N words, evenly spread over the list (default: 1000; 0: render none)",
    )  # fmt: skip
    words.add_argument(
        "--styles", nargs="+", metavar="STYLE", help="background/ink, such as white/black (default: the paper's four)"
    )
    words.add_argument(
        "--word-prompt", default="{word}", metavar="TEXT", help="how a word is asked for (default: bare)"
    )
    words.add_argument("--font", default="dejavu-sans", metavar="NAME", help="(default: dejavu-sans)")
    words.add_argument(
        "--canvas", type=positive, default=224, metavar="PIXELS", help="side of the canvas (default: 224)"
    )
    words.add_argument(
        "--points", type=float, metavar="PIXELS", help="height of the letters (default: 32 of 224, in proportion)"
    )
    words.add_argument(
        "--word-y", type=float, default=0.5, metavar="Y",
        help="where rendered words stand, as a share of the canvas's height (default: 0.5, the middle)",
    )  # fmt: skip
    words.add_argument("--fit", action="store_true", help="shrink words that are cut off otherwise")


def rendering_of(options: argparse.Namespace) -> Rendering | None:
    """The words that the options name; None where none are to be rendered.

    Raises:
        DataError: for a list of words that cannot be read.
        RunError: for fewer than two words, a style that does not exist, or a prompt without a place for the word.
    """
    from bias_train.audit.text.rendering import Rendering, limited
    from datamodules.lettering.canvas import STYLES
    from datamodules.lettering.words import load_words

    if options.word_limit < 1:
        return None
    return Rendering(
        limited(load_words(options.words), options.word_limit),
        styles=tuple(options.styles or STYLES),
        size=options.canvas,
        points=options.points,
        font=options.font,
        fit=options.fit,
        y=options.word_y,
        prompt=options.word_prompt,
    )
