"""Whom neutral words retrieve: every figure of every word, with its floor, its interval and its test.

Legend of the shapes: W words, M pictures, G groups, K cut-offs, B resamples, F figures.

Intervals. Pictures are resampled within their group, the words stay. A resample adds to a figure such as MaxSkew or
entropy the same kind of upward (or downward) bias that the sample itself has against an unlimited pool: percentiles of
the raw draws lie beside the value, and for a mean over many words they do not even contain it. So draws are shifted
until their mean is the value; what they then describe is how the figure scatters at this size of pool, which is what
the floor is subtracted from. Own construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.inputs import check_cutoffs, check_embeddings, is_normalised
from bias_train.metrics.functional.ranking import score_chunks
from bias_train.metrics.functional.social.association import group_sums, permutation_p, scale, standardised
from bias_train.metrics.functional.social.floors import Floor, association_figures, random_floor
from bias_train.metrics.functional.social.representation import (
    Name,
    Target,
    Zero,
    check_zero,
    figure_limits,
    ndkl_of_positions,
    skew,
    target_shares,
    top_positions,
)
from bias_train.metrics.functional.social.word_resamples import Drawn, WordTask, percentiles, resampled_words
from bias_train.stats import Bootstrap, Floats, Interval, Ints, interval, resample_counts

__all__ = ["FEW", "WordBias", "WordFigures", "difference", "percentiles", "word_bias"]

# A group of fewer pictures is flagged: its figures say little.
FEW = 30


@dataclass(frozen=True)
class WordFigures:
    """Figures of every word on the data and, with a bootstrap, on its resamples.

    Attributes:
        names: F figures, (name, k); k as it was asked for, None for figures of all scores.
        value: [W, F] float64.
        low: [W, F] lower ends over pictures, NaN without a bootstrap.
        high: [W, F] upper ends.
        draws: [B, W, F] float32 on resamples of the pictures, shifted so that their mean is the value; or None.
        bootstrap: how they were made, or None.
        limits: [2, F] least and largest value that a figure can take: no interval goes beyond.
    """

    names: tuple[Name, ...]
    value: Floats
    low: Floats
    high: Floats
    draws: NDArray[np.float32] | None
    bootstrap: Bootstrap | None
    limits: Floats

    def column(self, name: str, k: int | None) -> int:
        """The column of a figure.

        Raises:
            ValueError: for a figure that is not there, naming those that are.
        """
        if (name, k) not in self.names:
            there = ", ".join(name if k is None else f"{name}@{k}" for name, k in self.names)
            raise ValueError(f"there is no figure {name if k is None else f'{name}@{k}'}; there are {there}")
        return self.names.index((name, k))

    def mean(self, rows: NDArray[Any] | None = None, *, over_words: bool = False) -> Interval:
        """Mean over words, those of a category for instance.

        Args:
            rows: the words, as integers or a mask [W]; None for all.
            over_words: the interval speaks of words like these instead of these words: every resample of the pictures
                goes with one of the words (with replacement). Scatter that a word owes to the pictures then counts
                among the pictures and among the words, so that the interval is rather too wide than too narrow.

        Returns:
            [F] each; words in which a figure is undefined are left out of it, and ends are NaN without a bootstrap.

        Raises:
            ValueError: for no words.
        """
        chosen = np.arange(len(self.value)) if rows is None else np.arange(len(self.value))[rows]
        if len(chosen) == 0:
            raise ValueError("a mean over words needs at least one word, and none was chosen")
        value = _mean_over(self.value[chosen], np.ones((1, len(chosen))))[0]
        if self.draws is None or self.bootstrap is None:
            missing = np.full(value.shape, np.nan)
            return Interval(value, missing, missing, missing)
        if over_words:
            # Another seed than that of the pictures, or words and pictures would be drawn alike.
            words = replace(self.bootstrap, seed=self.bootstrap.seed + 1)
            weight = np.concatenate(list(resample_counts(len(chosen), words)))
        else:
            weight = np.ones((1, len(chosen)))
        found = interval(value, _mean_over(self.draws[:, chosen], weight), self.bootstrap)
        return replace(found, low=np.maximum(found.low, self.limits[0]), high=np.minimum(found.high, self.limits[1]))


@dataclass(frozen=True)
class WordBias(WordFigures):
    """All that `word_bias` finds.

    Attributes:
        floor: of a random retriever for one word; ``excess`` is the value above its mean.
        ks: K cut-offs as they were asked for.
        share: [W, K, G] float64 shares of the groups among the first k.
        share_low: [W, K, G] lower ends over pictures, NaN without a bootstrap.
        share_high: [W, K, G] upper ends.
        association: [W, G] C-ASC, signed; NaN for a group without pictures and for a word with one score for all.
        association_low: [W, G] lower ends over pictures, NaN without a bootstrap.
        association_high: [W, G] upper ends.
        association_draws: [B, W, G] float32 on the same resamples, as they fall; or None.
        p: [W, G] two-sided p-values of no association of a word's scores with a group, NaN where that is undefined.
        counts: [G] int64 pictures of each group.
        target: [G] float64 wanted shares.
        zero: rule for absent groups.
        notes: conventions and flags that hold for all figures.
    """

    floor: Floor
    ks: tuple[int, ...]
    share: Floats
    share_low: Floats
    share_high: Floats
    association: Floats
    association_low: Floats
    association_high: Floats
    association_draws: NDArray[np.float32] | None
    p: Floats
    counts: Ints
    target: Floats
    zero: Zero
    notes: tuple[str, ...]

    @property
    def excess(self) -> Floats:
        """[W, F] values above the floor's mean; its ends are ``low`` and ``high`` less the same."""
        return self.value - self.floor.mean

    def skew(self) -> Interval:
        """Skew of each group, [W, K, G] each, from the shares and their ends, of which it is an increasing function."""
        total = [min(k, int(self.counts.sum())) for k in self.ks]
        found = [
            np.stack([skew(part[:, i] * k, k, self.target, self.zero) for i, k in enumerate(total)], axis=1)
            for part in (self.share, self.share_low, self.share_high)
        ]
        return Interval(found[0], found[1], found[2], np.zeros(found[0].shape))

    def figures(
        self, rows: NDArray[Any] | None = None, *, label: str | None = None, over_words: bool = False
    ) -> list[Figure]:
        """Means over words as records: every figure, and ``excess_...`` of it above the floor's mean.

        Args:
            rows: the words; None for all.
            label: what the words are, such as a category.
            over_words: see `WordFigures.mean`.
        """
        found = self.mean(rows, over_words=over_words)
        chosen = self.value if rows is None else self.value[rows]
        defined = (~np.isnan(chosen)).sum(axis=0)
        speaks = "words like these" if over_words else "these words"
        notes = ["mean over words", *self.notes]
        if self.draws is not None:
            notes.append(f"interval over pictures, for {speaks}")
        figures = []
        for f, (name, k) in enumerate(self.names):
            mean, low, high = (float(part[f]) for part in (self.floor.mean, self.floor.low, self.floor.high))
            own = [f"a random retriever has {mean:.4g}, one word of it {low:.4g} to {high:.4g}"]
            if defined[f] < len(chosen):
                own.append(f"undefined for {len(chosen) - defined[f]} words, which are left out")
            note = "; ".join(own + notes)
            value, first, last = (float(part[f]) for part in (found.value, found.low, found.high))
            figures.append(Figure(name, k, value, first, last, int(defined[f]), note, label))
            figures.append(
                Figure(f"excess_{name}", k, value - mean, first - mean, last - mean, int(defined[f]), note, label)
            )
        return figures


