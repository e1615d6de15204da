"""Text spotting on schedule: how far a retriever reads the words in pictures, while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from bias_train.audit.text.options import TextOptions
from bias_train.audit.text.rendering import Rendering, limited
from bias_train.audit.text.text_set import TextSet, text_set
from bias_train.callbacks.axis import ScheduledFigures
from bias_train.callbacks.shared_pictures import embed_shared
from bias_train.embed import embed_texts
from bias_train.errors import RunError
from bias_train.metrics.functional.text.questions import text_answers
from bias_train.records import TEXT, Record, record
from bias_train.stats import Bootstrap
from datamodules.lettering.canvas import SIDE, STYLES
from datamodules.lettering.fonts import DEFAULT
from datamodules.lettering.words import load_words
from models.embedded import RowCollector


class TextSpotting(ScheduledFigures):
    """Measures text spotting after every validation; `bias-train audit text` measures a finished retriever.

    Ranks share pictures and rendered words; texts are embedded and figures computed on rank 0. All figures are logged,
    as ``bias/text/NS`` or ``bias/text/overlay_t2i_drop@1``; those of single styles go to ``records.csv`` alone.

    Args:
        shards: sets of pictures with ``overlay`` or ``erased`` views (`bias-train synthesize overlay`, ``erase``).
        words: a file with a word a line, or a CSV whose first column they are; None takes the list that comes along.
        word_limit: at most this many words, evenly spread over the list; 0 renders none, None all.
        styles: background/ink of the rendered words; None takes the paper's four.
        reading: sets of pictures whose captions are about the text in them.
        pairs: sets of ordinary pictures and captions; none takes the clean pictures of ``shards``.
        attack: sets of labelled pictures with a wrong word on them.
        query: how a word that is written on a picture is asked for, with ``{word}``.
        word_prompt: how a rendered word is asked for; the bare word by default.
        label_prompt: how a class of ``attack`` is asked for, with ``{label}``.
        canvas: side of the rendered words' canvas in pixels; it is resized to what the retriever takes.
        points: em of their letters in pixels; None for 32 of 224, in proportion. Small retrievers need larger ones.
        font: of the rendered words.
        fit: shrink rendered words that are cut off otherwise.
        y: where rendered words stand, as a share of the canvas's height; in its middle as in the paper.
        ks: cut-offs of retrieval.
        limit: at most this many pictures of each, drawn at random; None takes all.
        batch_size: pictures at once on each rank.
        resamples: bootstrap resamples behind each interval; 0 for none.
        seed: of the choice under a limit and of resamples.
    """

    def __init__(
        self,
        shards: Sequence[str] = (),
        words: str | None = None,
        word_limit: int | None = 200,
        styles: Sequence[str] | None = None,
        reading: Sequence[str] = (),
        pairs: Sequence[str] = (),
        attack: Sequence[str] = (),
        query: str = "a photo of a {word}",
        word_prompt: str = "{word}",
        label_prompt: str = "a photo of a {label}",
        canvas: int = SIDE,
        points: float | None = None,
        font: str = DEFAULT,
        fit: bool = False,
        y: float = 0.5,
        ks: Sequence[int] = (1,),
        limit: int | None = None,
        batch_size: int = 64,
        resamples: int = 500,
        seed: int = 0,
    ) -> None:
        if not shards and not pairs:
            raise RunError("TextSpotting: shards is empty; name sets with overlay or erased views, or ordinary pairs")
        self.shards, self.pairs = tuple(shards), tuple(pairs)
        self.reading, self.attack = tuple(reading), tuple(attack)
        self.query, self.label_prompt = query, label_prompt
        self.options = TextOptions(
            ks=tuple(ks), bootstrap=Bootstrap(resamples=resamples, seed=seed) if resamples else None
        )
        self.rendering = None
        if word_limit is None or word_limit > 0:
            self.rendering = Rendering(
                limited(load_words(words), word_limit),
                styles=tuple(styles or STYLES),
                size=canvas,
                points=points,
                font=font,
                fit=fit,
                y=y,
                prompt=word_prompt,
            )
        self.limit, self.batch_size, self.seed = limit, batch_size, seed
        self._asked: TextSet | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the pictures, so that what is wrong with them is said before training.

        Raises:
            DataError: for shards that cannot be read or that hold nothing to ask with.
        """
        if self._asked is None:
            self._asked = text_set(
                self.shards, rendering=self.rendering, pairs=self.pairs, reading=self.reading, attack=self.attack,
                query=self.query, label_prompt=self.label_prompt, limit=self.limit, seed=self.seed,
            )  # fmt: skip

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Record]:
        """Embed the pictures on all ranks; measure on rank 0."""
        assert self._asked is not None
        asked, retriever = self._asked, _retriever(pl_module)
        image = embed_shared(trainer, pl_module, asked.pictures, self.batch_size, "pictures with text")
        if asked.rendering is not None:
            image = torch.cat([image, self._rendered(asked.rendering, trainer, pl_module)])
        if not trainer.is_global_zero:
            return []
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            text = embed_texts(retriever, asked.texts, device=pl_module.device)
        found = text_answers(asked.questions, image, text, ks=self.options.ks, bootstrap=self.options.bootstrap)
        return [record(figure, axis=TEXT, ratio=0.0, step=trainer.global_step) for figure in found.figures()]

    @torch.no_grad()
    def _rendered(self, rendering: Rendering, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Tensor:
        """Embed rendered words, each rank its part (a collective call): [S W, D] on every rank."""
        retriever = _retriever(pl_module)
        rows = RowCollector()
        with trainer.precision_plugin.forward_context():
            for part in rendering.batches(self.batch_size, trainer.global_rank, trainer.world_size):
                pictures = rendering.pictures(part, retriever.image_size).to(pl_module.device)
                rows.add(torch.from_numpy(part), retriever.encode_image(pictures))
        return rows.table(len(rendering), retriever.embed_dim, "rendered words", pl_module.device)


def _retriever(pl_module: pl.LightningModule) -> Any:
    return pl_module.retriever
