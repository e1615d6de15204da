"""The lists of words that others ask with, as far as they are public, and one of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from datamodules.errors import DataError
from datamodules.taxonomy.words import Taxonomy, load_taxonomy, packaged_taxonomy

# All are asked in this project's wording (`prompts.word_prompts`), so that figures are not those of the works named.
PROMPT_SETS: Mapping[str, Callable[[], Taxonomy]] = {
    # So-B-IT's kind of words (arXiv 2411.00997).
    "words": load_taxonomy,
    # 29 concepts (Berg et al., arXiv 2203.11933).
    "berg": lambda: packaged_taxonomy("berg"),
    # Five pairs of opposites (Chuang et al., arXiv 2302.00070).
    "opposites": lambda: packaged_taxonomy("opposites"),
    # The 25 stereotypes that BendVLM (arXiv 2411.04420) asks with, all of them words on crime.
    "stereotypes": lambda: _seen_in(packaged_taxonomy("words"), "BEND"),
    "occupations": lambda: load_taxonomy(categories=("occupation",)),
    # Everyday activities, our own list.
    "activities": lambda: packaged_taxonomy("activities"),
}


def prompt_set(name: str) -> Taxonomy:
    """One of `PROMPT_SETS`.

    Raises:
        DataError: for another name.

    >>> [len(prompt_set(name)) for name in ("berg", "opposites", "stereotypes")]
    [29, 10, 25]
    """
    if name not in PROMPT_SETS:
        raise DataError(f"there is no prompt set {name!r}; choose {', '.join(PROMPT_SETS)}, or give a CSV of words")
    return replace(PROMPT_SETS[name](), name=name)


def _seen_in(whole: Taxonomy, source: str) -> Taxonomy:
    return replace(whole, entries=tuple(entry for entry in whole.entries if source in entry.seen_in))