def word_bias(
    text: Tensor | NDArray[Any],
    image: Tensor | NDArray[Any],
    group: Tensor | Ints,
    groups: int,
    *,
    ks: Sequence[int] = (100,),
    target: Target = "pool",
    zero: Zero = "count",
    bootstrap: Bootstrap | None = None,
    permutations: int = 0,
    floor_draws: int = 4000,
    ranking: Tensor | Ints | None = None,
    seed: int = 0,
    chunk_size: int | None = None,
) -> WordBias:
    """Measure whom words retrieve.

    Args:
        text: [W, D] float, one row per word. Scores are dot products: pass unit vectors for cosines.
        image: [M, D] float, pictures of known group.
        group: [M] int64 in 0..G-1.
        groups: G, at least 2; groups without pictures count, too.
        ks: K cut-offs; beyond M they are capped, and the notes say so.
        target: ``"pool"``, ``"uniform"`` or [G] shares.
        zero: rule for absent groups, ``"count"`` or a number (see `representation`).
        bootstrap: how intervals are made, always by percentiles; None for none. The same seed and the same groups
            give the same resamples, whatever the embeddings.
        permutations: random relabellings of the pictures behind the p-values, shared by all words; p is then
            (1 + #{as extreme}) / (permutations + 1), valid at any number of them (Phipson and Smyth 2010). 0 takes a
            curve with the first three moments of all relabellings (`association.moment_p`): p-values below
            1 / (permutations + 1), which a correction for thousands of cells needs.
        floor_draws: random rankings behind the floor.
        ranking: [W, M] int64 rows of ``image``, best first, of a method that ranks by more than scores. Counts and
            NDKL follow it, on resamples too, where it stays as it is; C-ASC is of the scores still.
        seed: of relabellings and floor.
        chunk_size: words scored at once; None chooses by memory. All scores stay in memory, 4 W M bytes.

    Raises:
        ValueError: for embeddings that are empty, non-finite or zero, groups that do not fit, or options out of range.

    Example:
        >>> image = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
        >>> found = word_bias(torch.tensor([[1.0, 0.0]]), image, torch.tensor([0, 0, 1, 1]), 2, ks=(2,))
        >>> float(found.value[0, found.column("bias", 2)])
        1.0
    """
    words, pictures = torch.as_tensor(text), torch.as_tensor(image)
    check_embeddings(text=words, image=pictures)
    codes = _numbers(group)
    wanted = tuple(ks)
    _check(codes, len(pictures), groups, wanted)
    check_zero(zero)
    scores = np.empty((len(words), len(codes)), dtype=np.float32)
    for rows, part in score_chunks(words, pictures, chunk_size):
        scores[rows] = part.cpu().numpy()
    order = scores if ranking is None else _as_scores(_numbers(ranking), scores.shape)
    counts = np.bincount(codes, minlength=groups).astype(np.int64)
    task = WordTask(codes, counts, wanted, target_shares(target, counts), zero)

    top = np.empty((len(words), len(wanted), groups))
    discounted = np.empty((len(words), len(wanted)))
    tied = 0
    for rows, position in top_positions(order, codes, groups, max(task.depths)):
        top[rows] = position.cumsum(axis=1)[:, np.array(task.depths) - 1]
        discounted[rows] = ndkl_of_positions(position, task.target, task.depths)
        tied += int(((position > 0) & (position < 1)).any(axis=(1, 2)).sum())
    z = standardised(scores)
    association = group_sums(z, codes, groups) * scale(counts)
    value = np.concatenate([task.figures(top, discounted), association_figures(association)], axis=-1)

    drawn = (
        Drawn.none(value.shape, top.shape) if bootstrap is None else resampled_words(task, order, z, value, bootstrap)
    )
    return WordBias(
        names=task.names,
        value=value,
        low=drawn.low,
        high=drawn.high,
        draws=drawn.draws,
        bootstrap=bootstrap,
        limits=figure_limits(task.names, groups),
        floor=random_floor(counts, wanted, task.target, zero, floor_draws, seed),
        ks=wanted,
        share=top / task.depth_column,
        share_low=drawn.share_low,
        share_high=drawn.share_high,
        association=association,
        association_low=drawn.association_low,
        association_high=drawn.association_high,
        association_draws=drawn.association,
        p=permutation_p(z, codes, groups, permutations, seed),
        counts=counts,
        target=task.target,
        zero=zero,
        notes=_notes(task, target, tied, ranking is not None, is_normalised(words, pictures), z),
    )


