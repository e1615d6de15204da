"""Retrieval quality on schedule, on photos alone and on generated pictures alone: what debiasing must not cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bias_train.callbacks.axis import AxisCallback
from bias_train.metrics.functional.retrieval import class_accuracy, retrieval
from bias_train.records import Record, record
from bias_train.stats import Bootstrap
from datamodules.evaluation import EvaluationSet
from datamodules.gallery import gallery
from models.embedded import EmbeddedSet


class Retrieval(AxisCallback):
    """Measures retrieval (or class accuracy, where relevance is by label) after every validation.

    Args:
        ratios: gallery ratios; 0 is photos alone, 1 generated pictures alone.
        ks: cut-offs of R@k, NDCG@k and mAP@k.
        resamples: bootstrap resamples; 0 for none.
        seed: of galleries and resamples.
    """

    def __init__(
        self,
        ratios: Sequence[float] = (0.0, 1.0),
        ks: Sequence[int] = (1, 5, 10),
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        self.ratios, self.ks, self.seed = tuple(ratios), tuple(ks), seed
        self.bootstrap = Bootstrap(resamples=resamples, seed=seed) if resamples else None

    def evaluate(self, embedded: EmbeddedSet, step: int) -> list[Record]:
        """Compute the figures of every gallery that the shards can fill."""
        evaluation = embedded.evaluation
        assert isinstance(evaluation, EvaluationSet)
        records = []
        for ratio in self.ratios:
            if ratio > 0 and not (evaluation.source > 0).any():
                continue
            rows = gallery(evaluation.source, evaluation.target, ratio, seed=self.seed)
            text, image = embedded.text, embedded.image[rows]
            query_target = torch.from_numpy(evaluation.query_target)
            image_target = torch.from_numpy(evaluation.target[rows])
            if evaluation.relevance == "label":
                figures = class_accuracy(
                    text,
                    image,
                    query_target,
                    image_target,
                    torch.from_numpy(evaluation.source[rows]),
                    bootstrap=self.bootstrap,
                    target_names=evaluation.target_names or None,
                )
                # Each gallery here is of one source, so the figures by source would only say it twice.
                figures = [figure for figure in figures if figure.name == "class_accuracy"]
            else:
                figures = retrieval(text, image, query_target, image_target, ks=self.ks, bootstrap=self.bootstrap)
            records += [record(figure, axis="retrieval", ratio=ratio, step=step) for figure in figures]
        return records
