"""What is asked about text in pictures, as rows of two tables of embeddings, and all figures of the answers.

Everything is embedded once: every picture (as it is, with a word on it, with text removed, rendered words) and every
text (captions, queries for written words, words, class prompts). Which row is what is known before that.

Legend of the shapes: S styles, W words, N pictures, C captions of them, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.inputs import check_cutoffs
from bias_train.metrics.functional.text.drawn import Drawn, changes
from bias_train.metrics.functional.text.match_gap import Matches
from bias_train.metrics.functional.text.overlay import overlay_robustness
from bias_train.metrics.functional.text.pair_retrieval import pair_retrieval
from bias_train.metrics.functional.text.relative_scores import relative_scores
from bias_train.metrics.functional.text.rendered_words import rendered_words
from bias_train.metrics.functional.text.typographic import typographic_attack
from bias_train.stats import Bootstrap, Ints

KS = (1, 5, 10)


@dataclass(frozen=True)
class Words:
    """A list of words, each as text and as its picture in several styles.

    Attributes:
        styles: [S] names.
        rendered: [S, W] int64 rows of the pictures' table.
        word: [W] int64 rows of the texts' table.
    """

    styles: tuple[str, ...]
    rendered: Ints
    word: Ints


@dataclass(frozen=True)
class Pairs:
    """Pictures and captions; a picture answers the captions of its target.

    Attributes:
        image: [N] int64 rows.
        image_target: [N] int64.
        text: [C] int64 rows.
        text_target: [C] int64.
    """

    image: Ints
    image_target: Ints
    text: Ints
    text_target: Ints


@dataclass(frozen=True)
class Overlays:
    """Pictures with and without a wrong word.

    Attributes:
        clean: [N] int64 rows of the pictures before.
        written: [N] int64 rows of the pictures with their word.
        query: [N] int64 rows of the queries for the words.
        target: [N] int64 what a picture shows.
        caption: [C] int64 rows of the captions.
        caption_of: [C] int64, which of the N pictures each is of.
        other: [N] int64 rows of the queries for a word that stands on another picture and that no caption of this one
            says; -1 where there is none.
    """

    clean: Ints
    written: Ints
    query: Ints
    target: Ints
    caption: Ints
    caption_of: Ints
    other: Ints


@dataclass(frozen=True)
class Attacks:
    """Labelled pictures with a wrong word.

    Attributes:
        attacked: [N] int64 rows.
        clean: [N] int64 rows of the same pictures without the word; -1 where there is none.
        label: [N] int64 class that is shown.
        word: [N] int64 class that is written; -1 where that is no class.
        target: [N] int64, what is resampled together.
        prompt: [K] int64 rows of the classes' prompts.
    """

    attacked: Ints
    clean: Ints
    label: Ints
    word: Ints
    target: Ints
    prompt: Ints


@dataclass(frozen=True)
class Erasures:
    """Pictures with text, and with that text removed.

    Attributes:
        raw: [N] int64 rows.
        erased: [N] int64 rows.
        control: [N] int64 rows with as many other places removed; -1 where there is none.
        target: [N] int64, what is resampled together.
        caption: [C] int64 rows.
        caption_of: [C] int64.
        without_text: pictures in which no text was found, whose scores are 0 by definition.
    """

    raw: Ints
    erased: Ints
    control: Ints
    target: Ints
    caption: Ints
    caption_of: Ints
    without_text: int = 0


@dataclass(frozen=True)
class TextQuestions:
    """All that is asked of a retriever.

    Attributes:
        pairs: ordinary pictures and captions: what the calibrated score is divided by, and clean retrieval.
        words: rendered words; None for none.
        overlays: pictures with a wrong word; None for none.
        reading: pictures whose captions are about the text in them; None for none.
        attacks: labelled pictures with a wrong word; None for none.
        erasures: by name of the score, "RSA" (all text removed) and "RSC" (the captions' words removed).
    """

    pairs: Pairs
    words: Words | None = None
    overlays: Overlays | None = None
    reading: Pairs | None = None
    attacks: Attacks | None = None
    erasures: tuple[tuple[str, Erasures], ...] = ()


@dataclass(frozen=True)
class TextAnswers:
    """What a retriever makes of the questions.

    Attributes:
        found: figures with their values on resamples.
        bootstrap: how intervals are made, or None.
    """

    found: tuple[Drawn, ...]
    bootstrap: Bootstrap | None

    def minus(self, other: TextAnswers) -> TextAnswers:
        """The change from another retriever to this one, on the same resamples.

        Raises:
            ValueError: for other questions.
        """
        return TextAnswers(tuple(changes(self.found, other.found)), self.bootstrap)

    def figures(self) -> list[Figure]:
        """Every figure with its interval."""
        return [one.figure(self.bootstrap) for one in self.found]


def text_answers(
    questions: TextQuestions,
    image: Tensor,
    text: Tensor,
    *,
    ks: Sequence[int] = KS,
    bootstrap: Bootstrap | None = None,
    chunk_size: int | None = None,
) -> TextAnswers:
    """Measure everything that is asked.

    Args:
        questions: which rows are what.
        image: [N, D] float embeddings of all pictures. Scores are dot products, cosines of unit vectors.
        text: [T, D] of all texts.
        ks: cut-offs of retrieval.
        bootstrap: how intervals are made; None for none. Words, ordinary pairs, overlaid pictures, the reading set,
            attacked and erased pictures are each resampled with draws of their own.
        chunk_size: queries scored at once; None chooses by memory.

    Returns:
        Figures of :func:`~bias_train.metrics.functional.text.rendered_words.rendered_words`,
        :func:`~bias_train.metrics.functional.text.overlay.overlay_robustness`,
        :func:`~bias_train.metrics.functional.text.typographic.typographic_attack`,
        :func:`~bias_train.metrics.functional.text.relative_scores.relative_scores`, and ``reading_...`` and
        ``clean_...`` retrieval of :func:`~bias_train.metrics.functional.text.pair_retrieval.pair_retrieval`.

    Raises:
        ValueError: for embeddings that are non-finite or zero, or rows that a table does not have.
    """
    ks = tuple(dict.fromkeys(ks))
    check_cutoffs("ks", ks)
    tables = _Tables(image, text)
    pairs = tables.pairs(questions.pairs)
    retrieved: dict[str, Any] = {"ks": ks, "bootstrap": bootstrap, "chunk_size": chunk_size}
    found: list[Drawn] = []
    if (words := questions.words) is not None:
        pictures = torch.stack([tables.image(rows) for rows in words.rendered])
        found += rendered_words(
            pictures, tables.text(words.word), Matches.of(*pairs), styles=words.styles, bootstrap=bootstrap,
            chunk_size=chunk_size,
        )  # fmt: skip
    if (over := questions.overlays) is not None:
        other, has_other = tables.some(over.other, "text")
        found += overlay_robustness(
            tables.image(over.clean), tables.image(over.written), tables.text(over.query), tables.text(over.caption),
            torch.from_numpy(over.caption_of), torch.from_numpy(over.target), other=other, has_other=has_other,
            **retrieved,
        )  # fmt: skip
    if (attack := questions.attacks) is not None:
        clean, has_clean = tables.some(attack.clean)
        found += typographic_attack(
            tables.image(attack.attacked), tables.text(attack.prompt), torch.from_numpy(attack.label),
            torch.from_numpy(attack.word), torch.from_numpy(attack.target), clean=clean, has_clean=has_clean,
            bootstrap=bootstrap, chunk_size=chunk_size,
        )  # fmt: skip
    for name, erased in questions.erasures:
        control, has_control = tables.some(erased.control)
        found += relative_scores(
            name, tables.image(erased.raw), tables.image(erased.erased), control, tables.text(erased.caption),
            torch.from_numpy(erased.caption_of), torch.from_numpy(erased.target), has_control=has_control,
            without_text=erased.without_text, bootstrap=bootstrap,
        )  # fmt: skip
    if questions.reading is not None:
        found += pair_retrieval("reading", *tables.pairs(questions.reading), **retrieved)
    found += pair_retrieval("clean", *pairs, **retrieved)
    return TextAnswers(tuple(found), bootstrap)


class _Tables:
    """Takes rows of the two tables, and says which row is not there."""

    def __init__(self, image: Tensor, text: Tensor) -> None:
        self._tables = {"image": image, "text": text}

    def image(self, rows: Ints) -> Tensor:
        return self._rows("image", rows)

    def text(self, rows: Ints) -> Tensor:
        return self._rows("text", rows)

    def pairs(self, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors of pictures and captions, then their targets."""
        targets = torch.from_numpy(pairs.image_target), torch.from_numpy(pairs.text_target)
        return self.image(pairs.image), self.text(pairs.text), *targets

    def some(self, rows: Ints, name: str = "image") -> tuple[Tensor | None, Tensor]:
        """What not all have (-1), any one standing where there is none; None where nobody has it."""
        has = rows >= 0
        # A row that is there stands in for a missing one, whose figures are then dropped.
        return (self._rows(name, np.where(has, rows, rows.max())) if has.any() else None), torch.from_numpy(has)

    def _rows(self, name: str, rows: Ints) -> Tensor:
        table = self._tables[name]
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(table)):
            raise ValueError(f"{name} has {len(table)} rows, but row {int(rows.max())} is asked for")
        return table[torch.from_numpy(rows).to(table.device)]