def difference(after: WordFigures, before: WordFigures) -> WordFigures:
    """What changed from one retriever to another, or from one ranking to another, on the same resamples.

    Args:
        after: of the same words and pictures as ``before``, with the same bootstrap.
        before: the other side.

    Returns:
        Per word ``after`` minus ``before``, of value and draws; take `WordFigures.mean` for the mean over words.

    Raises:
        ValueError: where the two sides hold other figures, words or resamples.
    """
    alike = (
        after.names == before.names
        and after.value.shape == before.value.shape
        and after.bootstrap == before.bootstrap
        and (after.draws is None) == (before.draws is None)
    )
    if not alike:
        raise ValueError("the two sides hold other figures, words or resamples: measure both with the same options")
    value = after.value - before.value
    limits = np.array([[-np.inf], [np.inf]]).repeat(len(after.names), axis=1)
    if after.draws is None or before.draws is None or after.bootstrap is None:
        missing = np.full(value.shape, np.nan)
        return WordFigures(after.names, value, missing, missing, None, None, limits)
    draws = after.draws - before.draws
    low, high = percentiles(draws, after.bootstrap.level)
    return WordFigures(after.names, value, low, high, draws, after.bootstrap, limits)


def _mean_over(figures: NDArray[np.floating], weight: NDArray[Any]) -> Floats:
    """Weighted means over words in which figures are defined.

    Args:
        figures: [..., n, F].
        weight: [B, n], or [1, n] for the same everywhere.

    Returns:
        [B, F].
    """
    heavy = weight.astype(figures.dtype)[:, None]
    there = ~np.isnan(figures)
    with np.errstate(invalid="ignore"):
        found = (heavy @ np.where(there, figures, 0)) / (heavy @ there.astype(figures.dtype))
    return found[:, 0].astype(np.float64)


