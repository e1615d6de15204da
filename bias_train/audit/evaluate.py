"""Evaluates one retriever's embeddings over an audit's plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from bias_train.audit.options import AuditOptions
from bias_train.audit.plan import Cell, Plan
from bias_train.embeddings import Embeddings
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.both_sources import both_columns, both_specs
from bias_train.metrics.functional.inputs import check_embeddings, is_normalised
from bias_train.metrics.functional.location import (
    gain_by_rank,
    hit_by_rank,
    interleaved_inverse_rank_delta,
    inverse_rank_delta,
    location_columns,
    location_specs,
)
from bias_train.metrics.functional.ratios import Measured, Spec
from bias_train.metrics.functional.resampled_gallery import TopCounts
from bias_train.metrics.functional.retrieval import class_accuracy
from bias_train.metrics.functional.shared_ranking import Placement, Shown, own_pictures, rank_galleries
from bias_train.metrics.functional.source import measure_source_bias
from bias_train.metrics.functional.source_columns import (
    Mode,
    SourceTask,
    measure_targets,
    pair_columns,
    source_specs,
    source_task,
    top_columns,
)
from bias_train.significance import SwapTest, swap_test
from bias_train.stats import Bootstrap, Floats, cluster_totals, resampled_medians

Bools = NDArray[np.bool_]
Tested = tuple[str, int | None]


@dataclass(frozen=True)
class CellResult:
    """What one cell gave.

    Attributes:
        cell: where it belongs.
        measured: figures over all of its queries; with label relevance also those of each class.
        swap: the label-swap test, None where it is not made.
        tested: names and cut-offs of the figures that the test is about, in its order.
        tied: queries whose top has ties.
        pictures: in the gallery.
        alone: figures that no change is formed of: how well each source's pictures are classified.
    """

    cell: Cell
    measured: tuple[Measured, ...]
    swap: SwapTest | None
    tested: tuple[Tested, ...]
    tied: int
    pictures: int
    alone: tuple[Figure, ...] = ()


def evaluate(embeddings: Embeddings, plan: Plan, options: AuditOptions) -> list[CellResult]:
    """Measure every cell.

    Raises:
        ValueError: for embeddings that are zero or not finite.
    """
    if embeddings.relevance == "label":
        return [_by_label(embeddings, plan, cell, options) for cell in plan.cells]
    return _Pairs(embeddings, plan, options).cells()


def _by_label(embeddings: Embeddings, plan: Plan, cell: Cell, options: AuditOptions) -> CellResult:
    """Classes: few queries, so that every gallery is ranked anew, and pictures are what is resampled."""
    assert embeddings.text is not None
    rows = plan.galleries[cell.gallery].rows
    text, image = embeddings.text, embeddings.image[torch.from_numpy(rows)]
    asked = torch.from_numpy(embeddings.query_target)
    target, source = torch.from_numpy(embeddings.image_target[rows]), torch.from_numpy(embeddings.image_source[rows])
    names, bootstrap = embeddings.target_names or None, options.bootstrap
    measured = measure_source_bias(
        text, image, asked, target, source,
        ks=options.ks, precision_ks=options.precision_ks, relevance="label", bootstrap=bootstrap, target_names=names,
    )  # fmt: skip
    alone: list[Figure] = []
    if cell.group == "headline":
        alone = class_accuracy(text, image, asked, target, source, bootstrap=bootstrap, target_names=names)
    return CellResult(cell, tuple(measured), None, (), 0, int(rows.sum()), tuple(alone))


class _Pairs:
    """Photos and twins: all galleries are ranked in one pass, and cells are sums over their queries."""

    def __init__(self, embeddings: Embeddings, plan: Plan, options: AuditOptions) -> None:
        assert embeddings.text is not None
        check_embeddings(text=embeddings.text, image=embeddings.image)
        self.embeddings, self.plan, self.options = embeddings, plan, options
        self.normalised = is_normalised(embeddings.text, embeddings.image)
        generated = embeddings.image_source > 0
        self.own = own_pictures(embeddings.query_target, embeddings.image_target)
        self.own_generated: Bools = generated[self.own]
        masks, top = [], []
        for gallery in plan.galleries:
            masks += [gallery.rows, gallery.rows & ~generated, gallery.rows & generated]
            top += [min(max(options.ks), int(gallery.rows.sum())), 0, 0]
        self.rankings = rank_galleries(embeddings.text, embeddings.image, self.own, generated, masks, top)
        self.columns: dict[tuple[int, Mode], tuple[SourceTask, tuple[str, ...], Floats]] = {}

    def cells(self) -> list[CellResult]:
        """Measure every cell."""
        return [self._cell(cell) for cell in self.plan.cells]

    def _placements(self, gallery: int) -> tuple[Placement, Placement, Placement]:
        mixed, real, generated = self.rankings.placement[3 * gallery : 3 * gallery + 3]
        return mixed, real, generated

    def _shown(self, gallery: int) -> Shown:
        shown = self.rankings.shown[3 * gallery]
        assert shown is not None
        return shown

    def _cell(self, cell: Cell) -> CellResult:
        key = (cell.gallery, cell.mode)
        if key not in self.columns:
            self.columns[key] = self._columns(*key)
        task, names, values = self.columns[key]
        tied = self._shown(cell.gallery).tied
        rows = np.ones(len(values), dtype=bool) if cell.queries is None else cell.queries
        if cell.queries is not None:
            values, tied = values[rows], tied[rows]
            task = replace(task, query_target=task.query_target[rows], answered=task.answered[rows],
                           slot=task.slot[rows])  # fmt: skip
        specs = [*source_specs(task, int(tied.sum())), *both_specs(task)]
        if cell.group != "ratio":
            # Two lists can be interleaved fairly where both come from corpora of one size.
            specs += location_specs(task)
        measured = measure_targets(task, specs, names, values, self.options.bootstrap)
        swap: SwapTest | None = None
        tested: tuple[Tested, ...] = ()
        if cell.mode == "clean":
            if cell.queries is None and cell.group in ("headline", "generator") and task.answered.any():
                measured = with_medians(measured, task, names, values, self.options.bootstrap)
            if self.options.permutations and task.answered.any():
                swap, tested = self._swap(cell.gallery, task, rows)
        return CellResult(cell, (measured,), swap, tested, int(tied.sum()), len(task.source))

    def _columns(self, gallery: int, mode: Mode) -> tuple[SourceTask, tuple[str, ...], Floats]:
        data, rows = self.embeddings, self.plan.galleries[gallery].rows
        task = source_task(
            torch.from_numpy(data.query_target),
            torch.from_numpy(data.image_target[rows]),
            torch.from_numpy(data.image_source[rows]),
            ks=self.options.ks,
            mode=mode,
            relevance="pair",
            query_slot=torch.from_numpy(data.query_slot),
            max_rank=self.options.max_rank,
            normalised=self.normalised,
        )
        mixed, *alone = self._placements(gallery)
        shown = self._shown(gallery)
        photo, twin = mixed.there & ~self.own_generated, mixed.there & self.own_generated
        top = {}
        for k in task.cutoffs:
            hit, gain = mixed.expected(hit_by_rank(k)), mixed.expected(gain_by_rank(k))
            top[k] = TopCounts(
                ((hit * photo).sum(axis=1), (hit * twin).sum(axis=1)),
                ((gain * photo).sum(axis=1), (gain * twin).sum(axis=1)),
                *shown.counts(k),
            )
        columns = top_columns(task, top, task.available[task.query_target], task.answered)
        ranks = mixed.ranks()
        photo_rank = np.where(photo, ranks, 0.0).sum(axis=1)
        twin_rank = np.where(twin, ranks, 0.0).sum(axis=1) / np.maximum(twin.sum(axis=1), 1)
        columns |= pair_columns(task, np.column_stack([photo_rank, np.where(twin, ranks, np.nan)]))
        columns["rank_real"] = np.where(task.answered, photo_rank, 0.0)
        columns["rank_generated"] = np.where(task.answered, twin_rank, 0.0)
        columns |= both_columns(task, mixed, self.own_generated)
        columns |= location_columns(task, (alone[0], alone[1]))
        columns["answered"] = task.answered.astype(np.float64)
        columns["all"] = np.ones(len(task.answered))
        return task, tuple(columns), np.stack(list(columns.values()), axis=1)

    def _swap(self, gallery: int, task: SourceTask, rows: Bools) -> tuple[SwapTest, tuple[Tested, ...]]:
        mixed, ks = self._placements(gallery)[0], self.options.ks
        chosen = np.flatnonzero(rows)[task.answered]
        placed = Placement(mixed.above[chosen], mixed.equal[chosen], mixed.there[chosen])
        generated = self.own_generated[chosen]
        by_rank = [hit_by_rank(task.capped(k)) for k in ks] + [gain_by_rank(task.capped(k)) for k in ks]
        tested: list[Tested] = [(name, k) for name in ("relative_delta_R", "relative_delta_NDCG") for k in ks]
        tested.append(("pair_win_rate", None))
        contributions = swap_contributions(placed, generated, by_rank)
        totals = cluster_totals(contributions, task.query_target[task.answered])
        return swap_test(totals, permutations=self.options.permutations, seed=self.options.seed), tuple(tested)


def swap_contributions(placed: Placement, generated: Bools, by_rank: Sequence[Floats]) -> Floats:
    """What each query adds to the label-swap test's statistics if one of its pictures is called real.

    Args:
        placed: [n, W] where the pictures stand; every query has one photo and at least one twin.
        generated: [n, W] whether each is generated.
        by_rank: functions of the rank, such as a hit in the top k.

    Returns:
        [n, W, F] with the photo first and NaN for pictures that are not there; F is ``len(by_rank)`` differences,
        real minus the others' mean, and at last wins of the others over the one called real, minus one half.
    """
    # The photo first, absent pictures last.
    order = np.argsort(np.where(placed.there, generated, 2), axis=1, kind="stable")

    def sorted_by_label(values: Floats) -> Floats:
        return np.take_along_axis(values, order, axis=1)

    there = np.take_along_axis(placed.there, order, axis=1)
    count = there.sum(axis=1, keepdims=True)
    columns = []
    for function in by_rank:
        value = sorted_by_label(placed.expected(function))
        columns.append((count * value - value.sum(axis=1, keepdims=True)) / (count - 1))
    rank = sorted_by_label(placed.ranks())
    wins = np.zeros(rank.shape)
    for other in range(rank.shape[1]):
        one = rank[:, other : other + 1]
        wins += (one < rank) + 0.5 * (one == rank)  # a missing rank is NaN and wins nothing
    # Each picture has drawn with itself.
    columns.append((wins - 0.5) / (count - 1) - 0.5)
    return np.where(there[:, :, None], np.stack(columns, axis=2), np.nan)


def with_medians(
    measured: Measured, task: SourceTask, names: tuple[str, ...], values: Floats, bootstrap: Bootstrap
) -> Measured:
    """Add the figures on median ranks, which are no ratios of sums, and the aggregates that hold them.

    Relative, location-corrected and normalised Delta of the inverse median rank, and their means with R@1 and the
    inverse mean rank (arXiv 2502.07327, authors' code: R1 with MeanR, and all three). Always percentile intervals.
    """
    columns = [names.index(f"{prefix}rank_{source}") for prefix in ("", "alone_") for source in ("real", "generated")]
    ranks = values[task.answered][:, columns]
    clusters, dense = np.unique(task.query_target, return_inverse=True)

    def deltas(medians: Floats) -> list[Floats]:
        mixed = inverse_rank_delta(medians[..., 0], medians[..., 1])
        location = interleaved_inverse_rank_delta(medians[..., 2], medians[..., 3])
        return [mixed, location, mixed - location]

    value = deltas(np.median(ranks, axis=0))
    drawn: list[Floats] | None = None
    if measured.draws is not None:
        drawn = deltas(resampled_medians(ranks, dense[task.answered], bootstrap, len(clusters)))
    place = {(spec.name, spec.k): f for f, spec in enumerate(measured.specs)}
    kinds = ("relative_delta", "location_delta", "normalised_delta")
    specs: list[Spec] = []
    added: list[float] = []
    draws: list[Floats] = []
    note = "of the mid-ranks, a twin's rank being the mean of several; percentile interval"

    def add(name: str, number: float, sample: list[Floats]) -> None:
        specs.append(Spec(name, None, (("answered", "answered"),), note=note))
        added.append(number)
        draws.extend(sample)

    for f, kind in enumerate(kinds):
        add(f"{kind}_inverse_median_rank", float(value[f]), [] if drawn is None else [drawn[f]])
    for f, kind in enumerate(kinds):
        if (f"{kind}_R", 1) not in place:
            continue
        parts = [place[f"{kind}_R", 1], place[f"{kind}_inverse_mean_rank", None]]
        own = None if measured.draws is None else [measured.draws[:, part] for part in parts]
        numbers = [float(measured.value[part]) for part in parts]
        add(f"{kind}_R1_MeanR", float(np.mean(numbers)), [] if own is None else [np.mean(own, axis=0)])
        three = None if own is None or drawn is None else [np.mean([*own, drawn[f]], axis=0)]
        add(f"{kind}_R1_MedR_MeanR", float(np.mean([*numbers, value[f]])), [] if three is None else three)
    extra = len(specs)
    return replace(
        measured,
        specs=(*measured.specs, *specs),
        value=np.concatenate([measured.value, added]),
        count=(*measured.count, *[int(task.answered.sum())] * extra),
        notes=(*measured.notes, *[()] * extra),
        draws=None if measured.draws is None else np.column_stack([measured.draws, *draws]),
        jackknife=None
        if measured.jackknife is None
        else np.column_stack([measured.jackknife, np.full((len(measured.jackknife), extra), np.nan)]),
    )
