"""Object bias on schedule: what a retriever recalls of objects that were taken out of pictures, while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from bias_train.audit.object.edited_set import EditedSet, edited_set
from bias_train.audit.object.options import ObjectOptions
from bias_train.callbacks.axis import ScheduledFigures
from bias_train.callbacks.shared_pictures import embed_shared
from bias_train.embed import embed_texts
from bias_train.errors import RunError
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.object.questions import answers
from bias_train.records import OBJECT, Record, record
from bias_train.stats import Bootstrap

# Of all that an audit measures, what a curve over training needs; each also as a mean over queries and over pairs.
LOGGED = ("ODmAP_V1_excess", "ODmAP_V2", "ODmAP_V2_floor", "ODmAP_V2_excess", "H_original", "H_removed", "H_control",
          "H_floor", "DG", "DG_net")  # fmt: skip


class ObjectDecorrelation(ScheduledFigures):
    """Measures object bias after every validation; `bias-train audit object` measures a finished retriever in full.

    Ranks share the pictures; texts are embedded and figures computed on rank 0. Logged are the figures of
    :data:`LOGGED` and R@1 on the same gallery, as ``bias/object/i2t_DG@10``; figures of single objects and pairs go to
    ``records.csv`` alone.

    Args:
        shards: sets of edited pictures (`bias-train synthesize decorrelated`).
        gallery: further sets of captioned pictures to search.
        vocabulary: table of objects and their words; None takes COCO's.
        pairs: spurious pairs, such as ``[["dog", "frisbee"]]``: the dog taken out of pictures with a frisbee.
        ks: cut-offs.
        minimum: queries below which an object stays out of the mean over objects.
        limit: at most this many edited pictures, drawn at random; None takes all.
        batch_size: pictures at once on each rank.
        resamples: bootstrap resamples behind each interval; 0 for none.
        seed: of the choice under a limit and of resamples.
    """

    def __init__(
        self,
        shards: Sequence[str],
        gallery: Sequence[str] = (),
        vocabulary: str | None = None,
        pairs: Sequence[Sequence[str]] = (),
        ks: Sequence[int] = (10,),
        minimum: int = 10,
        limit: int | None = None,
        batch_size: int = 64,
        resamples: int = 500,
        seed: int = 0,
    ) -> None:
        if not shards:
            raise RunError("ObjectDecorrelation: shards is empty; name sets of edited pictures")
        wrong = next((pair for pair in pairs if len(pair) != 2), None)
        if wrong is not None:
            raise RunError(f"ObjectDecorrelation: pairs holds {list(wrong)}; a pair is two objects")
        self.shards, self.gallery, self.vocabulary = tuple(shards), tuple(gallery), vocabulary
        self.pairs = tuple((pair[0], pair[1]) for pair in pairs)
        self.options = ObjectOptions(
            ks=tuple(ks), clean_ks=(1,), minimum=minimum,
            bootstrap=Bootstrap(resamples=resamples, seed=seed) if resamples else None,
        )  # fmt: skip
        self.limit, self.batch_size, self.seed = limit, batch_size, seed
        self._asked: EditedSet | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the pictures, so that what is wrong with them is said before training.

        Raises:
            DataError: for shards that cannot be read or that hold no edited picture.
        """
        if self._asked is None:
            self._asked = edited_set(
                self.shards, self.gallery, vocabulary=self.vocabulary, pairs=self.pairs, limit=self.limit,
                seed=self.seed,
            )  # fmt: skip

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Record]:
        """Embed the pictures on all ranks; measure on rank 0."""
        assert self._asked is not None
        asked, retriever = self._asked, _retriever(pl_module)
        image = embed_shared(trainer, pl_module, asked.pictures, self.batch_size, "edited pictures")
        if not trainer.is_global_zero:
            return []
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            text = embed_texts(retriever, asked.texts, device=pl_module.device)
        found = answers(
            asked.questions, image, text, ks=self.options.ks, clean_ks=self.options.clean_ks,
            minimum=self.options.minimum, bootstrap=self.options.bootstrap,
        )  # fmt: skip
        return [
            record(figure, axis=OBJECT, ratio=0.0, step=trainer.global_step)
            for figure in found.figures()
            if _is_logged(figure)
        ]


def _is_logged(figure: Figure) -> bool:
    if figure.name.startswith("clean_"):
        return True
    name = figure.name.partition("_")[2]
    return name.removesuffix("_micro").removesuffix("_pairs") in LOGGED


def _retriever(pl_module: pl.LightningModule) -> Any:
    return pl_module.retriever
