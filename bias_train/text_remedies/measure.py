"""What is measured of a retriever while a remedy is chosen, and how it is embedded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from bias_train.audit.text.text_set import TextSet, embed_text_set
from bias_train.errors import RunError
from bias_train.metrics.functional.text.questions import TextAnswers, text_answers
from bias_train.stats import Bootstrap
from models.retriever import Retriever

Vectors = tuple[Tensor, Tensor]

ATTACK = "win_share"
CLEAN = ("clean_t2i_R", "clean_i2t_R")


@dataclass(frozen=True)
class Embedding:
    """How pictures are embedded.

    Attributes:
        batch_size: pictures at once.
        workers: loader processes.
        device: where to compute.
    """

    batch_size: int = 64
    workers: int = 0
    device: str = "cpu"

    def of(self, retriever: Retriever, asked: TextSet) -> Vectors:
        """(image [N, D], text [T, D]) float32 on the CPU."""
        return embed_text_set(retriever, asked, batch_size=self.batch_size, workers=self.workers, device=self.device)


def answers_of(
    asked: TextSet, vectors: Vectors, *, ks: tuple[int, ...] = (1,), bootstrap: Bootstrap | None = None
) -> TextAnswers:
    """Measure what is asked.

    Raises:
        RunError: for vectors that cannot be measured.
    """
    try:
        return text_answers(asked.questions, *vectors, ks=ks, bootstrap=bootstrap)
    except ValueError as error:
        raise error if isinstance(error, RunError) else RunError(f"{error}") from error


def attack_and_clean(answers: TextAnswers) -> tuple[float, float]:
    """The two figures that a remedy is chosen by.

    Returns:
        The share of captions that lose against the written word, and R@1 of ordinary pairs, the mean of both
        directions.
    """
    figures = {(one.name, one.k): one.value for one in answers.found if one.label is None}
    clean = [figures.get((name, 1), math.nan) for name in CLEAN]
    return figures.get((ATTACK, None), math.nan), sum(clean) / len(clean)
