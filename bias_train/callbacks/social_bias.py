"""Social bias on schedule: whom neutral words retrieve from labelled pictures of people, while a retriever trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch

from bias_train.audit.social.measure import adjusted, attributes_of
from bias_train.audit.social.options import SocialOptions
from bias_train.callbacks.axis import ScheduledFigures
from bias_train.callbacks.shared_pictures import embed_shared
from bias_train.errors import RunError
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.social.word_bias import WordBias, word_bias
from bias_train.people.embed import embed_words, people_set
from bias_train.people.vectors import People
from bias_train.records import SOCIAL, Record, record
from bias_train.stats import Bootstrap
from datamodules.evaluation import EvaluationSet
from datamodules.groups import Grouping
from datamodules.taxonomy import Mode, Prompt, load_taxonomy, word_prompts

# Of all that an audit measures, what a curve over training needs.
LOGGED = ("entropy", "max_skew", "excess_max_skew", "min_skew", "ndkl", "abs_association", "bias")


class SocialBias(ScheduledFigures):
    """Measures social bias after every validation; `bias-train audit social` measures a finished retriever in full.

    Ranks share the pictures; words are embedded and figures computed on rank 0.

    Args:
        shards: sets of pictures whose samples say groups of people (`bias-train shards import faces`).
        attributes: what to group by, such as "gender" or "race x gender"; None takes every attribute, and race crossed
            with gender.
        minimum: groups with fewer pictures are left out.
        ks: cut-offs.
        target: shares that a query should show: "pool" or "uniform".
        words: a CSV of words of one's own; None takes the core words that come along.
        categories: keep these categories of words; None keeps all.
        words_per_category: at most this many words of each category, evenly spread over its list; None takes all.
        prompt_mode: wording of the queries, see :func:`datamodules.taxonomy.word_prompts`.
        limit: at most this many pictures, drawn at random; None takes all.
        batch_size: pictures at once on each rank.
        resamples: bootstrap resamples behind each interval; 0 for none.
        seed: of the choice under a limit, resamples and floor.
    """

    def __init__(
        self,
        shards: Sequence[str],
        attributes: Sequence[str] | None = None,
        minimum: int = 30,
        ks: Sequence[int] = (100,),
        target: Literal["pool", "uniform"] = "pool",
        words: str | None = None,
        categories: Sequence[str] | None = None,
        words_per_category: int | None = 10,
        prompt_mode: Mode = "article",
        limit: int | None = None,
        batch_size: int = 64,
        resamples: int = 200,
        seed: int = 0,
    ) -> None:
        if not shards:
            raise RunError("SocialBias: shards is empty; name sets of labelled pictures of people")
        if words_per_category is not None and words_per_category < 1:
            raise RunError(f"SocialBias: words_per_category is {words_per_category}; give 1 or more, or null for all")
        self.shards = tuple(shards)
        self.options = SocialOptions(
            attributes=None if attributes is None else tuple(attributes), minimum=minimum, ks=tuple(ks), target=target,
            seed=seed,
        )  # fmt: skip
        self.bootstrap = Bootstrap(resamples=resamples, seed=seed) if resamples else None
        self.prompts = _prompts(words, categories, words_per_category, prompt_mode)
        self.mode, self.limit, self.batch_size = prompt_mode, limit, batch_size
        self._asked: EvaluationSet | None = None
        self._groupings: tuple[Grouping, ...] = ()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the pictures, so that what is wrong with them is said before training.

        Raises:
            DataError: for shards that cannot be read or that hold nobody's group.
            RunError: for an attribute that the pictures do not carry, or of which one group has pictures.
        """
        if self._asked is None:
            self._asked, self._groupings = people_set(self.shards, limit=self.limit, seed=self.options.seed)
            self._divisions(People(torch.empty(len(self._asked), 0), self._asked.keys, self._groupings))

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Record]:
        """Embed the pictures on all ranks; measure on rank 0."""
        assert self._asked is not None
        retriever: Any = pl_module.retriever
        image = embed_shared(trainer, pl_module, self._asked, self.batch_size, "pictures of people")
        if not trainer.is_global_zero:
            return []
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            text = embed_words(retriever, self.prompts, device=pl_module.device).text
        eraser: Any = getattr(pl_module, "eraser", None)
        people = People(image if eraser is None else eraser.apply(image), self._asked.keys, self._groupings)
        records = []
        for grouping in self._divisions(people):
            known = grouping.known
            bias = word_bias(
                text,
                people.image[torch.from_numpy(known)],
                grouping.code[known],
                len(grouping),
                ks=self.options.ks,
                target=self.options.target_of(grouping.name, grouping.labels),
                bootstrap=self.bootstrap,
                seed=self.options.seed,
            )
            records += [
                replace(record(figure, axis=SOCIAL, ratio=0.0, step=trainer.global_step), label=grouping.name)
                for figure in self._figures(bias)
            ]
        return records

    def _divisions(self, people: People) -> list[Grouping]:
        found = [people.grouping(name, self.options.minimum) for name in attributes_of(people, self.options)]
        for grouping in found:
            if len(grouping) < 2:
                raise RunError(
                    f"SocialBias: {grouping.name}: only {', '.join(grouping.labels)} has {self.options.minimum} "
                    "pictures or more; bias is between groups"
                )
        return found

    def _figures(self, bias: WordBias) -> list[Figure]:
        figures = [figure for figure in bias.figures() if figure.name in LOGGED]
        p = adjusted(bias.p, self.options.adjust)
        tested = int(np.isfinite(p).sum())
        share = float((p <= self.options.alpha).sum() / tested) if tested else np.nan
        note = "share of words and groups that are tied beyond chance (bh)"
        return [*figures, Figure("significant", None, share, count=tested, note=note)]


def _prompts(words: str | None, categories: Sequence[str] | None, most: int | None, mode: Mode) -> tuple[Prompt, ...]:
    taxonomy = load_taxonomy(words, tiers=None if words else ("core",), categories=categories)
    kept = []
    for category in taxonomy.categories:
        entries = [entry for entry in taxonomy.entries if entry.category == category]
        spread = np.linspace(0, len(entries) - 1, min(most or len(entries), len(entries)))
        kept += [entries[row] for row in sorted({int(place) for place in spread.round()})]
    return word_prompts(kept, mode)
