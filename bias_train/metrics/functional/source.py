"""Source bias: whether a text ranks generated pictures above real ones that answer it as well.

Formulas follow "AI-Generated Images Introduce Invisible Relevance Bias to Text-Image Retrieval" (arXiv 2311.14084,
its authors' test scripts) in ``mode="paper"``; ``mode="clean"`` and everything on unpaired pictures is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.inputs import check_cutoffs, check_embeddings, check_ids, is_normalised
from bias_train.metrics.functional.ranking import discounts, mid_ranks, score_chunks, top_list
from bias_train.metrics.functional.ratios import (
    Combine,
    Measured,
    Spec,
    measure,
    measure_clusters,
    relative_delta,
)
from bias_train.metrics.functional.resampled_gallery import (
    TopCounts,
    resampled_top_counts,
    resampled_win_rate,
)
from bias_train.stats import Bootstrap, Floats, Ints, cluster_totals, resample_counts

Mode = Literal["clean", "paper"]
Relevance = Literal["auto", "pair", "label"]

# Ideal DCG of two relevant pictures, which the paper's scripts use for one source, too, and at every k.
PAPER_IDEAL = 1.0 + 1.0 / math.log2(3.0)

_SIDES = ("real", "generated")


def source_bias(
    text: Tensor,
    image: Tensor,
    query_target: Tensor,
    image_target: Tensor,
    image_source: Tensor,
    *,
    ks: Sequence[int] = (1, 3, 5, 10),
    precision_ks: Sequence[int] = (),
    mode: Mode = "clean",
    relevance: Relevance = "auto",
    query_slot: Tensor | None = None,
    bootstrap: Bootstrap | None = None,
    max_rank: int = 100,
    target_names: Sequence[str] | None = None,
    chunk_size: int | None = None,
) -> list[Figure]:
    """Source-bias figures of one mixed gallery.

    A picture answers a query where their targets are equal. With *pair* relevance a target is one scene: one photo
    and its generated twins. With *label* relevance it is a class: many pictures of either source, no pairs.

    Figures, for M in R@k, NDCG@k (``ks``) and P@k (``precision_ks``), over the queries that both sources answer (with
    pair relevance: whose target has exactly one photo and at least one twin; a random twin stands for several, in
    expectation):

    - ``M_real``, ``M_generated``: the measure, counting only that source's relevant pictures. The other source's keep
      their positions. R is the share of the relevant pictures found (a hit rate where there is one), P the number of
      them in the top k, over k.
    - ``relative_delta_M``: 100 * 2 (M_real - M_generated) / (M_real + M_generated), in percent, negative where
      generated pictures are favoured. With label relevance and unequal numbers of pictures, P carries the pool's
      imbalance, R does not.
    - ``pair_win_rate``: share of queries that score the twin above its photo; ``win_rate`` with label relevance: the
      same over all (photo, generated) pairs of the class.
    - ``rank_difference``: mean rank of the photo minus that of the twin where both are at most ``max_rank``; its
      ``count`` is how many are.

    Over all queries, relevant or not:

    - ``source_share``: expected share of generated pictures in the top k; ``pool_share``: in the gallery.
    - ``amplification``: odds of the former over odds of the latter; 1 is neutral, infinite with no photo in any top k.
    - ``delta_ndsr``: discounted share of real minus generated pictures in the top k (arXiv 2604.06163), in [-1, 1];
      its null value, stated in the note, is the gallery's own balance.

    Conventions. Ties are taken in expectation over random order (mid-rank, half win), never in library order.
    ``"clean"`` pools captions into one ratio and uses the textbook ideal DCG. ``"paper"`` forms the relevance figures
    per caption slot and averages the slots, and divides every DCG by 1.63093. Cut-offs beyond the gallery are capped
    and say so. Where no query has both sources, the relevance figures are absent.

    Intervals. Pair relevance resamples targets: all captions of a scene move together, the gallery stays. Label
    relevance resamples the pictures within their (class, generator) stratum, so that the gallery's designed
    composition stays, while the class prompts are fixed; these are always percentile intervals.

    Args:
        text: [Q, D] float query embeddings. Scores are dot products: pass unit vectors for cosines.
        image: [M, D] float gallery embeddings.
        query_target: [Q] integers.
        image_target: [M] integers.
        image_source: [M] integers, 0 for real, one code above 0 for each generator.
        ks: cut-offs of R, NDCG, shares and Delta-NDSR.
        precision_ks: cut-offs of P.
        mode: ``"clean"`` or ``"paper"`` (pair relevance only).
        relevance: ``"auto"`` takes pairs unless a queried target has several photos.
        query_slot: [Q] integers, which caption of its target a query is; the paper's mode needs it where targets have
            several captions.
        bootstrap: how intervals are made; None for none.
        max_rank: of the rank difference; 100 in the paper's scripts.
        target_names: with label relevance, names by target id; adds every figure for each class, with its ``label``.
        chunk_size: queries scored at once; None chooses by memory.

    Returns:
        The figures; first those over all queries, then those per class.

    Raises:
        ValueError: for embeddings that are empty, non-finite or zero (naming tensor and row), ids that do not fit, or
            options that contradict each other.

    Example:
        >>> text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> photos = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> twins = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
        >>> target, source = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
        >>> figures = source_bias(text, torch.cat([photos, twins]), torch.arange(2), target, source, ks=(1, 2))
        >>> {figure.key: figure.value for figure in figures}["relative_delta_R@1"]
        -200.0
    """
    measured = _measure(
        text,
        image,
        query_target,
        image_target,
        image_source,
        ks=tuple(ks),
        precision_ks=tuple(precision_ks),
        mode=mode,
        relevance=relevance,
        query_slot=query_slot,
        bootstrap=bootstrap,
        max_rank=max_rank,
        target_names=target_names,
        chunk_size=chunk_size,
    )
    return [figure for part in measured for figure in part.figures(bootstrap)]


def source_bias_change(
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    query_target: Tensor,
    image_target: Tensor,
    image_source: Tensor,
    *,
    ks: Sequence[int] = (1, 3, 5, 10),
    precision_ks: Sequence[int] = (),
    mode: Mode = "clean",
    relevance: Relevance = "auto",
    query_slot: Tensor | None = None,
    bootstrap: Bootstrap | None = None,
    max_rank: int = 100,
    target_names: Sequence[str] | None = None,
    chunk_size: int | None = None,
) -> list[Figure]:
    """How the figures of `source_bias` change from one model to another, on the same resamples.

    The difference of two figures over one set is far better known than either: what is hard about the set is common
    to both. So its interval comes from their difference on each resample, not from two intervals.

    Args:
        before: (text [Q, D], image [M, D]) of the first model.
        after: (text [Q, E], image [M, E]) of the second, rows in the same order; widths may differ.
        query_target: as all that follow, see `source_bias`.
        image_target: [M].
        image_source: [M].
        ks: cut-offs.
        precision_ks: cut-offs of P.
        mode: ``"clean"`` or ``"paper"``.
        relevance: ``"auto"``, ``"pair"`` or ``"label"``.
        query_slot: [Q] or None.
        bootstrap: how intervals are made.
        max_rank: of the rank difference.
        target_names: adds figures per class.
        chunk_size: queries scored at once.

    Returns:
        The same names, each value being after minus before; NaN where both are infinite or either is undefined.

    Raises:
        ValueError: as `source_bias`.
    """
    first, second = (
        _measure(
            text,
            image,
            query_target,
            image_target,
            image_source,
            ks=tuple(ks),
            precision_ks=tuple(precision_ks),
            mode=mode,
            relevance=relevance,
            query_slot=query_slot,
            bootstrap=bootstrap,
            max_rank=max_rank,
            target_names=target_names,
            chunk_size=chunk_size,
        )
        for text, image in (before, after)
    )
    return [figure for old, new in zip(first, second, strict=True) for figure in new.minus(old).figures(bootstrap)]


@dataclass(frozen=True)
class _Task:
    """One evaluation, with targets as dense numbers.

    Attributes:
        text: [Q, D].
        image: [M, D].
        query_target: [Q] int64 in 0..T-1.
        image_target: [M] int64 in 0..T-1.
        target_ids: [T] the caller's ids.
        source: [M] int64 codes.
        generated: [M] int64, 0 or 1.
        available: [T, 2] int64 real and generated pictures by target.
        answered: [Q] bool, queries that count in the relevance figures.
        pairs: pair relevance, otherwise label relevance.
        mode: of the relevance figures.
        slot: [Q] dense caption slot, all zero where slots are pooled.
        ks: cut-offs.
        precision_ks: cut-offs of P.
        max_rank: of the rank difference.
        chunk_size: queries at once.
    """

    text: Tensor
    image: Tensor
    query_target: Ints
    image_target: Ints
    target_ids: Ints
    source: Ints
    generated: Ints
    available: Ints
    answered: NDArray[np.bool_]
    pairs: bool
    mode: Mode
    slot: Ints
    ks: tuple[int, ...]
    precision_ks: tuple[int, ...]
    max_rank: int
    chunk_size: int | None

    def capped(self, k: int) -> int:
        """A cut-off no longer than the gallery."""
        return min(k, len(self.source))

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """Every capped cut-off that some figure needs."""
        return tuple(sorted({self.capped(k) for k in (*self.ks, *self.precision_ks)}))

    @property
    def pool_share(self) -> float:
        """Share of generated pictures in the gallery."""
        return float(self.generated.mean())


def _measure(
    text: Tensor,
    image: Tensor,
    query_target: Tensor,
    image_target: Tensor,
    image_source: Tensor,
    *,
    ks: tuple[int, ...],
    precision_ks: tuple[int, ...],
    mode: Mode,
    relevance: Relevance,
    query_slot: Tensor | None,
    bootstrap: Bootstrap | None,
    max_rank: int,
    target_names: Sequence[str] | None,
    chunk_size: int | None,
) -> list[Measured]:
    """The work of `source_bias`, before intervals are read off: all queries first, then each class."""
    check_embeddings(text=text, image=image)
    check_ids(len(text), "text", query_target=query_target)
    check_ids(len(image), "image", image_target=image_target, image_source=image_source)
    check_cutoffs("ks", ks)
    check_cutoffs("precision_ks", precision_ks)
    if mode not in ("clean", "paper") or relevance not in ("auto", "pair", "label"):
        raise ValueError(f"mode is {mode!r} and relevance {relevance!r}; choose clean or paper, auto, pair or label")
    if int(image_source.min()) < 0:
        raise ValueError("image_source holds a negative code; 0 is real, generators are numbered from 1")

    both = torch.cat([query_target, image_target]).cpu().numpy().astype(np.int64)
    target_ids, dense = np.unique(both, return_inverse=True)
    query, item = dense[: len(text)].astype(np.int64), dense[len(text) :].astype(np.int64)
    source = image_source.cpu().numpy().astype(np.int64)
    generated = (source > 0).astype(np.int64)
    available = np.zeros((len(target_ids), 2), dtype=np.int64)
    np.add.at(available, (item, generated), 1)

    queried = available[np.unique(query)]
    pairs = relevance == "pair" or (relevance == "auto" and bool((queried[:, 0] <= 1).all()))
    real, twins = available[query].T
    answered = (real == 1) & (twins >= 1) if pairs else (real >= 1) & (twins >= 1)
    slot = np.zeros(len(text), dtype=np.int64)
    if mode == "paper":
        if not pairs:
            raise ValueError("mode 'paper' is defined on pairs of a photo and its twin; use mode 'clean' with labels")
        if query_slot is not None:
            check_ids(len(text), "text", query_slot=query_slot)
            slot = np.unique(query_slot.cpu().numpy(), return_inverse=True)[1].astype(np.int64)
        elif len(np.unique(query)) < len(query):
            raise ValueError(
                "mode 'paper' averages over caption slots and targets have several captions: "
                "pass query_slot, which caption of its target each query is"
            )
    if target_names is not None and pairs:
        raise ValueError("target_names asks for figures per class, which need label relevance")
    asked = target_ids[np.unique(query)]
    if target_names is not None and (asked[0] < 0 or asked[-1] >= len(target_names)):
        raise ValueError(
            f"target_names has {len(target_names)} names, but query_target goes from {asked[0]} to {asked[-1]}: "
            "targets are indices into it"
        )

    task = _Task(
        text, image, query, item, target_ids, source, generated, available, answered, pairs, mode, slot,
        ks, precision_ks, max_rank, chunk_size,
    )  # fmt: skip
    columns, tied = _query_columns(task)
    names = tuple(columns)
    values = np.stack([columns[name] for name in names], axis=1)
    specs = _specs(task, tied)
    if pairs:
        return [_by_cluster(task, specs, names, values, bootstrap)]
    return _by_picture(task, specs, names, values, bootstrap, target_names)


def _query_columns(task: _Task) -> tuple[dict[str, Floats], int]:
    """Per-query numbers by column name, [Q] each, and how many queries have ties in the longest top list."""
    queries = len(task.text)
    device = task.image.device
    kind = torch.from_numpy(task.generated).to(device)
    item_target = torch.from_numpy(task.image_target).to(device)
    query_target = torch.from_numpy(task.query_target).to(device)
    cutoffs = task.cutoffs
    weights = discounts(max(cutoffs, default=1)).to(device)
    tables: dict[str, Floats] = {}
    pair_index = torch.from_numpy(_pair_index(task)).to(device) if task.pairs else None
    ranks = np.full((queries, 0 if pair_index is None else pair_index.shape[1]), np.nan)
    win = np.full(queries, np.nan)
    tied = 0
    for k in cutoffs:
        for name in ("hits_real", "hits_generated", "gain_real", "gain_generated", "shown", "shown_gain"):
            tables[f"{name}@{k}"] = np.empty(queries)
    for rows, scores in score_chunks(task.text, task.image, task.chunk_size):
        relevant = query_target[rows].unsqueeze(1) == item_target
        if cutoffs:
            top = top_list(scores, relevant, kind, 2, max(cutoffs))
            tied += int(top.tied.sum())
            stacked = torch.cat([top.relevant, top.kind[:, :, 1:]], dim=2)
            plain, gain = stacked.cumsum(dim=1), (stacked * weights[:, None]).cumsum(dim=1)
            for k in cutoffs:
                for column, side in enumerate(("_real", "_generated", None)):
                    sums, gains = ("hits" + side, "gain" + side) if side else ("shown", "shown_gain")
                    tables[f"{sums}@{k}"][rows] = plain[:, k - 1, column].cpu().numpy()
                    tables[f"{gains}@{k}"][rows] = gain[:, k - 1, column].cpu().numpy()
        if pair_index is not None:
            ranks[rows] = mid_ranks(scores, pair_index[query_target[rows]]).cpu().numpy()
        else:
            for row, (own, mask) in enumerate(zip(scores.cpu().numpy(), relevant.cpu().numpy(), strict=True)):
                once = np.ones((int(mask.sum()), 1), dtype=np.int64)
                if len(once):
                    win[rows.start + row] = resampled_win_rate(own[mask], task.generated[mask] > 0, once)[0]
    top_counts = {
        k: TopCounts(
            (tables[f"hits_real@{k}"], tables[f"hits_generated@{k}"]),
            (tables[f"gain_real@{k}"], tables[f"gain_generated@{k}"]),
            tables[f"shown@{k}"],
            tables[f"shown_gain@{k}"],
        )
        for k in cutoffs
    }
    columns = _top_columns(task, top_counts, task.available[task.query_target], task.answered)
    if task.pairs:
        columns |= _pair_columns(task, ranks)
    else:
        columns["win"] = np.where(task.answered, win, 0.0)
    columns["answered"] = task.answered.astype(np.float64)
    columns["all"] = np.ones(queries)
    return columns, tied


def _top_columns(
    task: _Task, top: dict[int, TopCounts], available: Ints, answered: NDArray[np.bool_]
) -> dict[str, Floats]:
    """Turn sums over top lists into per-query measures.

    Args:
        task: the evaluation.
        top: sums by capped cut-off, [n] each.
        available: [n, 2] relevant pictures of each source (or [1, 2] for all n alike).
        answered: [n] (or [1]) whether the relevance measures count here.
    """
    columns: dict[str, Floats] = {}
    for side, source in enumerate(_SIDES):
        there = np.maximum(available[:, side], 1)
        for asked in task.ks:
            k = task.capped(asked)
            if task.pairs:
                # The expectation over a random twin: each alone is the one relevant picture, whose ideal DCG is 1.
                ideal = there * (PAPER_IDEAL if task.mode == "paper" else 1.0)
            else:
                ideal = np.concatenate([[0.0], np.cumsum(discounts(k).numpy())])[np.minimum(there, k)]
            columns[f"R_{source}@{asked}"] = np.where(answered, top[k].hits[side] / there, 0.0)
            columns[f"NDCG_{source}@{asked}"] = np.where(answered, top[k].gain[side] / ideal, 0.0)
        for asked in task.precision_ks:
            k = task.capped(asked)
            columns[f"P_{source}@{asked}"] = np.where(answered, top[k].hits[side] / k, 0.0)
    for asked in task.ks:
        k = task.capped(asked)
        columns[f"shown@{asked}"] = top[k].shown / k
        # Every position shows a real or a generated picture, so that real minus generated is 1 - 2 generated.
        columns[f"ndsr@{asked}"] = 1.0 - 2.0 * top[k].shown_gain / float(discounts(k).sum())
    return columns


def _pair_index(task: _Task) -> Ints:
    """[T, 1 + twins] gallery rows of each target's photo and twins, -1 where absent or where it is no pair."""
    paired = (task.available[:, 0] == 1) & (task.available[:, 1] >= 1)
    width = 1 + int(task.available[paired, 1].max(initial=1))
    index = np.full((len(task.available), width), -1, dtype=np.int64)
    kept = np.flatnonzero(paired[task.image_target])
    # Photo first, then the twins in any order: they only enter sums.
    kept = kept[np.lexsort((task.generated[kept], task.image_target[kept]))]
    owner = task.image_target[kept]
    first = np.searchsorted(owner, owner, side="left")
    index[owner, np.arange(len(owner)) - first] = kept
    return index


