"""Source bias on schedule: how much a retriever prefers generated pictures, over gallery mixing ratios."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from bias_train.callbacks.axis import AxisCallback
from bias_train.callbacks.examples import write_examples
from bias_train.metrics.functional.source import source_bias
from bias_train.records import Record, record
from bias_train.stats import Bootstrap
from datamodules.evaluation import EvaluationSet
from datamodules.gallery import gallery
from models.embedded import EmbeddedSet


class SourceBias(AxisCallback):
    """Measures source bias after every validation.

    Args:
        ratios: shares of generated pictures in the gallery; 0.5 holds as many of both and is the headline.
        ks: cut-offs of R@k, NDCG@k, source share and Delta-NDSR.
        precision_ks: cut-offs of precision, where a class has many relevant pictures.
        mode: "clean" or "paper", see ``bias_train.metrics.functional.source``.
        resamples: bootstrap resamples behind each interval; 0 for none.
        each_generator: also measure each generator alone, where the shards hold several.
        examples: queries whose top pictures are kept at each evaluation.
        example_top: pictures per example query.
        seed: of galleries, resamples and examples.
    """

    def __init__(
        self,
        ratios: Sequence[float] = (0.2, 0.5, 0.8),
        ks: Sequence[int] = (1, 5, 10),
        precision_ks: Sequence[int] = (),
        mode: Literal["clean", "paper"] = "clean",
        resamples: int = 1000,
        each_generator: bool = True,
        examples: int = 6,
        example_top: int = 8,
        seed: int = 0,
    ) -> None:
        self.ratios, self.ks, self.precision_ks = tuple(ratios), tuple(ks), tuple(precision_ks)
        self.mode: Literal["clean", "paper"] = mode
        self.bootstrap = Bootstrap(resamples=resamples, seed=seed) if resamples else None
        self.each_generator = each_generator
        self.examples, self.example_top, self.seed = examples, example_top, seed

    def evaluate(self, embedded: EmbeddedSet, step: int) -> list[Record]:
        """Compute the figures of every gallery."""
        evaluation = _of(embedded)
        generators: list[tuple[str, int | None]] = [("all", None)]
        present = sorted({int(code) for code in evaluation.source if code > 0})
        if self.each_generator and len(present) > 1:
            generators += [(evaluation.sources[code], code) for code in present]
        records = []
        for name, code in generators:
            for ratio in self.ratios:
                rows = gallery(evaluation.source, evaluation.target, ratio, generator=code, seed=self.seed)
                figures = source_bias(
                    embedded.text,
                    embedded.image[rows],
                    torch.from_numpy(evaluation.query_target),
                    torch.from_numpy(evaluation.target[rows]),
                    torch.from_numpy(evaluation.source[rows]),
                    ks=self.ks,
                    precision_ks=self.precision_ks,
                    mode=self.mode,
                    relevance="pair" if evaluation.relevance == "pair" else "label",
                    target_names=evaluation.target_names or None,
                    query_slot=torch.from_numpy(evaluation.query_slot),
                    bootstrap=self.bootstrap,
                )
                records += [
                    record(figure, axis="source", ratio=ratio, generator=name, step=step, mode=self.mode)
                    for figure in figures
                ]
        return records

    def show(self, embedded: EmbeddedSet, step: int, folder: Path | None, trainer: pl.Trainer) -> None:
        """Keep the top pictures of a few queries from the evenly mixed gallery."""
        if self.examples == 0:
            return
        evaluation = _of(embedded)
        rows = gallery(evaluation.source, evaluation.target, 0.5, seed=self.seed)
        spread = torch.linspace(0, len(evaluation.queries) - 1, min(self.examples, len(evaluation.queries)))
        queries = sorted({int(value) for value in spread.round()})
        scores: Tensor = embedded.text[queries] @ embedded.image[rows].T
        write_examples(evaluation, queries, rows, scores, self.example_top, 0.5, step, folder, trainer)


def _of(embedded: EmbeddedSet) -> EvaluationSet:
    evaluation = embedded.evaluation
    assert isinstance(evaluation, EvaluationSet)
    return evaluation
