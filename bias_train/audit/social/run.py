"""The audit of social bias, from embedded people and words to its outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from bias_train.audit.social.corpus import CorpusAssociation, corpus_association, rank_correlation
from bias_train.audit.social.correlation import word_correlation
from bias_train.audit.social.group_terms import GroupTerms
from bias_train.audit.social.guardrails import guardrails
from bias_train.audit.social.measure import (
    HEADLINE,
    Measured,
    attributes_of,
    cells,
    headline,
    mean_rows,
    measure,
    word_rows,
)
from bias_train.audit.social.options import SocialOptions
from bias_train.audit.social.outcome import PEOPLE, TRANSFER, Cell, Effect, Headline, Row, SocialOutcome
from bias_train.audit.social.side_effects import leakage, retention, utility
from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.inputs import is_normalised
from bias_train.metrics.functional.social.word_bias import difference
from bias_train.people.vectors import GroupPrompts, People, Words
from bias_train.stats import Ints
from datamodules.groups import CROSS


@dataclass(frozen=True)
class Subject:
    """What one retriever makes of people and queries.

    Attributes:
        people: pictures with their groups.
        words: neutral queries by wording; the first wording leads.
        prompts: queries that name groups, one entry for each attribute that has some.
        pairs: ordinary pictures with captions, to see whether they are still found.
    """

    people: People
    words: Mapping[str, Words]
    prompts: Sequence[GroupPrompts] = ()
    pairs: Embeddings | None = None


@dataclass(frozen=True)
class Corpus:
    """Captions in which words may be tied to groups.

    Attributes:
        captions: any number.
        terms: words that name groups.
        forms: of the words, by (category, word), such as a plural; a word without an entry has its own form only.
    """

    captions: Iterable[str]
    terms: GroupTerms
    forms: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


def audit_social(
    subject: Subject,
    options: SocialOptions | None = None,
    *,
    against: Subject | None = None,
    transfer: People | None = None,
    corpus: Corpus | None = None,
    title: str = "audit",
    inputs: Mapping[str, Any] | None = None,
    about_words: Mapping[str, Any] | None = None,
) -> SocialOutcome:
    """Audit whom neutral queries retrieve.

    Args:
        subject: the audited retriever's vectors.
        options: the choices; defaults where None.
        against: another retriever's vectors of the same pictures and queries, or this one's before a change; every
            figure's difference is then given, this minus that, on the same resamples.
        transfer: another set of people by the audited retriever, measured in the same way.
        corpus: captions that may hold the same associations.
        title: heading of the outputs.
        inputs: what was audited, for the record.
        about_words: where the words come from, for the record: version and digest.

    Raises:
        RunError: for vectors that cannot be audited, naming what is missing.
    """
    options = options or SocialOptions()
    attributes = attributes_of(subject.people, options)
    if not attributes:
        raise RunError("the pictures carry no attribute to group people by")
    before = None if against is None else aligned(against, subject)
    shared = [] if transfer is None else _shared(transfer, attributes)
    asked = [(PEOPLE, mode, attribute) for mode in subject.words for attribute in attributes]
    asked += [(TRANSFER, next(iter(subject.words)), attribute) for attribute in shared]
    everything: list[Measured] = []
    rows: list[Row] = []
    found: list[Cell] = []
    headlines: list[Headline] = []
    changes: list[Row] = []
    word_changes: list[Row] = []
    for name, mode, attribute in asked:
        searched = subject.people if name == PEOPLE or transfer is None else transfer
        one = measure(name, mode, searched, subject.words[mode], attribute, options)
        means, tied = mean_rows(one), cells(one, options)
        headlines.append(headline(one, means, tied, options))
        rows += means
        found += tied
        if before is not None and name == PEOPLE:
            earlier = measure(name, mode, before.people, before.words[mode], attribute, options)
            change = difference(one.bias, earlier.bias)
            changes += mean_rows(one, change)
            word_changes += word_rows(one, change, HEADLINE)
        # Draws of one are a hundred megabytes and more.
        everything.append(replace(one, bias=replace(one.bias, draws=None, association_draws=None)))
    measured = [one for one in everything if one.set == PEOPLE]
    others = [one for one in everything if one.set == TRANSFER]
    effects = _effects(subject, before, measured, others, options)
    associations: list[CorpusAssociation] = []
    if corpus is not None:
        first = [one for one in measured if one.mode == measured[0].mode]
        associations = _corpus(corpus, first)
        effects += _corpus_effects(associations, first, options)
        found = _with_corpus(found, associations, first)
    return SocialOutcome(
        title=title,
        inputs=dict(inputs or {}),
        options=asdict(options),
        conventions=_conventions(subject, measured, dict(about_words or {}), options),
        counts=_counts(subject, transfer, associations),
        headlines=tuple(headlines),
        rows=tuple(rows),
        words=tuple(row for one in everything for row in word_rows(one)),
        cells=tuple(found),
        effects=tuple(effects),
        changes=tuple(changes),
        word_changes=tuple(word_changes),
        warnings=tuple(guardrails(subject.people, subject.words, everything, associations, options)),
    )


def aligned(other: Subject, subject: Subject) -> Subject:
    """Put another retriever's vectors into the order of the audited ones: pictures by key, words by category and word.

    Raises:
        RunError: unless both hold the same pictures and the same words in the same wordings.
    """
    rows = _matched(subject.people.key, other.people.key, "pictures")
    people = replace(subject.people, image=other.people.image[torch.from_numpy(rows)])
    words = {}
    for mode, mine in subject.words.items():
        if mode not in other.words:
            raise RunError(f"--against: has no words in the wording {mode!r}; it has {', '.join(other.words)}")
        theirs = other.words[mode]
        # A file of another system may leave prompts out; where both have them, they must be the same.
        words[mode] = theirs.rows(_matched(mine.keys, theirs.keys, "words"))
        if all(mine.prompt) and all(theirs.prompt) and words[mode].prompt != mine.prompt:
            raise RunError("--against: asks with other prompts for the same words")
    return replace(other, people=people, words=words)


def _matched(wanted: Sequence[Any], given: Sequence[Any], what: str) -> Ints:
    place = {key: row for row, key in enumerate(given)}
    if len(place) < len(given) or len(set(wanted)) < len(wanted):
        raise RunError(f"--against: several {what} have one name, so that the two sides cannot be matched")
    missing = [key for key in wanted if key not in place]
    if missing:
        raise RunError(f"--against: {len(missing)} of {len(wanted)} {what} are missing there, such as {missing[0]!r}")
    return np.array([place[key] for key in wanted], dtype=np.int64)


def _shared(other: People, attributes: Sequence[str]) -> list[str]:
    found = [name for name in attributes if set(name.split(CROSS)) <= set(other.attributes)]
    if not found:
        raise RunError(f"--transfer: its pictures carry none of the attributes {', '.join(attributes)}")
    return found


def _effects(
    subject: Subject,
    before: Subject | None,
    measured: Sequence[Measured],
    others: Sequence[Measured],
    options: SocialOptions,
) -> list[Effect]:
    bootstrap, k = options.bootstrap, options.ks[:1]
    effects = []
    for prompts in subject.prompts:
        earlier = None if before is None else _of(before.prompts, prompts.attribute)
        effects += _beside(
            "retention",
            prompts.attribute,
            _retained(subject.people, prompts, k, options),
            [] if before is None or earlier is None else _retained(before.people, earlier, k, options),
        )
    for one in measured:
        if one.mode == measured[0].mode:
            now, *then = (
                leakage(side.people.image, one.grouping, seed=options.seed, bootstrap=bootstrap)
                for side in (subject, *(() if before is None else (before,)))
            )
            effects += _beside("leakage", one.attribute, now, then[0] if then else [])
    if subject.pairs is not None:
        earlier_pairs = None if before is None else before.pairs
        then_found = [] if earlier_pairs is None else _utility(earlier_pairs, options)
        effects += _beside("utility", "", _utility(subject.pairs, options), then_found)
    for other in others:
        one = next(one for one in measured if one.attribute == other.attribute)
        effects += _beside("transfer", one.attribute, transferred(one, other, options), [])
    return effects


def _retained(people: People, prompts: GroupPrompts, ks: Sequence[int], options: SocialOptions) -> list[Figure]:
    try:
        return retention(people, prompts, ks=ks, bootstrap=options.bootstrap)
    except ValueError as error:
        raise error if isinstance(error, RunError) else RunError(f"retention: {error}") from error


def _of(prompts: Sequence[GroupPrompts], attribute: str) -> GroupPrompts | None:
    return next((entry for entry in prompts if entry.attribute == attribute), None)


def _utility(pairs: Embeddings, options: SocialOptions) -> list[Figure]:
    if pairs.text is None:
        raise RunError("--pairs: holds no captions to ask with")
    query, image = torch.from_numpy(pairs.query_target), torch.from_numpy(pairs.image_target)
    figures = utility(pairs.text, pairs.image, query, image, bootstrap=options.bootstrap)
    return [figure for figure in figures if figure.name in ("t2i_R", "i2t_R")]


def transferred(one: Measured, other: Measured, options: SocialOptions) -> list[Figure]:
    """Whether words are tied to groups in another set as in the first: rank correlation of C-ASC over words."""
    labels = [label for label in one.grouping.labels if label in other.grouping.labels]
    if len(one.grouping) == len(other.grouping) == len(labels) == 2:
        labels = labels[:1]  # the second is its mirror image
    if not labels:
        return []
    mine, theirs = (
        side.bias.association[:, [side.grouping.labels.index(label) for label in labels]] for side in (one, other)
    )
    note = f"C-ASC in {len(other.grouping.code):,} pictures of the other set"
    rows = _distinct(one.words)
    return word_correlation("transfer_correlation", mine[rows], theirs[rows], labels, options.bootstrap, note)


def _beside(kind: str, attribute: str, now: Sequence[Figure], then: Sequence[Figure]) -> list[Effect]:
    """Figures with those of the other retriever beside them."""
    earlier = {(figure.name, figure.k, figure.label): figure.value for figure in then}
    return [
        Effect(
            kind, attribute, figure.name, figure.k, figure.label if figure.label not in (None, attribute) else "",
            figure.value, figure.low, figure.high, figure.count, figure.note,
            earlier.get((figure.name, figure.k, figure.label), np.nan),
        )
        for figure in now
    ]  # fmt: skip


def _distinct(words: Words) -> Ints:
    """Rows of the words, each once: a word of two categories is one word."""
    return np.unique(np.array(words.word), return_index=True)[1].astype(np.int64)


def _corpus(corpus: Corpus, measured: Sequence[Measured]) -> list[CorpusAssociation]:
    words = measured[0].words
    forms = [corpus.forms.get(key, (key[1],)) for key in words.keys]
    wanted = [(one.attribute, one.grouping.labels) for one in measured]
    return corpus_association(corpus.captions, forms, wanted, corpus.terms)


def _corpus_effects(
    associations: Sequence[CorpusAssociation], measured: Sequence[Measured], options: SocialOptions
) -> list[Effect]:
    effects = []
    for found in associations:
        one = next(one for one in measured if one.attribute == found.attribute)
        rows = _distinct(one.words)
        each = replace(found, mentions=found.mentions[rows], log_odds=found.log_odds[rows], z=found.z[rows])
        effects += _beside("corpus", found.attribute, rank_correlation(each, one.bias.association[rows],
                                                                       options.bootstrap), [])  # fmt: skip
    return effects


def _with_corpus(
    found: list[Cell], associations: Sequence[CorpusAssociation], measured: Sequence[Measured]
) -> list[Cell]:
    """Put what the captions say into the cells of the first wording."""
    known: dict[tuple[str, str, str, str], tuple[int, float, float]] = {}
    for entry in associations:
        for w, (category, word) in enumerate(measured[0].words.keys):
            for g, label in enumerate(entry.labels):
                known[entry.attribute, category, word, label] = (
                    int(entry.mentions[w, g]), float(entry.log_odds[w, g]), float(entry.z[w, g]),
                )  # fmt: skip
    filled = []
    for cell in found:
        said = known.get((cell.attribute, cell.category, cell.word, cell.group))
        if said is not None and (cell.set, cell.mode) == (PEOPLE, measured[0].mode):
            cell = replace(cell, mentions=said[0], log_odds=said[1], z=said[2])
        filled.append(cell)
    return filled


def _conventions(
    subject: Subject, measured: Sequence[Measured], about_words: dict[str, Any], options: SocialOptions
) -> dict[str, Any]:
    bias = measured[0].bias
    texts = [words.text for words in subject.words.values()]
    return {
        "scores": "cosines" if is_normalised(subject.people.image, *texts) else "dot products",
        "ks": list(options.ks),
        "target": {
            one.attribute: dict(zip(one.grouping.labels, one.bias.target.tolist(), strict=True)) for one in measured
        },
        "pool": {
            one.attribute: dict(zip(one.grouping.labels, one.bias.counts.tolist(), strict=True)) for one in measured
        },
        "ties": "tied pictures count in expectation over random order",
        "zero": bias.zero,
        "floor": f"a random retriever, from the pool's own counts ({bias.floor.draws:,} rankings)",
        "modes": list(subject.words),
        "words": about_words,
        "tests": {
            "p": f"{options.permutations:,} relabellings" if options.permutations
            else "a curve with the first three moments of all relabellings",
            "adjust": options.adjust,
            "family": "all words and groups of one attribute, in one set and wording",
            "alpha": options.alpha,
        },
        "intervals": asdict(options.bootstrap),
        "seed": options.seed,
        "notes": list(bias.notes),
    }  # fmt: skip


def _counts(subject: Subject, transfer: People | None, associations: Sequence[CorpusAssociation]) -> dict[str, Any]:
    words = next(iter(subject.words.values()))
    counts: dict[str, Any] = {
        "pictures": len(subject.people),
        "words": len(words),
        "categories": {name: words.category.count(name) for name in dict.fromkeys(words.category)},
    }
    if transfer is not None:
        counts["transfer"] = len(transfer)
    if associations:
        counts["captions"] = associations[0].captions
        counts["captions_naming"] = {
            found.attribute: dict(zip(found.labels, found.named.tolist(), strict=True)) for found in associations
        }
    return counts
