"""Source bias: whether a text ranks generated pictures above real ones that answer it as well.

Formulas follow "AI-Generated Images Introduce Invisible Relevance Bias to Text-Image Retrieval" (arXiv 2311.14084,
its authors' test scripts) in ``mode="paper"``; ``mode="clean"`` and everything on unpaired pictures is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.inputs import check_embeddings, check_ids, is_normalised
from bias_train.metrics.functional.ranking import discounts, mid_ranks, score_chunks, top_list
from bias_train.metrics.functional.ratios import Measured, Spec, measure
from bias_train.metrics.functional.resampled_gallery import TopCounts, resampled_top_counts, resampled_win_rate
from bias_train.metrics.functional.source_columns import (
    Mode,
    Relevance,
    SourceTask,
    measure_targets,
    pair_columns,
    pair_index_of,
    source_specs,
    source_task,
    top_columns,
)
from bias_train.stats import Bootstrap, Floats, Ints, resample_counts


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
    measured = measure_source_bias(
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
        measure_source_bias(
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


def measure_source_bias(
    text: Tensor,
    image: Tensor,
    query_target: Tensor,
    image_target: Tensor,
    image_source: Tensor,
    *,
    ks: tuple[int, ...],
    precision_ks: tuple[int, ...] = (),
    mode: Mode = "clean",
    relevance: Relevance = "auto",
    query_slot: Tensor | None = None,
    bootstrap: Bootstrap | None = None,
    max_rank: int = 100,
    target_names: Sequence[str] | None = None,
    chunk_size: int | None = None,
) -> list[Measured]:
    """The work of `source_bias`, before intervals are read off: all queries first, then each class.

    Arguments and errors are those of `source_bias`.
    """
    check_embeddings(text=text, image=image)
    check_ids(len(text), "text", query_target=query_target)
    check_ids(len(image), "image", image_target=image_target, image_source=image_source)
    task = source_task(
        query_target,
        image_target,
        image_source,
        ks=ks,
        precision_ks=precision_ks,
        mode=mode,
        relevance=relevance,
        query_slot=query_slot,
        max_rank=max_rank,
        target_names=target_names,
        normalised=is_normalised(text, image),
    )
    columns, tied = _query_columns(task, text, image, chunk_size)
    names = tuple(columns)
    values = np.stack([columns[name] for name in names], axis=1)
    specs = source_specs(task, tied)
    if task.pairs:
        return [measure_targets(task, specs, names, values, bootstrap)]
    return _by_picture(task, text, image, specs, names, values, bootstrap, target_names, chunk_size)


def _query_columns(
    task: SourceTask, text: Tensor, image: Tensor, chunk_size: int | None
) -> tuple[dict[str, Floats], int]:
    """Per-query numbers by column name, [Q] each, and how many queries have ties in the longest top list."""
    queries = len(text)
    device = image.device
    kind = torch.from_numpy(task.generated).to(device)
    item_target = torch.from_numpy(task.image_target).to(device)
    query_target = torch.from_numpy(task.query_target).to(device)
    cutoffs = task.cutoffs
    weights = discounts(max(cutoffs, default=1)).to(device)
    tables: dict[str, Floats] = {}
    pair_index = torch.from_numpy(pair_index_of(task)).to(device) if task.pairs else None
    ranks = np.full((queries, 0 if pair_index is None else pair_index.shape[1]), np.nan)
    win = np.full(queries, np.nan)
    tied = 0
    for k in cutoffs:
        for name in ("hits_real", "hits_generated", "gain_real", "gain_generated", "shown", "shown_gain"):
            tables[f"{name}@{k}"] = np.empty(queries)
    for rows, scores in score_chunks(text, image, chunk_size):
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
    columns = top_columns(task, top_counts, task.available[task.query_target], task.answered)
    if task.pairs:
        columns |= pair_columns(task, ranks)
    else:
        columns["win"] = np.where(task.answered, win, 0.0)
    columns["answered"] = task.answered.astype(np.float64)
    columns["all"] = np.ones(queries)
    return columns, tied


def _by_picture(
    task: SourceTask,
    text: Tensor,
    image: Tensor,
    specs: list[Spec],
    names: tuple[str, ...],
    values: Floats,
    bootstrap: Bootstrap | None,
    target_names: Sequence[str] | None,
    chunk_size: int | None,
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

    for target, rows, drawn in _class_draws(task, text, image, names, counts, chunk_size):
        if total is not None and drawn is not None:
            total += drawn
        if target_names is not None:
            label = target_names[int(task.target_ids[target])]
            sums = values[rows].sum(axis=0)[None, :]
            classes.append(measure(specs, names, sums, draws=on_resamples(drawn), label=label))
    overall = measure(specs, names, values.sum(axis=0)[None, :], draws=on_resamples(total))
    return [overall, *classes]


def _class_draws(
    task: SourceTask,
    text: Tensor,
    image: Tensor,
    names: tuple[str, ...],
    counts: NDArray[np.uint16] | None,
    chunk_size: int | None,
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
        for _, scores in score_chunks(text[rows], image, chunk_size):
            for line in scores.cpu().numpy():
                top = resampled_top_counts(line, relevant, generated, counts, task.cutoffs) if task.cutoffs else {}
                columns = top_columns(task, top, task.available[target][None, :], answered)
                win = resampled_win_rate(line[relevant], generated[relevant], own_counts) if answered[0] else 0.0
                columns["win"] = np.broadcast_to(np.asarray(win, dtype=np.float64), drawn.shape[:1])
                columns["answered"] = np.full(drawn.shape[:1], float(answered[0]))
                columns["all"] = np.ones(drawn.shape[:1])
                drawn[:, 0] += np.stack([columns[name] for name in names], axis=1)
        yield int(target), rows, drawn
