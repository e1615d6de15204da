"""What a change against social bias may cost, or leave where it was: the figures to read beside every remedy.

- :func:`utility`: are ordinary pictures and captions still found?
- :func:`retention`: does a query that names a group, "a female doctor", still retrieve that group?
- :func:`leakage`: can a linear classifier still read the attribute off the vectors?
- :func:`off_target`: what happened to the attributes that the remedy was not fitted to?

Every function takes finished vectors and gives :class:`~bias_train.metrics.figure.Figure` records, so that they can
be measured before and after and set side by side. Shapes: M pictures, W or V queries, D wide, G groups, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.linear_probe import weighted_auc, whitening
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.inputs import check_cutoffs, check_embeddings
from bias_train.metrics.functional.ranking import score_chunks
from bias_train.metrics.functional.resampled_gallery import resampled_top_counts
from bias_train.metrics.functional.retrieval import retrieval
from bias_train.metrics.functional.social.word_bias import word_bias
from bias_train.stats import Bootstrap, Floats, Ints, clustered_bootstrap, interval, resample_counts
from datamodules.groups import CROSS, Grouping

if TYPE_CHECKING:
    from bias_train.people.vectors import GroupPrompts, People


def utility(
    text: Tensor,
    image: Tensor,
    query_target: Tensor,
    image_target: Tensor,
    *,
    ks: Sequence[int] = (1, 5, 10),
    bootstrap: Bootstrap | None = None,
) -> list[Figure]:
    """Retrieval of an ordinary pair set in both directions, see :func:`bias_train.metrics.functional.retrieval`.

    Args:
        text: [Q, D] float captions, mapped as a remedy maps queries.
        image: [N, D] float pictures, mapped as it maps pictures.
        query_target: [Q] integers; a caption and a picture belong together where their targets are equal.
        image_target: [N] integers.
        ks: cut-offs.
        bootstrap: how intervals are made; None for none.

    Raises:
        ValueError: for vectors that are empty, not finite or zero, or targets that do not fit.
    """
    return retrieval(text, image, query_target, image_target, ks=ks, bootstrap=bootstrap)


def retention(
    people: People,
    prompts: GroupPrompts,
    *,
    ks: Sequence[int] = (100,),
    bootstrap: Bootstrap | None = None,
    ranking: Ints | None = None,
) -> list[Figure]:
    """Whether queries that name a group still retrieve it: "a female doctor" shows women, whatever "a doctor" shows.

    Own construction. A remedy that makes every query blind to the group lowers the skew of neutral queries, and breaks
    these.

    - ``retention@k``: mean over prompts of the share of the top k that belongs to the named group. k is capped at the
      group's pictures, so that 1 can be reached.
    - ``retention_pool@k``: mean over prompts of the named group's share in the pool: what a blind query reaches.
    - ``retention_lift@k``: (retention - pool) / (1 - pool) of the two means: 1 where only the named group is shown, 0
      where naming it changes nothing.

    Ties are taken in expectation over random order. Intervals resample the pictures within each group.

    Args:
        people: M pictures with the attribute that the prompts name. Pictures whose group is unknown are left out.
        prompts: V prompts with the group that each names.
        ks: cut-offs.
        bootstrap: how intervals are made; None for none.
        ranking: [V, M] int64, all pictures from the first to the last for each prompt, where something other than
            scores orders them; None ranks by score.

    Returns:
        Three figures for every k, ``label`` being the attribute and ``count`` the prompts.

    Raises:
        ValueError: where no prompt names a group that has pictures.
        DataError: for an attribute that the pictures do not carry.
    """
    check_cutoffs("ks", tuple(ks))
    grouping = people.grouping(prompts.attribute)
    code = {label: number for number, label in enumerate(grouping.labels)}
    asked = np.array([row for row, name in enumerate(prompts.group) if name in code], dtype=np.int64)
    if len(asked) == 0:
        raise ValueError(f"no prompt names a group of {prompts.attribute!r} that has pictures")
    named = np.array([code[prompts.group[row]] for row in asked], dtype=np.int64)
    known = np.flatnonzero(grouping.known)
    group, counts = grouping.code[known], grouping.counts
    image = people.image[torch.from_numpy(known)]
    check_embeddings(prompts=prompts.text, image=image)
    scores = _scores(prompts.text[torch.from_numpy(asked)], image, ranking, asked, known)
    draws = [np.ones((1, len(group)), dtype=np.uint8)]  # the data themselves
    if bootstrap is not None:  # no picture is drawn 256 times where thousands are
        draws += [block.astype(np.uint8) for block in resample_counts(len(group), bootstrap, strata=group)]
    drawn = np.ascontiguousarray(np.concatenate(draws).T)
    share = np.zeros((len(asked), len(ks), drawn.shape[1]))
    for row, label in enumerate(named):
        mine = group == label
        cuts = [min(k, int(counts[label])) for k in ks]
        top = resampled_top_counts(scores[row], mine, mine, drawn, tuple(sorted(set(cuts))))
        for place, k in enumerate(cuts):
            share[row, place] = top[k].shown / k
    pool = float((counts[named] / counts.sum()).mean())
    left = len(prompts.group) - len(asked)
    notes = [
        "cut-off capped at the named group's pictures",
        "ties in expectation",
        f"{left} prompts of groups without pictures left out" if left else "",
    ]
    note = "; ".join(part for part in notes if part)
    found = []
    for place, k in enumerate(ks):
        mean = share[:, place].mean(axis=0)
        lift = (mean - pool) / (1.0 - pool) if pool < 1.0 else np.full(mean.shape, np.nan)
        for name, values in (("retention", mean), ("retention_lift", lift)):
            low, high = _ends(values, bootstrap)
            found.append(Figure(name, k, float(values[0]), low, high, len(asked), note, prompts.attribute))
        found.append(Figure("retention_pool", k, pool, count=len(asked), note=note, label=prompts.attribute))
    return found


def _scores(text: Tensor, image: Tensor, ranking: Ints | None, asked: Ints, known: Ints) -> NDArray[np.float32]:
    """[V, M] scores of the known pictures; for a ranking, the place from the end."""
    if ranking is None:
        return np.concatenate([scores.numpy() for _, scores in score_chunks(text, image)])
    place = np.empty(ranking.shape, dtype=np.int64)
    np.put_along_axis(place, ranking, np.arange(ranking.shape[1])[None, :], axis=1)
    return (-place[asked][:, known]).astype(np.float32)


def _ends(values: Floats, bootstrap: Bootstrap | None) -> tuple[float, float]:
    """Ends of the interval of a figure whose first value is that of the data and whose others are resamples."""
    if bootstrap is None:
        return np.nan, np.nan
    made = interval(values[:1], values[1:, None], bootstrap)
    return float(made.low[0]), float(made.high[0])


def leakage(image: Tensor, grouping: Grouping, *, seed: int = 0, bootstrap: Bootstrap | None = None) -> list[Figure]:
    """How well a linear classifier reads the group off the vectors, fitted on one half and measured on the other.

    The classifier is linear discriminant analysis with the shrunk covariance of :mod:`bias_train.linear_probe`. A low
    figure says that no such classifier finds the attribute, not that it is gone: other classifiers may find it.

    - ``leakage_accuracy``: share of held-out pictures that are put into their group.
    - ``leakage_majority``: share of the largest group among them: what a classifier that sees nothing reaches.
    - ``leakage_auc``: mean over groups of the area under the ROC curve of that group against the rest; 0.5 is chance.

    Args:
        image: [M, D] float pictures.
        grouping: of the M pictures; those of unknown group, and groups with fewer than four pictures, are left out.
        seed: of the halves, which are drawn within each group.
        bootstrap: how the interval of the accuracy is made (held-out pictures are resampled, the classifier stays);
            None for none.

    Returns:
        The three figures; ``label`` is the attribute, ``count`` the held-out pictures.

    Raises:
        ValueError: where fewer than two groups have four pictures.
    """
    check_embeddings(image=image)
    kept = np.flatnonzero(grouping.counts >= _FEWEST)
    if len(kept) < 2:
        raise ValueError(
            f"{grouping.name}: fewer than two groups have {_FEWEST} pictures to fit and test a classifier on"
        )
    rows = np.flatnonzero(np.isin(grouping.code, kept))
    group = np.searchsorted(kept, grouping.code[rows])
    vectors = image[torch.from_numpy(rows)].double().cpu().numpy()
    train = _half(group, seed)
    scores = _discriminant(vectors[train], group[train], len(kept), vectors[~train])
    truth = group[~train]
    hit = (scores.argmax(axis=1) == truth).astype(np.float64)
    majority = float(np.bincount(truth).max() / len(truth))
    auc = []
    for label in range(len(kept)):
        rest = np.delete(scores, label, axis=1)
        top = rest.max(axis=1, keepdims=True)
        # Log-odds of the group against all others, of which the scores are log-probabilities but for a constant.
        odds = scores[:, label] - top[:, 0] - np.log(np.exp(rest - top).sum(axis=1))
        won, pairs = weighted_auc(odds, truth == label, np.ones(len(truth)))
        auc.append(won / pairs)
    low = high = np.nan
    if bootstrap is not None:
        totals = np.column_stack([hit, np.ones(len(hit))])
        made = clustered_bootstrap(totals, lambda sums: sums[..., :1] / sums[..., 1:], bootstrap)
        low, high = float(made.low[0]), float(made.high[0])
    left = len(grouping.code) - len(rows)
    note = "linear discriminant fitted on the other half" + (f"; {left} pictures left out" if left else "")
    about: dict[str, Any] = {"count": len(truth), "note": note, "label": grouping.name}
    return [
        Figure("leakage_accuracy", None, float(hit.mean()), low, high, **about),
        Figure("leakage_majority", None, majority, **about),
        Figure("leakage_auc", None, float(np.mean(auc)), **about),
    ]


_FEWEST = 4  # pictures of a group, so that either half has two


def _half(group: Ints, seed: int) -> NDArray[np.bool_]:
    """[M] a random half of each group, rounded down."""
    order = np.random.default_rng(seed).permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]
    sizes = np.bincount(group)
    place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    train = np.empty(len(group), dtype=bool)
    train[order] = place < np.repeat(sizes // 2, sizes)
    return train


def _discriminant(train: Floats, group: Ints, groups: int, test: Floats) -> Floats:
    """[n, G] log-probabilities of each group but for a constant, by linear discriminant analysis.

    Unlike the probe of two sources, which needs a direction only, a choice among several groups needs the covariance
    within them.
    """
    size = np.bincount(group, minlength=groups)
    means = np.stack([train[group == label].mean(axis=0) for label in range(groups)])
    weights = means @ whitening(train - means[group])
    return test @ weights.T - 0.5 * (weights * means).sum(axis=1) + np.log(size / len(group))


def off_target(
    text: Tensor,
    people: People,
    fitted: str,
    *,
    ks: Sequence[int] = (100,),
    target: Literal["pool", "uniform"] = "pool",
    bootstrap: Bootstrap | None = None,
    ranking: Ints | None = None,
    seed: int = 0,
) -> list[Figure]:
    """Social bias of neutral queries by the attributes that a remedy was not fitted to.

    Args:
        text: [W, D] neutral queries, mapped as the remedy maps them.
        people: pictures, mapped likewise, with all their attributes.
        fitted: attribute that the remedy was fitted to, such as ``"gender"`` or ``"race x gender"``; it and its parts
            are left out.
        ks: cut-offs.
        target: "pool" or "uniform".
        bootstrap: how intervals over pictures are made; None for none.
        ranking: [W, M] int64 where something other than scores orders the pictures.
        seed: of the random retriever's floor.

    Returns:
        For each other attribute, with its name as ``label``: ``excess_max_skew@k``, mean over words of MaxSkew less
        the mean of a random retriever, and ``abs_association``, mean over words and groups of ``|C-ASC|``. Empty where
        there is no other attribute. Attributes of which one group only has pictures are left out.

    Raises:
        ValueError: see :func:`bias_train.metrics.functional.social.word_bias.word_bias`.
    """
    found: list[Figure] = []
    parts = fitted.split(CROSS)
    for name in people.attributes:
        grouping = people.grouping(name)
        if name in parts or len(grouping) < 2:
            continue
        known = grouping.known
        bias = word_bias(
            text, people.image[torch.from_numpy(known)], grouping.code[known], len(grouping), ks=ks, target=target,
            bootstrap=bootstrap, ranking=None if ranking is None else ranking_of(ranking, known), seed=seed,
        )  # fmt: skip
        chosen = [figure for figure in bias.figures() if figure.name in ("excess_max_skew", "abs_association")]
        found += [replace(figure, label=name) for figure in chosen]
    return found


def ranking_of(ranking: Ints, kept: NDArray[np.bool_]) -> Ints:
    """Leave pictures out of rankings.

    Args:
        ranking: [W, M] int64 rows of pictures, best first.
        kept: [M] whether a picture stays.

    Returns:
        [W, n] int64 rows among the n that stay, in the same order.
    """
    number = np.cumsum(kept) - 1
    return np.asarray(number[ranking[kept[ranking]]].reshape(len(ranking), -1))
