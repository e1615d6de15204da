"""Retrieval quality in both directions, with several right answers per query, and zero-shot class accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.inputs import check_cutoffs, check_embeddings, check_ids
from bias_train.metrics.functional.ranking import discounts, expected_precision, first_relevant, score_chunks, top_list
from bias_train.metrics.functional.ratios import Spec, measure_clusters
from bias_train.stats import Bootstrap, Floats, bootstrap_median, cluster_totals


def retrieval(
    text: Tensor,
    image: Tensor,
    query_target: Tensor,
    image_target: Tensor,
    *,
    ks: Sequence[int] = (1, 5, 10),
    bootstrap: Bootstrap | None = None,
    chunk_size: int | None = None,
) -> list[Figure]:
    """Retrieval figures from text to image (``t2i_``) and back (``i2t_``).

    A text and a picture answer each other where their targets are equal; each side may have several answers. Means
    are over the queries that have an answer at all; how many have none is noted.

    - ``R@k``: share of the queries with an answer in the top k (the convention of image-text retrieval, in which one
      of a photo's five captions is enough).
    - ``NDCG@k``: binary gains, discount 1/log2(1 + position), divided by the best attainable with the query's number
      of answers.
    - ``mAP@k``: mean over queries of the precision at each answer within the top k, summed, over min(k, answers).
    - ``median_rank``: median over queries of the rank of the best-placed answer.

    Ties are taken in expectation over random order, also in the average precision. Intervals resample targets (a
    scene with its captions and its pictures); a median's is always a percentile interval.

    Args:
        text: [Q, D] float embeddings. Scores are dot products.
        image: [M, D] float embeddings.
        query_target: [Q] integers.
        image_target: [M] integers.
        ks: cut-offs; beyond the number of items they are capped, with a note.
        bootstrap: how intervals are made; None for none.
        chunk_size: queries scored at once; None chooses by memory.

    Returns:
        ``t2i_R, t2i_NDCG, t2i_mAP`` at each k, ``t2i_median_rank``, and the same for ``i2t``. Values of a direction
        in which no query has an answer are NaN.

    Raises:
        ValueError: for embeddings that are empty, non-finite or zero (naming tensor and row), or ids that do not fit.

    Example:
        >>> figures = retrieval(torch.eye(3), torch.eye(3)[[0, 2, 1]], torch.arange(3), torch.arange(3), ks=(1,))
        >>> {figure.key: round(figure.value, 3) for figure in figures[:4]}
        {'t2i_R@1': 0.333, 't2i_NDCG@1': 0.333, 't2i_mAP@1': 0.333, 't2i_median_rank': 2.5}
    """
    check_embeddings(text=text, image=image)
    check_ids(len(text), "text", query_target=query_target)
    check_ids(len(image), "image", image_target=image_target)
    check_cutoffs("ks", tuple(ks))
    text_side, image_side = (text, query_target), (image, image_target)
    return [
        *_direction("t2i", *text_side, *image_side, tuple(ks), bootstrap, chunk_size),
        *_direction("i2t", *image_side, *text_side, tuple(ks), bootstrap, chunk_size),
    ]


def _direction(
    prefix: str,
    query: Tensor,
    query_target: Tensor,
    item: Tensor,
    item_target: Tensor,
    ks: tuple[int, ...],
    bootstrap: Bootstrap | None,
    chunk_size: int | None,
) -> list[Figure]:
    """The figures of one direction."""
    kind = torch.zeros(len(item), dtype=torch.int64, device=item.device)
    targets = item_target.to(item.device)
    own = query_target.to(item.device)
    depth = min(max(ks, default=1), len(item))
    names = [f"{m}@{k}" for k in ks for m in ("R", "NDCG", "mAP")]
    table = np.zeros((len(query), len(names)))
    best = np.full(len(query), np.nan)
    tied = 0
    for rows, scores in score_chunks(query, item, chunk_size):
        relevant = own[rows].unsqueeze(1) == targets
        answers = relevant.sum(dim=1).double()
        first = first_relevant(scores, relevant)
        best[rows] = torch.where(answers > 0, first.rank(), torch.nan).cpu().numpy()
        top = top_list(scores, relevant, kind, 1, depth)
        tied += int((top.tied & (answers > 0)).sum())
        gain = (top.relevant[:, :, 0] * discounts(depth).to(item.device)).cumsum(dim=1)
        precision = expected_precision(top.relevant[:, :, 0], top).cumsum(dim=1)
        columns = []
        for k in ks:
            cut = min(k, len(item))
            reachable = answers.clamp(min=1, max=cut)
            ideal = discounts(cut).to(item.device).cumsum(dim=0)[reachable.long() - 1]
            columns += [first.hit(cut), gain[:, cut - 1] / ideal, precision[:, cut - 1] / reachable]
        if columns:
            table[rows] = torch.where(answers[:, None] > 0, torch.stack(columns, dim=1), 0.0).cpu().numpy()
    answered = ~np.isnan(best)
    cluster = query_target.cpu().numpy()
    ties = f"ties in expectation, {tied} queries have some" if tied else "no ties"
    missing = int((~answered).sum())
    notes = [f"{missing} queries without an answer left out" if missing else "", ties]

    def note(k: int | None = None) -> str:
        cap = f"k capped at the {len(item)} items" if k is not None and k > len(item) else ""
        return "; ".join(part for part in (*notes, cap) if part)

    specs = [
        Spec(f"{prefix}_{m}", k, ((f"{m}@{k}", "answered"),), note=note(k)) for m in ("R", "NDCG", "mAP") for k in ks
    ]
    totals = cluster_totals(np.column_stack([table, answered])[:, None, :], cluster)
    figures = measure_clusters(specs, [*names, "answered"], totals, bootstrap).figures(bootstrap)
    kept = best[answered]
    value, low, high = bootstrap_median(kept, cluster[answered], bootstrap or Bootstrap(resamples=2))
    if bootstrap is None:
        low = high = np.nan
    figures.append(Figure(f"{prefix}_median_rank", None, value, low, high, len(kept), note()))
    return figures


def class_accuracy(
    text: Tensor,
    image: Tensor,
    query_target: Tensor,
    image_target: Tensor,
    image_source: Tensor,
    *,
    bootstrap: Bootstrap | None = None,
    target_names: Sequence[str] | None = None,
    chunk_size: int | None = None,
) -> list[Figure]:
    """Zero-shot accuracy: the share of pictures whose best-scoring class is their own.

    A class with several prompts scores by the mean of their embeddings, brought back to unit length, as CLIP's prompt
    ensembles do (Radford et al. 2021, section 3.1.4). A picture that ties between n classes counts 1/n if its own is
    one of them.

    Args:
        text: [Q, D] float embeddings of class prompts.
        image: [M, D] float embeddings.
        query_target: [Q] integers, class of each prompt.
        image_target: [M] integers, class of each picture.
        image_source: [M] integers, 0 for real, above 0 for generated.
        bootstrap: how intervals are made (pictures are resampled); None for none.
        target_names: names by class id; adds the three figures for each class, with its ``label``.
        chunk_size: pictures scored at once; None chooses by memory.

    Returns:
        ``class_accuracy``, ``class_accuracy_real``, ``class_accuracy_generated``: over all pictures and over each
        source's, ``count`` being the number of pictures; NaN where there are none. Pictures whose class has no prompt
        are left out, with a note.

    Raises:
        ValueError: as `retrieval`.

    Example:
        >>> pictures, target = torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 0])
        >>> [f.value for f in class_accuracy(torch.eye(2), pictures, torch.arange(2), target, torch.tensor([0, 0, 1]))]
        [0.6666666666666666, 1.0, 0.0]
    """
    check_embeddings(text=text, image=image)
    check_ids(len(text), "text", query_target=query_target)
    check_ids(len(image), "image", image_target=image_target, image_source=image_source)
    classes, owner = torch.unique(query_target.to(text.device), return_inverse=True)
    prompts = torch.zeros(len(classes), text.shape[1], dtype=torch.float64, device=text.device)
    prompts.index_add_(0, owner, text.double())
    several = torch.bincount(owner, minlength=len(classes)) > 1
    prompts[several] = torch.nn.functional.normalize(prompts[several], dim=1)

    targets = image_target.to(text.device)
    position = torch.searchsorted(classes, targets).clamp(max=len(classes) - 1)
    known = classes[position] == targets
    correct = torch.zeros(len(image), dtype=torch.float64, device=image.device)
    for rows, scores in score_chunks(image, prompts.to(image.device), chunk_size):
        best = scores == scores.amax(dim=1, keepdim=True)
        hit = best.gather(1, position[rows, None].to(image.device))[:, 0]
        correct[rows] = hit.double() / best.sum(dim=1)
    kept = known.cpu().numpy()
    real = image_source.cpu().numpy() == 0
    masks = np.column_stack([kept, kept & real, kept & ~real]).astype(np.float64)
    columns = np.concatenate([masks * correct.cpu().numpy()[:, None], masks], axis=1)
    missing = int((~kept).sum())
    note = f"{missing} pictures of classes without a prompt left out" if missing else ""
    figures = _accuracies(columns, note, None, bootstrap)
    if target_names is not None:
        labels = image_target.cpu().numpy()
        for target in classes.tolist():
            if not 0 <= target < len(target_names):
                raise ValueError(f"target_names has {len(target_names)} names, but query_target holds {target}")
            figures += _accuracies(columns[labels == target], "", target_names[target], bootstrap)
    return figures


def _accuracies(columns: Floats, note: str, label: str | None, bootstrap: Bootstrap | None) -> list[Figure]:
    """Overall and per-source accuracy from [n, 6] hits and pictures of (all, real, generated)."""
    names = ("hit", "hit_real", "hit_generated", "of", "of_real", "of_generated")
    specs = [
        Spec(f"class_accuracy{suffix}", None, ((f"hit{suffix}", f"of{suffix}"),), note=note)
        for suffix in ("", "_real", "_generated")
    ]
    measured = measure_clusters(specs, names, columns[:, None, :], bootstrap, label=label)
    return measured.figures(bootstrap)
