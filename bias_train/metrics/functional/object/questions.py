"""What is asked about objects, as rows of two tables of embeddings, and the figures in both directions.

A set of edited pictures is embedded once: every picture (unedited, without the object, with an edited background) and
every text. Which of them are queries, in which form, and which are the gallery, are row numbers that are known before
anything is embedded.

Legend of the shapes: Q queries, M items of a gallery, C categories, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.object.clean_retrieval import CleanRetrieval, clean_retrieval
from bias_train.metrics.functional.object.decorrelation import FEWEST, KS, ObjectBias, object_decorrelation
from bias_train.stats import Bootstrap, Ints

Bools = NDArray[np.bool_]

I2T, T2I = "i2t", "t2i"
CLEAN_KS = (1, 5, 10)


@dataclass(frozen=True)
class Queries:
    """The queries of one direction and what they search.

    Attributes:
        removed: [Q] int64 rows of the asking side's table: without the object.
        original: [Q] likewise, as it was.
        control: [Q] likewise, with an edited background; -1 where there is none.
        category: [Q] int64, the object.
        present: [Q, C] bool, objects before the edit.
        cluster: [Q] int64, the picture that a query stems from.
        gallery: [M] int64 rows of the other side's table.
        gallery_present: [M, C] bool, its objects.
    """

    removed: Ints
    original: Ints
    control: Ints
    category: Ints
    present: Bools
    cluster: Ints
    gallery: Ints
    gallery_present: Bools


@dataclass(frozen=True)
class Questions:
    """All that is asked of a retriever.

    Attributes:
        categories: [C] names.
        i2t: pictures among captions.
        t2i: captions among pictures; None where nothing can be asked.
        text: rows of the captions for ordinary retrieval.
        text_target: what each is of.
        image: rows of the pictures for ordinary retrieval.
        image_target: what each is of.
        pairs: spurious pairs (a, b) by number, a slice of their own.
    """

    categories: tuple[str, ...]
    i2t: Queries
    t2i: Queries | None
    text: Ints
    text_target: Ints
    image: Ints
    image_target: Ints
    pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Answers:
    """What a retriever makes of the questions, query by query.

    Attributes:
        bias: by direction, "i2t" and, where asked, "t2i".
        clean: ordinary retrieval by direction.
    """

    bias: dict[str, ObjectBias]
    clean: dict[str, CleanRetrieval]

    def minus(self, other: Answers) -> Answers:
        """The change from another retriever to this one, on the same resamples.

        Raises:
            ValueError: for other questions.
        """
        return Answers(
            {direction: bias.minus(other.bias[direction]) for direction, bias in self.bias.items()},
            {direction: clean.minus(other.clean[direction]) for direction, clean in self.clean.items()},
        )

    def figures(self) -> list[Figure]:
        """Every figure, its direction before its name: ``i2t_DG@10``, ``clean_t2i_R@1``.

        See :func:`~bias_train.metrics.functional.object.decorrelation.object_decorrelation` for what they are.
        """
        found = [
            replace(figure, name=f"{direction}_{figure.name}")
            for direction, bias in self.bias.items()
            for figure in bias.figures()
        ]
        return found + [
            replace(figure, name=f"clean_{direction}_{figure.name}")
            for direction, clean in self.clean.items()
            for figure in clean.figures()
        ]


def answers(
    questions: Questions,
    image: Tensor,
    text: Tensor,
    *,
    ks: Sequence[int] = KS,
    clean_ks: Sequence[int] = CLEAN_KS,
    minimum: int = FEWEST,
    bootstrap: Bootstrap | None = None,
    chunk_size: int | None = None,
) -> Answers:
    """Measure object bias in both directions, and ordinary retrieval on the same gallery.

    Args:
        questions: which rows are what.
        image: [N, D] float embeddings of all pictures.
        text: [T, D] of all texts.
        ks: cut-offs of object bias.
        clean_ks: cut-offs of ordinary retrieval.
        minimum: queries below which a category stays out of the mean over categories.
        bootstrap: how intervals over pictures are made; None for none.
        chunk_size: queries scored at once; None chooses by memory.

    Raises:
        ValueError: for embeddings that are non-finite or zero, or rows that a table does not have.
    """
    tables = {"image": image, "text": text}
    bias = {}
    for direction, queries in ((I2T, questions.i2t), (T2I, questions.t2i)):
        if queries is None:
            continue
        asking, searched = ("image", "text") if direction == I2T else ("text", "image")
        has_control = queries.control >= 0
        bias[direction] = object_decorrelation(
            _rows(tables, asking, queries.removed),
            _rows(tables, asking, queries.original),
            _rows(tables, searched, queries.gallery),
            torch.from_numpy(queries.category),
            torch.from_numpy(queries.present),
            torch.from_numpy(queries.gallery_present),
            control=_rows(tables, asking, np.maximum(queries.control, 0)) if has_control.any() else None,
            has_control=torch.from_numpy(has_control),
            cluster=torch.from_numpy(queries.cluster),
            ks=ks,
            pairs=questions.pairs,
            categories=questions.categories,
            minimum=minimum,
            bootstrap=bootstrap,
            chunk_size=chunk_size,
        )
    texts, pictures = _rows(tables, "text", questions.text), _rows(tables, "image", questions.image)
    of_text, of_picture = torch.from_numpy(questions.text_target), torch.from_numpy(questions.image_target)
    both = {I2T: (pictures, texts, of_picture, of_text), T2I: (texts, pictures, of_text, of_picture)}
    clean = {
        direction: clean_retrieval(*sides, ks=clean_ks, bootstrap=bootstrap, chunk_size=chunk_size)
        for direction, sides in both.items()
    }
    return Answers(bias, clean)


def _rows(tables: dict[str, Tensor], name: str, rows: Ints) -> Tensor:
    table = tables[name]
    if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(table)):
        raise ValueError(f"{name} has {len(table)} rows, but row {int(rows.max())} is asked for")
    return table[torch.from_numpy(rows).to(table.device)]
