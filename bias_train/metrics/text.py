"""Text spotting as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bias_train.metrics.embedding import NumberedMetric, Rows, numbered_rows
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.text.questions import KS, TextQuestions, text_answers
from bias_train.stats import Bootstrap


class TextSpotting(NumberedMetric):
    """Modular form of `bias_train.metrics.functional.text.questions.text_answers`.

    Keys are those of its figures, such as ``"NS"``, ``"win_share"`` or ``"sync/label=white/black"``. Which picture and
    which text is what stands in the questions, which every rank knows; embeddings come in any order, with their row as
    id.

    Args:
        questions: which rows are what.
        ks: cut-offs of retrieval.
        bootstrap: how intervals are made; None for none.
        chunk_size: queries scored at once; None chooses by memory.
        kwargs: of `torchmetrics.Metric`.

    Example: four pictures that match their captions, of which rows 0 and 1 also render the words of rows 0 and 1.

    >>> import numpy as np, torch
    >>> from bias_train.metrics.functional.text.questions import Pairs, Words
    >>> rows = np.arange(4)
    >>> questions = TextQuestions(Pairs(rows, rows, rows, rows), Words(("white/black",), rows[None, :2], rows[:2]))
    >>> metric = TextSpotting(questions, ks=(1,))
    >>> metric.update(image=torch.eye(4), image_id=torch.arange(4), text=torch.eye(4), query_id=torch.arange(4))
    >>> float(metric.compute()["NS"]), float(metric.compute()["clean_t2i_R@1"])
    (1.0, 1.0)
    """

    def __init__(
        self,
        questions: TextQuestions,
        ks: Sequence[int] = KS,
        *,
        bootstrap: Bootstrap | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.questions = questions
        self.ks = tuple(ks)
        self.bootstrap = bootstrap
        self.chunk_size = chunk_size

    def _measure(self, image: Rows, text: Rows) -> list[Figure]:
        return text_answers(
            self.questions,
            numbered_rows(image, "image_id"),
            numbered_rows(text, "query_id"),
            ks=self.ks,
            bootstrap=self.bootstrap,
            chunk_size=self.chunk_size,
        ).figures()
