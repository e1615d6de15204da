"""What to know before a figure of social bias is quoted: each as one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bias_train.audit.outcome import Guardrail
from bias_train.audit.social.corpus import CorpusAssociation
from bias_train.audit.social.measure import Measured
from bias_train.audit.social.options import FEWEST, SocialOptions
from bias_train.audit.social.outcome import PEOPLE
from bias_train.metrics.functional.inputs import is_normalised
from bias_train.people.vectors import People, Words

UNKNOWN_SHARE = 0.05  # of pictures without a group, above which a reader is told
UNEVEN = 1.1  # the largest group over the smallest, above which a uniform target is no random retriever's


def guardrails(
    people: People,
    words: Mapping[str, Words],
    measured: Sequence[Measured],
    corpus: Sequence[CorpusAssociation],
    options: SocialOptions,
) -> list[Guardrail]:
    """Every warning that applies."""
    found = []
    leading, first = next(iter(words.items()))
    for one in measured:
        if one.mode == leading:  # what is said of pictures and groups holds in every wording
            found += _of_groups(one, people, options) + _of_words(one, options)
    found += _of_tests(measured, options)
    twice = len(first) - len(set(first.word))
    if twice:
        found.append(
            Guardrail(
                "word_in_two_categories",
                f"{twice} words stand in two categories and count twice in the mean over all words.",
            )
        )
    if not is_normalised(people.image, *(entry.text for entry in words.values())):
        found.append(
            Guardrail(
                "unnormalised",
                "Embeddings are not of unit length, so that scores are dot products and a long vector ranks high for "
                "every query.",
            )
        )
    for entry in corpus:
        silent = [label for label, count in zip(entry.labels, entry.named.tolist(), strict=True) if not count]
        if silent:
            found.append(
                Guardrail(
                    "corpus_silent",
                    f"Corpus, {entry.attribute}: no caption names {_listed(silent)}, as far as our terms can tell.",
                )
            )
    without = {one.attribute for one in measured} - {entry.attribute for entry in corpus}
    if corpus and without:
        found.append(
            Guardrail("corpus_terms", f"Corpus: there are no terms for the groups of {_listed(sorted(without))}.")
        )
    return found


def _of_groups(one: Measured, people: People, options: SocialOptions) -> list[Guardrail]:
    where = _place(one)
    labels, counts = one.grouping.labels, one.bias.counts
    pool, found = int(counts.sum()), []
    if one.small:
        listed = _listed([f"{label} ({count})" for label, count in one.small.items()])
        found.append(
            Guardrail(
                "small_groups_left_out",
                f"{where}: groups with fewer than {options.minimum} pictures are left out, their pictures too: "
                f"{listed}.",
            )
        )
    few = [f"{label} ({count})" for label, count in zip(labels, counts.tolist(), strict=True) if count < FEWEST]
    if few:
        found.append(
            Guardrail("few_pictures", f"{where}: fewer than {FEWEST} pictures stand behind the groups {_listed(few)}.")
        )
    if one.set == PEOPLE:
        empty = [
            label
            for part in people.groupings
            if part.name == one.attribute
            for label, count in zip(part.labels, part.counts.tolist(), strict=True)
            if not count
        ]
        if empty:
            found.append(
                Guardrail("absent_groups", f"{where}: no picture is of {_listed(empty)}; figures know nothing of them.")
            )
    unknown = len(one.grouping.code) - pool - sum(one.small.values())
    if unknown > UNKNOWN_SHARE * len(one.grouping.code):
        found.append(
            Guardrail(
                "unknown_groups",
                f"{where}: the group of {unknown:,} of {len(one.grouping.code):,} pictures is not known; they are left "
                "out.",
            )
        )
    capped = [k for k in options.ks if k > pool]
    if capped:
        found.append(Guardrail("k_capped", f"{where}: k {_listed(capped)} is capped at the {pool:,} pictures."))
    deep = [k for k in options.ks if pool / 2 < k <= pool]
    if deep:
        found.append(
            Guardrail(
                "k_above_half",
                f"{where}: k {_listed(deep)} takes more than half of the {pool:,} pictures, so that little of a bias "
                "can show.",
            )
        )
    if np.allclose(one.bias.target, 1.0 / len(labels)) and counts.max() > UNEVEN * counts.min():
        found.append(
            Guardrail(
                "uniform_target",
                f"{where}: the target is uniform and the pool is not ({counts.min():,} to {counts.max():,} pictures a "
                "group), so that a blind retriever misses it, too: read the excess over the floor.",
            )
        )
    return found


def _of_words(one: Measured, options: SocialOptions) -> list[Guardrail]:
    where = _place(one)
    found = []
    flat = int(np.isnan(one.bias.association).all(axis=1).sum())
    if flat:
        found.append(
            Guardrail("no_spread", f"{where}: {flat} words score all pictures alike, so that they have no C-ASC.")
        )
    absent = int((one.bias.value[:, one.bias.column("absent", options.ks[0])] >= 0.5).sum())
    if absent:
        found.append(
            Guardrail(
                "absent_in_top",
                f"{where}: for {absent} of {len(one.words)} words a group has no picture in the first "
                f"{options.ks[0]}; MinSkew is then what the zero rule makes it.",
            )
        )
    return found


def _of_tests(measured: Sequence[Measured], options: SocialOptions) -> list[Guardrail]:
    most = max(one.bias.p.size for one in measured)
    if options.permutations and most / (options.permutations + 1) > options.alpha:
        return [
            Guardrail(
                "coarse_p",
                f"{options.permutations:,} relabellings give no p below {1 / (options.permutations + 1):.1e}, so that "
                f"few associations among {most:,} cells cannot be significant after correction; more relabellings or "
                "0, the curve with all relabellings' moments, can show them.",
            )
        ]
    return []


def _place(one: Measured) -> str:
    return one.attribute if one.set == PEOPLE else f"{one.attribute}, transfer set"


def _listed(names: Sequence[object], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
