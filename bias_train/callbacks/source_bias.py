"""Source bias on schedule: how much a retriever prefers generated pictures, over gallery mixing ratios."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger

from bias_train.callbacks.axis import AxisCallback
from bias_train.callbacks.examples import write_examples
from bias_train.errors import RunError
from bias_train.metrics.functional.source import source_bias
from bias_train.metrics.functional.top_k import top_k
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
        examples: queries whose top pictures are kept at each evaluation, at most 100.
        example_top: pictures per example query, at most 50.
        example_size: longer side of a kept picture in pixels, at most 512.
        example_tables: W&B tables of the examples over a whole run, spread evenly and at the end; each holds
            ``examples * example_top`` pictures. The run folder holds the latest examples only.
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
        example_size: int = 96,
        example_tables: int = 10,
        seed: int = 0,
    ) -> None:
        for name, value, least, most in (
            ("examples", examples, 0, 100),
            ("example_top", example_top, 1, 50),
            ("example_size", example_size, 16, 512),
            ("example_tables", example_tables, 0, 1000),
        ):
            if not least <= value <= most:
                raise RunError(f"SourceBias: {name} is {value}; give {least} to {most}")
        self.ratios, self.ks, self.precision_ks = tuple(ratios), tuple(ks), tuple(precision_ks)
        self.mode: Literal["clean", "paper"] = mode
        self.bootstrap = Bootstrap(resamples=resamples, seed=seed) if resamples else None
        self.each_generator = each_generator
        self.examples, self.example_top, self.example_size = examples, example_top, example_size
        self.example_tables, self.seed = example_tables, seed
        self._table = -1  # of the tables that a run may have, the last that it got

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
        best = top_k(embedded.text[queries], embedded.image[rows], min(self.example_top, len(rows)))
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not self._table_is_due(step, trainer.max_steps):
            loggers = []
        write_examples(evaluation, queries, rows, best, self.example_size, 0.5, step, folder, loggers)

    def _table_is_due(self, step: int, max_steps: int) -> bool:
        """Whether this evaluation is the first in its share of the run, or the last of all."""
        if not self.example_tables:
            return False
        share = min(step * (self.example_tables - 1) // max(max_steps, 1), self.example_tables - 1)
        due, self._table = share > self._table, max(share, self._table)
        return due


def _of(embedded: EmbeddedSet) -> EvaluationSet:
    evaluation = embedded.evaluation
    assert isinstance(evaluation, EvaluationSet)
    return evaluation
