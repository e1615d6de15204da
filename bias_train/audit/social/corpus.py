"""Do captions already tie words to groups? Log-odds in a corpus, beside a retriever's association.

For a word, the captions that mention it are compared with those that do not: how often either kind names a group.
The comparison is the log-odds ratio with an informative Dirichlet prior of Monroe, Colaresi and Quinn (2008,
"Fightin' Words", section 3.5): a word that few captions hold is drawn towards no association, by as much as a few
captions can say. Applied to groups as the vocabulary and to captions instead of word tokens, which is our own. The
rank correlation over words with the retriever's C-ASC asks whether the two go together; it shows no cause, and a
retriever may have learnt from other captions.

Shapes: W words, G groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bias_train.audit.social.correlation import word_correlation
from bias_train.audit.social.group_terms import GroupTerms, terms_of
from bias_train.audit.social.terms import TermIndex
from bias_train.metrics.figure import Figure
from bias_train.stats import Bootstrap, Floats, Ints

PRIOR = 10.0  # weight of the prior, in captions
FEWEST = 5  # captions that mention a word and name a group, for the word to stand in the correlation


@dataclass(frozen=True)
class CorpusAssociation:
    """How captions tie words to the groups of one attribute.

    Attributes:
        attribute: its name.
        labels: [G] groups.
        mentions: [W, G] int64 captions that mention the word and name the group; one that names two counts for both.
        named: [G] int64 captions that name the group.
        log_odds: [W, G] float64; above 0 where captions with the word name the group more often. NaN for a group that
            no caption names.
        z: [W, G] float64, log-odds over their standard error.
        captions: that were read.
        unnamed: groups without terms.
    """

    attribute: str
    labels: tuple[str, ...]
    mentions: Ints
    named: Ints
    log_odds: Floats
    z: Floats
    captions: int
    unnamed: tuple[str, ...]


def corpus_association(
    captions: Iterable[str],
    words: Sequence[Sequence[str]],
    attributes: Sequence[tuple[str, tuple[str, ...]]],
    terms: GroupTerms,
    prior: float = PRIOR,
) -> list[CorpusAssociation]:
    """Count words and groups in captions, in one pass.

    Args:
        captions: any number.
        words: [W] the forms of each word, such as ``["doctor", "doctors"]``.
        attributes: names with the labels of their groups.
        terms: words that name groups, by attribute and group.
        prior: weight of the prior, in captions.

    Returns:
        One for each attribute that has terms, in order.
    """
    wanted = [(name, labels, needed) for name, labels in attributes if (needed := terms_of(terms, name, labels))]
    # Each part of a crossed group is looked up once, whichever groups share it.
    lists = list(dict.fromkeys(part for _, _, needed in wanted for group in needed for part in group))
    number = {part: place for place, part in enumerate(lists)}
    groups = [[frozenset(number[part] for part in group) for group in needed] for _, _, needed in wanted]
    word_index, term_index = TermIndex(words), TermIndex(lists)
    mentions = [np.zeros((len(words), len(labels)), dtype=np.int64) for _, labels, _ in wanted]
    named = [np.zeros(len(labels), dtype=np.int64) for _, labels, _ in wanted]
    read = 0
    for caption in captions:
        read += 1
        present = term_index.mentioned(caption)
        if not present:
            continue
        held = sorted(word_index.mentioned(caption))
        for place, sets in enumerate(groups):
            found = [code for code, parts in enumerate(sets) if parts and parts <= present]
            named[place][found] += 1
            mentions[place][np.ix_(held, found)] += 1
    associations = []
    for place, (name, labels, needed) in enumerate(wanted):
        odds, z = log_odds(mentions[place], named[place], prior)
        unnamed = tuple(label for label, parts in zip(labels, needed, strict=True) if not parts)
        associations.append(
            CorpusAssociation(name, labels, mentions[place], named[place], odds, z, read, unnamed)
        )  # fmt: skip
    return associations


def log_odds(mentions: Ints, named: Ints, prior: float = PRIOR) -> tuple[Floats, Floats]:
    """Log-odds ratio of each group among captions with a word against captions without it.

    With y the captions of one side that name the group, n those that name any (summed over groups), and the prior's
    weight a shared out as the groups are in all captions, each side's log-odds are ln((y + a_g) / (n + a - y - a_g)),
    with the variance 1/(y + a_g) + 1/(n + a - y - a_g) (Monroe et al. 2008, section 3.5; they drop the second term,
    which is small for a word among thousands, but not for a group among a few).

    Args:
        mentions: [W, G] captions with the word that name the group.
        named: [G] captions that name the group.
        prior: its weight a, above 0.

    Returns:
        ``(log_odds, z)``, [W, G] each; NaN for a group that no caption names, and where there is no other.

    Raises:
        ValueError: for a prior that is not positive, or more mentions than captions.

    Example: nine of ten captions with the word name the first group, half of all do.

    >>> odds, z = log_odds(np.array([[9, 1]]), np.array([50, 50]), prior=10.0)
    >>> odds.round(2).tolist(), z.round(1).tolist()
    ([[1.01, -1.01]], [[1.9, -1.9]])
    """
    if not prior > 0:
        raise ValueError(f"prior is {prior}; its weight must be above 0, such as {PRIOR:g}")
    if (mentions > named).any():
        raise ValueError("more captions hold a word and name a group than name the group at all")
    total = float(named.sum())
    share = prior * named / total if total else np.zeros(len(named))
    inside, outside = mentions.astype(np.float64), (named - mentions).astype(np.float64)

    def side(count: Floats) -> tuple[Floats, Floats]:
        yes = count + share
        no = count.sum(axis=-1, keepdims=True) + prior - yes
        return np.log(yes / no), 1.0 / yes + 1.0 / no

    with np.errstate(divide="ignore", invalid="ignore"):
        (with_word, variance), (without, other) = side(inside), side(outside)
        odds = with_word - without
        z = odds / np.sqrt(variance + other)
    bad = ~np.isfinite(odds) | ~np.isfinite(z)
    return np.where(bad, np.nan, odds), np.where(bad, np.nan, z)


def rank_correlation(corpus: CorpusAssociation, association: Floats, bootstrap: Bootstrap) -> list[Figure]:
    """Spearman's correlation over words of the captions' log-odds with a retriever's association.

    Words that fewer than five captions mention together with a group are left out. Of two groups, one is the other's
    mirror image: only the first is given.

    Args:
        corpus: of the same words and groups.
        association: [W, G] C-ASC of the retriever.
        bootstrap: how the intervals are made.

    Returns:
        ``corpus_correlation``, see :func:`~bias_train.audit.social.correlation.word_correlation`.
    """
    enough = corpus.mentions.sum(axis=1) >= FEWEST
    labels = corpus.labels[:1] if len(corpus.labels) == 2 else corpus.labels
    x, y = np.where(enough[:, None], corpus.log_odds, np.nan), association
    note = f"words that {FEWEST} captions or more mention with a group"
    return word_correlation("corpus_correlation", x, y, labels, bootstrap, note)
