"""The prompts that losses on people read: neutral ones, and such as name a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from losses.draw import uniform_rows
from models.errors import ModelError

_DRAW = 0x70726F6D  # keeps the draw of prompts apart from others of the same seed and step


@dataclass
class PromptConfig:
    """Which prompts losses on people read.

    Attributes:
        neutral: queries that name no group, as they are.
        words: further neutral queries, written by `datamodules.taxonomy.word_prompts` of the words of a prompt set
            (``berg``, ``occupations``, ``stereotypes``, see `datamodules.taxonomy.PROMPT_SETS`) or of a CSV of words.
        groups: queries that name a group, by the group's name in ``data.attribute``. Empty takes those of
            ``groups_file``, and where that says none of the attribute, of `datamodules.taxonomy.group_prompts`.
        groups_file: a JSON file ``{attribute: {group: [query, ...]}}``.
        per_step: neutral queries drawn for each step, the same on all ranks; 0 takes all.
    """

    neutral: list[str] = field(default_factory=list)
    words: str | None = None
    groups: dict[str, list[str]] = field(default_factory=dict)
    groups_file: str | None = None
    per_step: int = 0

    def __post_init__(self) -> None:
        if self.per_step < 0:
            raise ModelError(f"model.prompts.per_step is {self.per_step}; give 0 for all prompts, or how many a step")

    def neutral_queries(self) -> list[str]:
        """All neutral queries; none where neither ``neutral`` nor ``words`` is set.

        Raises:
            DataError: for words that cannot be read.
            ModelError: for a query that stands twice.
        """
        found = list(self.neutral)
        if self.words is not None:
            # Only who names words by a file or a set needs the data's side.
            from datamodules.taxonomy import PROMPT_SETS, load_taxonomy, prompt_set, word_prompts

            taxonomy = prompt_set(self.words) if self.words in PROMPT_SETS else load_taxonomy(self.words, tiers=None)
            # A word of two categories is one query.
            found += dict.fromkeys(prompt.text for prompt in word_prompts(taxonomy.entries))
        if len(set(found)) < len(found):
            twice = next(query for query in found if found.count(query) > 1)
            raise ModelError(f"model.prompts: the neutral query {twice!r} stands twice; keep one of them")
        return found

    def queries_of_groups(self, attribute: str | None, labels: Sequence[str] | None) -> list[tuple[int, str]]:
        """Queries that name groups, each with the number of its group.

        Args:
            attribute: the data's, such as ``race x gender``; None where the data has none.
            labels: its groups in their order; None takes the order of ``groups``.

        Raises:
            DataError: for a group that has no words.
            ModelError: where ``groups`` are not the data's, or there is nothing to go by.
        """
        if self.groups:
            labels = list(self.groups) if labels is None else labels
            if set(labels) != set(self.groups):
                raise ModelError(
                    f"model.prompts.groups names {', '.join(self.groups)}, but the groups of data.attribute are "
                    f"{', '.join(labels)}: give queries for each of these and no others"
                )
            empty = next((label for label in labels if not self.groups[label]), None)
            if empty is not None:
                raise ModelError(f"model.prompts.groups.{empty} is empty: give a query that names the group")
            return [(code, query) for code, label in enumerate(labels) for query in self.groups[label]]
        if attribute is None or labels is None:
            raise ModelError(
                "a loss reads queries that name groups, but nothing says which groups: set model.prompts.groups, or "
                "take datamodules.faces.FacesDataModule"
            )
        from datamodules.taxonomy import group_prompts, load_group_prompts

        own = load_group_prompts(self.groups_file) if self.groups_file is not None else None
        code = {label: number for number, label in enumerate(labels)}
        return [(code[prompt.group], prompt.text) for prompt in group_prompts(attribute, labels, own=own)]


@dataclass
class Prompts:
    """The prompts as tokens, and which of them a step gets.

    Attributes:
        neutral: [K, L] int64.
        per_step: how many of them a step gets, 0 for all.
        of_groups: [V, L] int64, none at first.
        group: [V] int64, the group that each names.
    """

    neutral: Tensor
    per_step: int
    of_groups: Tensor
    group: Tensor

    @classmethod
    def of(cls, config: PromptConfig, tokenize: Callable[[Sequence[str]], Tensor]) -> Prompts:
        """Write the neutral ones out as tokens."""
        queries = config.neutral_queries()
        if config.per_step > len(queries):
            raise ModelError(
                f"model.prompts.per_step is {config.per_step}, but there are {len(queries)} neutral prompts"
            )
        none = torch.empty(0, 0, dtype=torch.int64)
        return cls(tokenize(queries) if queries else none, config.per_step, none, none[:, 0:0].flatten())

    def name_groups(self, queries: Sequence[tuple[int, str]], tokenize: Callable[[Sequence[str]], Tensor]) -> None:
        """Add those that name groups, of :meth:`PromptConfig.queries_of_groups`."""
        self.of_groups = tokenize([query for _, query in queries])
        self.group = torch.tensor([code for code, _ in queries], dtype=torch.int64)

    def drawn(self, seed: int, step: int) -> Tensor:
        """Rows of the neutral prompts that a step gets: [k] int64 in ascending order, a function of (seed, step)."""
        if not self.per_step:
            return torch.arange(len(self.neutral))
        order = torch.argsort(uniform_rows(len(self.neutral), seed=seed ^ _DRAW, step=step))
        return order[: self.per_step].sort().values