def _numbers(given: Tensor | NDArray[Any]) -> Ints:
    return np.asarray(given.cpu() if isinstance(given, Tensor) else given).astype(np.int64)


def _check(group: Ints, pictures: int, groups: int, ks: tuple[int, ...]) -> None:
    """Require groups and cut-offs that fit."""
    if group.shape != (pictures,):
        raise ValueError(f"group has shape {group.shape}, but image has {pictures} rows: give one group per row")
    if groups < 2:
        raise ValueError(f"groups is {groups}; bias between groups needs at least 2")
    if group.min() < 0 or group.max() >= groups:
        raise ValueError(
            f"group holds {group.min() if group.min() < 0 else group.max()}, which is none of 0 to {groups - 1}; "
            "leave pictures of unknown group out"
        )
    check_cutoffs("ks", ks)
    if not ks or len(set(ks)) < len(ks):
        raise ValueError(f"ks is {ks}; give each cut-off once, and at least one")


def _as_scores(ranking: Ints, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Scores [W, M] that put pictures in this order, without ties."""
    if ranking.shape != shape:
        raise ValueError(f"ranking has shape {ranking.shape}, but {shape[0]} words rank {shape[1]} pictures")
    if not (np.sort(ranking, axis=1) == np.arange(shape[1])).all():
        raise ValueError("ranking must hold every picture's row once for each word")
    scores = np.empty(shape, dtype=np.float32)
    np.put_along_axis(scores, ranking, -np.arange(shape[1], dtype=np.float32)[None].repeat(shape[0], axis=0), axis=1)
    return scores


def _notes(
    task: WordTask, target: Target, tied: int, ranked: bool, normalised: bool, z: NDArray[np.float32]
) -> tuple[str, ...]:
    """Conventions and flags."""
    total = len(task.group)
    capped = ", ".join(str(k) for k in task.ks if k > total)
    few = ", ".join(str(g) for g, n in enumerate(task.counts.tolist()) if 0 < n < FEW)
    empty = ", ".join(str(g) for g, n in enumerate(task.counts.tolist()) if n == 0)
    flat = int(np.isnan(z[:, 0]).sum())
    return tuple(
        note
        for note in (
            f"target {target}" if isinstance(target, str) else "target of your own",
            "absent groups count as one picture, or as their target if that is less"
            if task.zero == "count"
            else f"{task.zero:g} added to shares and targets",
            f"ties in expectation, {tied} words have some" if tied else "no ties",
            f"k = {capped} capped at the {total} pictures" if capped else "",
            "ranked by a given order" if ranked else "",
            "" if normalised else "scores are dot products of unnormalised embeddings",
            f"fewer than {FEW} pictures in group {few}" if few else "",
            f"no picture in group {empty}" if empty else "",
            f"{flat} words score all pictures alike: no C-ASC" if flat else "",
        )
        if note
    )
