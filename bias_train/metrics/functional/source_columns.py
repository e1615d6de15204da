"""What source bias is made of: one evaluation's ids, its per-query columns, and the figures that are ratios of them.

`bias_train.metrics.functional.source` ranks one gallery and puts these together; an audit ranks many galleries at once
and uses the same parts, so that a figure means the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.metrics.functional.inputs import check_cutoffs, check_ids
from bias_train.metrics.functional.ranking import discounts
from bias_train.metrics.functional.ratios import Combine, Measured, Spec, measure_clusters, relative_delta
from bias_train.metrics.functional.resampled_gallery import TopCounts
from bias_train.stats import Bootstrap, Floats, Ints, cluster_totals

Mode = Literal["clean", "paper"]
Relevance = Literal["auto", "pair", "label"]

# Ideal DCG of two relevant pictures, which the paper's scripts use for one source, too, and at every k.
PAPER_IDEAL = 1.0 + 1.0 / math.log2(3.0)

SIDES = ("real", "generated")


@dataclass(frozen=True)
class SourceTask:
    """One evaluation, with targets as dense numbers.

    Attributes:
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
        normalised: whether scores are cosines.
    """

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
    normalised: bool

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


def source_task(
    query_target: Tensor,
    image_target: Tensor,
    image_source: Tensor,
    *,
    ks: tuple[int, ...],
    precision_ks: tuple[int, ...] = (),
    mode: Mode = "clean",
    relevance: Relevance = "auto",
    query_slot: Tensor | None = None,
    max_rank: int = 100,
    target_names: Sequence[str] | None = None,
    normalised: bool = True,
) -> SourceTask:
    """Check one evaluation's ids and options and number its targets densely.

    Args:
        query_target: as all that follow up to ``target_names``, see `bias_train.metrics.functional.source.source_bias`.
        image_target: [M].
        image_source: [M].
        ks: cut-offs.
        precision_ks: cut-offs of P.
        mode: ``"clean"`` or ``"paper"``.
        relevance: ``"auto"``, ``"pair"`` or ``"label"``.
        query_slot: [Q] or None.
        max_rank: of the rank difference.
        target_names: with label relevance.
        normalised: whether the scores are cosines; noted with every figure where they are not.

    Raises:
        ValueError: for ids that do not fit, or options that contradict each other.
    """
    check_cutoffs("ks", ks)
    check_cutoffs("precision_ks", precision_ks)
    if mode not in ("clean", "paper") or relevance not in ("auto", "pair", "label"):
        raise ValueError(f"mode is {mode!r} and relevance {relevance!r}; choose clean or paper, auto, pair or label")
    if int(image_source.min()) < 0:
        raise ValueError("image_source holds a negative code; 0 is real, generators are numbered from 1")

    both = torch.cat([query_target, image_target]).cpu().numpy().astype(np.int64)
    target_ids, dense = np.unique(both, return_inverse=True)
    query, item = dense[: len(query_target)].astype(np.int64), dense[len(query_target) :].astype(np.int64)
    source = image_source.cpu().numpy().astype(np.int64)
    generated = (source > 0).astype(np.int64)
    available = np.zeros((len(target_ids), 2), dtype=np.int64)
    np.add.at(available, (item, generated), 1)

    queried = available[np.unique(query)]
    pairs = relevance == "pair" or (relevance == "auto" and bool((queried[:, 0] <= 1).all()))
    real, twins = available[query].T
    answered = (real == 1) & (twins >= 1) if pairs else (real >= 1) & (twins >= 1)
    slot = np.zeros(len(query_target), dtype=np.int64)
    if mode == "paper":
        if not pairs:
            raise ValueError("mode 'paper' is defined on pairs of a photo and its twin; use mode 'clean' with labels")
        if query_slot is not None:
            check_ids(len(query_target), "text", query_slot=query_slot)
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

    return SourceTask(
        query, item, target_ids, source, generated, available, answered, pairs, mode, slot, ks, precision_ks, max_rank,
        normalised,
    )  # fmt: skip


def top_columns(
    task: SourceTask, top: dict[int, TopCounts], available: Ints, answered: NDArray[np.bool_]
) -> dict[str, Floats]:
    """Turn sums over top lists into per-query measures.

    Args:
        task: the evaluation.
        top: sums by capped cut-off, [n] each.
        available: [n, 2] relevant pictures of each source (or [1, 2] for all n alike).
        answered: [n] (or [1]) whether the relevance measures count here.
    """
    columns: dict[str, Floats] = {}
    for side, source in enumerate(SIDES):
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


def pair_index_of(task: SourceTask) -> Ints:
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


def pair_columns(task: SourceTask, ranks: Floats) -> dict[str, Floats]:
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


def source_specs(task: SourceTask, tied: int) -> list[Spec]:
    """Every figure that the evaluation has, in the order of the report."""
    scale = "" if task.normalised else "scores are dot products of unnormalised embeddings"
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
            parts = tuple((f"{m}_{source}@{k}", "answered") for source in SIDES)
            text = note(lacking, ties, k=k)
            specs.append(Spec(f"relative_delta_{m}", k, parts, relative_delta, by_slot=True, note=text))
            specs.extend(
                Spec(f"{m}_{source}", k, (part,), by_slot=True, note=text)
                for source, part in zip(SIDES, parts, strict=True)
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


def measure_targets(
    task: SourceTask, specs: list[Spec], names: tuple[str, ...], values: Floats, bootstrap: Bootstrap | None
) -> Measured:
    """Pair relevance: a target's queries are one cluster."""
    slots = int(task.slot.max()) + 1
    spread = np.zeros((len(values), slots, values.shape[1]))
    spread[np.arange(len(values)), task.slot] = values
    return measure_clusters(specs, names, cluster_totals(spread, task.query_target), bootstrap)
