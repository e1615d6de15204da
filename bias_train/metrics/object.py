"""Object decorrelation as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bias_train.metrics.embedding import NumberedMetric, Rows, numbered_rows
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.object.decorrelation import FEWEST, KS
from bias_train.metrics.functional.object.questions import CLEAN_KS, Questions, answers
from bias_train.stats import Bootstrap


class ObjectDecorrelation(NumberedMetric):
    """Modular form of `bias_train.metrics.functional.object.questions.answers`.

    Keys are those of its figures, such as ``"i2t_DG@10"``. Which picture and which text is what stands in the
    questions, which every rank knows; embeddings come in any order, with their row as id.

    Args:
        questions: which rows are queries, in which form, and which are searched.
        ks: cut-offs of object bias.
        clean_ks: cut-offs of ordinary retrieval beside it.
        minimum: queries below which a category stays out of the mean over categories.
        bootstrap: how intervals over pictures are made; None for none.
        chunk_size: queries scored at once; None chooses by memory.
        kwargs: of `torchmetrics.Metric`.

    Example: pictures 0 (a dog and a frisbee) and 1 (the frisbee taken out), captions with and without a frisbee.

    >>> import numpy as np
    >>> import torch
    >>> from bias_train.metrics.functional.object.questions import Queries
    >>> has, one = np.array([[True, True], [True, False]]), np.array([0])
    >>> asked = Queries(removed=np.array([1]), original=one, control=np.array([-1]), category=np.array([1]),
    ...                 present=has[:1], cluster=one, gallery=np.arange(2), gallery_present=has)
    >>> questions = Questions(("dog", "frisbee"), asked, None, np.arange(2), np.arange(2), np.arange(2), np.arange(2))
    >>> metric = ObjectDecorrelation(questions, ks=(1,), clean_ks=(1,), minimum=1)
    >>> metric.update(image=torch.eye(2), image_id=torch.arange(2), text=torch.eye(2), query_id=torch.arange(2))
    >>> metric.compute()["i2t_DG@1"]
    tensor(1., dtype=torch.float64)
    """

    def __init__(
        self,
        questions: Questions,
        ks: Sequence[int] = KS,
        *,
        clean_ks: Sequence[int] = CLEAN_KS,
        minimum: int = FEWEST,
        bootstrap: Bootstrap | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.questions = questions
        self.ks = tuple(ks)
        self.clean_ks = tuple(clean_ks)
        self.minimum = minimum
        self.bootstrap = bootstrap
        self.chunk_size = chunk_size

    def _measure(self, image: Rows, text: Rows) -> list[Figure]:
        return answers(
            self.questions,
            numbered_rows(image, "image_id"),
            numbered_rows(text, "query_id"),
            ks=self.ks,
            clean_ks=self.clean_ks,
            minimum=self.minimum,
            bootstrap=self.bootstrap,
            chunk_size=self.chunk_size,
        ).figures()