def _pair_columns(task: _Task, ranks: Floats) -> dict[str, Floats]:
    """Win rate and rank difference from the mid-ranks [Q, 1 + twins] of photo and twins."""
    photo, twins = ranks[:, :1], ranks[:, 1:]
    there = ~np.isnan(twins) & task.answered[:, None]
    share = there / np.maximum(there.sum(axis=1, keepdims=True), 1)
    with np.errstate(invalid="ignore"):
        wins = (twins < photo) + 0.5 * (twins == photo)
        kept = there & (photo <= task.max_rank) & (twins <= task.max_rank)
        gap = np.where(kept, photo - twins, 0.0)
    return {
        "win": (share * wins).sum(axis=1),
        "kept": (share * kept).sum(axis=1),
        "gap": (share * gap).sum(axis=1),
    }


def _amplification(pool_share: float) -> Combine:
    """Odds of the shown share over the odds of the pool's."""

    def amplification(shown: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.divide(shown, 1.0 - shown) * np.divide(1.0 - pool_share, pool_share)

    return amplification


def _specs(task: _Task, tied: int) -> list[Spec]:
    """Every figure that the evaluation has, in the order of the report."""
    scale = "" if is_normalised(task.text, task.image) else "scores are dot products of unnormalised embeddings"
    ties = f"ties in expectation, {tied} queries have some" if tied else "no ties"
    dropped = int((~task.answered).sum())
    without = "a pair" if task.pairs else "both sources"
    lacking = f"{dropped} queries without {without} left out" if dropped else ""

    def note(*parts: str, k: int | None = None) -> str:
        cap = f"k capped at the {len(task.source)} pictures" if k is not None and k > len(task.source) else ""
        return "; ".join(part for part in (*parts, cap, scale) if part)

    specs: list[Spec] = []
    if task.answered.any():
        measures = [(m, k) for m, ks in (("R", task.ks), ("NDCG", task.ks), ("P", task.precision_ks)) for k in ks]
        for m, k in measures:
            parts = tuple((f"{m}_{source}@{k}", "answered") for source in _SIDES)
            text = note(lacking, ties, k=k)
            specs.append(Spec(f"relative_delta_{m}", k, parts, relative_delta, by_slot=True, note=text))
            specs.extend(
                Spec(f"{m}_{source}", k, (part,), by_slot=True, note=text)
                for source, part in zip(_SIDES, parts, strict=True)
            )
        if task.pairs:
            win = (("win", "answered"),)
            specs.append(Spec("pair_win_rate", None, win, by_slot=True, note=note(lacking, "a tie is half a win")))
            gap = (("gap", "kept"),)
            text = note(lacking, f"mid-ranks, where both are at most {task.max_rank}")
            specs.append(Spec("rank_difference", None, gap, by_slot=True, note=text))
        else:
            specs.append(Spec("win_rate", None, (("win", "answered"),), note=note(lacking, "a tie is half a win")))
    share = task.pool_share
    single = "undefined, the gallery holds one source only" if share in (0.0, 1.0) else ""
    for k in task.ks:
        shown = ((f"shown@{k}", "all"),)
        null = f"null value {1.0 - 2.0 * share:.4g}"
        specs.append(Spec("source_share", k, shown, note=note(ties, k=k)))
        specs.append(Spec("amplification", k, shown, _amplification(share), note=note(single, ties, k=k)))
        specs.append(Spec("delta_ndsr", k, ((f"ndsr@{k}", "all"),), note=note(null, ties, k=k)))
    specs.append(Spec("pool_share", None, (("all", "all"),), lambda one: one * share, note="of the gallery, exact"))
    return specs


def _by_cluster(
    task: _Task, specs: list[Spec], names: tuple[str, ...], values: Floats, bootstrap: Bootstrap | None
) -> Measured:
    """Pair relevance: a target's queries are one cluster."""
    slots = int(task.slot.max()) + 1
    spread = np.zeros((len(values), slots, values.shape[1]))
    spread[np.arange(len(values)), task.slot] = values
    return measure_clusters(specs, names, cluster_totals(spread, task.query_target), bootstrap)


def _by_picture(
    task: _Task,
    specs: list[Spec],
    names: tuple[str, ...],
    values: Floats,
    bootstrap: Bootstrap | None,
    target_names: Sequence[str] | None,
) -> list[Measured]:
    """Label relevance: queries are fixed, pictures are resampled within class and generator."""
    counts = None
    if bootstrap is not None:
        strata = np.unique(np.stack([task.image_target, task.source]), axis=1, return_inverse=True)[1]
        blocks = resample_counts(len(task.source), bootstrap, strata.reshape(-1))
        # Pictures by resamples, since a query reads the rows of the few pictures at its top.
        counts = np.concatenate([block.T.astype(np.uint16) for block in blocks], axis=1)
    total = None if bootstrap is None else np.zeros((bootstrap.resamples, 1, len(names)))
    classes: list[Measured] = []

    def on_resamples(sums: Floats | None) -> Floats | None:
        return None if sums is None else np.stack([spec.evaluate(names, sums) for spec in specs], axis=-1)

    for target, rows, drawn in _class_draws(task, names, counts):
        if total is not None and drawn is not None:
            total += drawn
        if target_names is not None:
            label = target_names[int(task.target_ids[target])]
            sums = values[rows].sum(axis=0)[None, :]
            classes.append(measure(specs, names, sums, draws=on_resamples(drawn), label=label))
    overall = measure(specs, names, values.sum(axis=0)[None, :], draws=on_resamples(total))
    return [overall, *classes]


def _class_draws(
    task: _Task, names: tuple[str, ...], counts: NDArray[np.uint16] | None
) -> Iterator[tuple[int, Ints, Floats | None]]:
    """Each queried class with its queries' rows and their summed columns [B, 1, C] on the resamples."""
    generated = task.generated > 0
    for target in np.unique(task.query_target):
        rows = np.flatnonzero(task.query_target == target)
        if counts is None:
            yield int(target), rows, None
            continue
        relevant = task.image_target == target
        answered = task.answered[rows[:1]]
        drawn = np.zeros((counts.shape[1], 1, len(names)))
        own_counts = counts[relevant]
        for _, scores in score_chunks(task.text[rows], task.image, task.chunk_size):
            for line in scores.cpu().numpy():
                top = resampled_top_counts(line, relevant, generated, counts, task.cutoffs) if task.cutoffs else {}
                columns = _top_columns(task, top, task.available[target][None, :], answered)
                win = resampled_win_rate(line[relevant], generated[relevant], own_counts) if answered[0] else 0.0
                columns["win"] = np.broadcast_to(np.asarray(win, dtype=np.float64), drawn.shape[:1])
                columns["answered"] = np.full(drawn.shape[:1], float(answered[0]))
                columns["all"] = np.ones(drawn.shape[:1])
                drawn[:, 0] += np.stack([columns[name] for name in names], axis=1)
        yield int(target), rows, drawn
