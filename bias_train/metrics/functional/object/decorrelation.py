"""Object decorrelation: whether what a retriever returns follows the picture when an object is taken out of it.

ODmAP is the metric of arXiv 2304.03391, whose formula, data and tables are not known to us. What is computed here is
ours and called "ODmAP-style (bias-train definition)": never set it beside the paper's table. Beside it stand a random
retriever's floor, the change against the unedited query, and the change that an equally large edit of the background
makes.

Legend of the shapes: Q queries, M items of the gallery, C categories of objects, D dimensions, F columns (figures).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.inputs import check_cutoffs, check_embeddings, check_ids
from bias_train.metrics.functional.object.floors import random_average_precision
from bias_train.metrics.functional.object.query_means import Name, QueryMeans, label_of, pair_label
from bias_train.metrics.functional.object.relevance import LEVELS, VARIANTS, strictness
from bias_train.metrics.functional.ranking import expected_precision, score_chunks, top_list
from bias_train.stats import Bootstrap, Floats, Ints

KS = (1, 5, 10, 50)
# A category with fewer queries says too little to count as much as any other in the mean over categories.
FEWEST = 10


@dataclass(frozen=True)
class ObjectBias:
    """What `object_decorrelation` finds in one direction.

    Attributes:
        names: F columns, (name, k).
        values: [Q, F] float64 of each query, NaN where a query has no such figure.
        category: [Q] int64.
        present: [Q, C] bool, objects of the query before the edit.
        cluster: [Q] int64, what is resampled together.
        categories: [C] names.
        pairs: pairs (a, b) of the spurious slice, by number.
        minimum: queries below which a category stays out of the mean over categories.
        bootstrap: how intervals are made, or None.
        notes: conventions, by column name; "" holds those of all columns.
    """

    names: tuple[Name, ...]
    values: Floats
    category: Ints
    present: NDArray[np.bool_]
    cluster: Ints
    categories: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    minimum: int
    bootstrap: Bootstrap | None
    notes: Mapping[str, str]

    def column(self, name: str, k: int | None) -> Floats:
        """[Q] one figure of every query.

        Raises:
            ValueError: for a figure that is not there.
        """
        if (name, k) not in self.names:
            raise ValueError(f"there is no figure {label_of(name, k)}; there are {', '.join(map(_key, self.names))}")
        return np.asarray(self.values[:, self.names.index((name, k))])

    @property
    def few(self) -> dict[str, int]:
        """Queries of the categories that stay out of the mean over categories, by name."""
        counts = np.bincount(self.category, minlength=len(self.categories))
        return {
            name: count
            for name, count in zip(self.categories, counts.tolist(), strict=True)
            if 0 < count < self.minimum
        }

    @property
    def kept(self) -> int:
        """Categories in the mean over categories."""
        return len(np.unique(self.category)) - len(self.few)

    def minus(self, other: ObjectBias) -> ObjectBias:
        """The change from another retriever to this one, query by query, so that intervals are of paired differences.

        Raises:
            ValueError: for other queries or figures.
        """
        same = self.names == other.names and self.values.shape == other.values.shape
        same = same and np.array_equal(self.category, other.category) and np.array_equal(self.cluster, other.cluster)
        if not same:
            raise ValueError("the two sides hold other queries or figures: measure both retrievers on the same set")
        return replace(self, values=self.values - other.values)

    def figures(self) -> list[Figure]:
        """Every figure as a mean over queries.

        Returns:
            By column: the mean over categories (its own name), the mean over queries (``<name>_micro``), and over the
            queries of all spurious pairs where some are given (``<name>_pairs``). Then, with a ``label``, those of each
            category and of each pair ("dog | frisbee": the dog taken out of pictures with a frisbee).
        """
        return QueryMeans(self.values, self.category, self.cluster, self.bootstrap).figures(
            names=self.names,
            categories=self.categories,
            slices={pair_label(self.categories, pair): self._slice(pair) for pair in self.pairs},
            minimum=self.minimum,
            notes={name: "; ".join(filter(None, (self.notes.get(name), self.notes[""]))) for name, _ in self.names},
        )

    def _slice(self, pair: tuple[int, int]) -> NDArray[np.bool_]:
        return (self.category == pair[0]) & self.present[:, pair[1]]


def object_decorrelation(
    removed: Tensor,
    original: Tensor,
    gallery: Tensor,
    category: Tensor,
    present: Tensor,
    gallery_present: Tensor,
    *,
    control: Tensor | None = None,
    has_control: Tensor | None = None,
    cluster: Tensor | None = None,
    ks: Sequence[int] = KS,
    pairs: Sequence[tuple[int, int]] = (),
    categories: Sequence[str] | None = None,
    minimum: int = FEWEST,
    bootstrap: Bootstrap | None = None,
    chunk_size: int | None = None,
) -> ObjectBias:
    """Object bias in one direction: pictures among captions, or captions among pictures.

    A query is a picture (or caption) and an object of category a in it. Three forms of it are asked with: without the
    object (*removed*), as it was (*original*), and, of pictures, with an equally large edit of the background
    (*control*). The gallery is that of unedited captions (or pictures). For each V of the rules V1 to V3
    (`bias_train.metrics.functional.object.relevance`), R_q being the relevant items of a query:

    - ``ODmAP_V@k``: AP@k of the removed form, (1 / min(k, R_q)) * sum over r <= k of Prec@r * relevant_r.
    - ``ODmAP_V_floor@k``: what a random order of the gallery gives, exactly; ``ODmAP_V_excess@k``: above it.
    - ``ODmAP_V_original@k``, ``ODmAP_V_control@k``: of the other forms by the same rule, in which a is to be absent.
      ``ODmAP_V_net@k``: removed minus control, what the object's absence does beyond the edit as such.

    Whatever the rule, with H@k the share of the first k that have the object a:

    - ``H_removed@k`` (should be low), ``H_original@k`` (high), ``H_control@k`` (as the original), ``H_floor@k`` (share
      of the gallery: a random retriever's).
    - ``DG@k``: decorrelation gap H_original - H_removed of the same query; 0 for a random retriever.
      ``DG_control@k``: H_original - H_control, about 0 for a good edit; ``DG_net@k``: H_control - H_removed.

    Conventions. Queries without a relevant item have no AP and are left out, with their number in the note. Ties are
    taken in expectation over random order, exactly. Cut-offs beyond the gallery are capped. Intervals resample
    clusters (pictures: all queries that stem from one move together) and are always percentile intervals; the gallery
    and the categories stay.

    Args:
        removed: [Q, D] float embeddings. Scores are dot products.
        original: [Q, D].
        gallery: [M, D].
        category: [Q] integers, the object that was taken away, 0 to C - 1.
        present: [Q, C] bool, objects of the query before the edit.
        gallery_present: [M, C] bool, objects of the items.
        control: [Q, D], or None where there is none.
        has_control: [Q] bool, which queries have one; None for all.
        cluster: [Q] integers, pictures that the queries stem from; None takes each query for itself.
        ks: cut-offs.
        pairs: spurious pairs (a, b) by number: those queries from which a is taken and in which b stays.
        categories: [C] names; numbers where None.
        minimum: queries below which a category stays out of the mean over categories.
        bootstrap: how intervals are made; None for none.
        chunk_size: queries scored at once; None chooses by memory.

    Returns:
        Figures of every query, and their means by :meth:`ObjectBias.figures`.

    Raises:
        ValueError: for embeddings that are empty, non-finite or zero (naming tensor and row), ids or tables that do
            not fit, a query without its object, or a cut-off below 1.

    Example: without the frisbee the first caption is one without a frisbee; in the original it is one with.

    >>> gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> has = torch.tensor([[True, True], [True, False]])  # dog, frisbee
    >>> found = object_decorrelation(
    ...     torch.tensor([[0.1, 0.9]]), torch.tensor([[0.9, 0.1]]), gallery, torch.tensor([1]), has[:1], has, ks=(1,),
    ...     minimum=1)
    >>> values = {figure.key: figure.value for figure in found.figures() if figure.label is None}
    >>> values["ODmAP_V2@1"], values["ODmAP_V2_floor@1"], values["DG@1"]
    (1.0, 0.5, 1.0)
    """
    _check(removed, original, gallery, category, present, gallery_present, control, has_control)
    ks = tuple(dict.fromkeys(ks))
    check_cutoffs("ks", ks)
    queries, items = len(removed), len(gallery)
    some = torch.ones(queries, dtype=torch.bool) if has_control is None else has_control.cpu()
    everywhere = torch.arange(queries)

    def measured(form: Tensor, rows: Tensor) -> _Table:
        own = form[rows.to(form.device)]
        return _measure(own, rows, gallery, category, present, gallery_present, ks, chunk_size)

    tables = [measured(removed, everywhere), measured(original, everywhere)]
    if control is not None and bool(some.any()):
        tables.append(measured(control, torch.nonzero(some)[:, 0]))
    names, values = _columns(tables, ks, items)
    empty = dict(zip(VARIANTS, (tables[0].relevant == 0).sum(axis=0).tolist(), strict=True))
    capped = [k for k in ks if k > items]
    tied = sum(table.tied for table in tables)
    general = [
        f"ties in expectation, {tied} rankings have some" if tied else "no ties",
        f"k above {items} capped at the {items} items" if capped else "",
        f"{queries - int(some.sum())} queries without control" if len(tables) > 2 and not bool(some.all()) else "",
    ]
    notes = {"": "; ".join(filter(None, general))}
    for name, _ in names:
        if name.startswith("ODmAP"):
            left = empty[name.split("_")[1]]
            style = "ODmAP-style (bias-train definition)"
            notes[name] = f"{style}; {left} queries without a relevant item left out" if left else style
    own = np.arange(queries) if cluster is None else cluster.cpu().numpy().astype(np.int64)
    return ObjectBias(
        names=names,
        values=values,
        category=category.cpu().numpy().astype(np.int64),
        present=present.cpu().numpy(),
        cluster=own,
        categories=tuple(categories or map(str, range(present.shape[1]))),
        pairs=tuple(pairs),
        minimum=minimum,
        bootstrap=bootstrap,
        notes=notes,
    )


@dataclass(frozen=True)
class _Table:
    """One form of the queries; K cut-offs, rows of queries that do not have the form are NaN.

    Attributes:
        precision: [Q, 3, K] AP@k by each rule.
        having: [Q, K] H@k.
        relevant: [Q, 3] relevant items.
        tied: rankings with ties in the longest top list.
    """

    precision: Floats
    having: Floats
    relevant: Floats
    tied: int


def _measure(
    query: Tensor,
    place: Tensor,
    gallery: Tensor,
    category: Tensor,
    present: Tensor,
    gallery_present: Tensor,
    ks: tuple[int, ...],
    chunk_size: int | None,
) -> _Table:
    """Rank the gallery for one form: [n, D] queries that stand at the places [n] among all Q."""
    device = gallery.device
    category, present, gallery_present = (part.to(device) for part in (category, present, gallery_present))
    depth = min(max(ks), len(gallery))
    cut = torch.tensor([min(k, depth) for k in ks], device=device)
    precision = np.full((len(category), len(VARIANTS), len(ks)), np.nan)
    having = np.full((len(category), len(ks)), np.nan)
    relevant = np.full((len(category), len(VARIANTS)), np.nan)
    tied = 0
    for rows, scores in score_chunks(query, gallery, chunk_size):
        own = place[rows].to(device)
        level = strictness(category[own], present[own], gallery_present)
        top = top_list(scores, level > 0, level, LEVELS, depth)
        tied += int(top.tied.sum())
        at = own.cpu().numpy()
        having[at] = (top.kind[:, :, 0].cumsum(dim=1)[:, cut - 1] / cut).cpu().numpy()
        for v in range(len(VARIANTS)):
            count = (level > v).sum(dim=1).double()
            # The kinds are nested: what satisfies a rule satisfies all that come before.
            gained = expected_precision(top.kind[:, :, v + 1 :].sum(dim=2), top).cumsum(dim=1)[:, cut - 1]
            average = gained / torch.minimum(count.unsqueeze(1), cut.double())
            precision[at, v] = torch.where(count.unsqueeze(1) > 0, average, torch.nan).cpu().numpy()
            relevant[at, v] = count.cpu().numpy()
    return _Table(precision, having, relevant, tied)


def _columns(tables: Sequence[_Table], ks: tuple[int, ...], items: int) -> tuple[tuple[Name, ...], Floats]:
    """Every figure of every query, from the tables of the removed, the original and, if there, the control."""
    found: dict[Name, Floats] = {}
    removed, original = tables[:2]
    control = tables[2] if len(tables) > 2 else None
    for v, variant in enumerate(VARIANTS):
        for place, k in enumerate(ks):
            name, value = f"ODmAP_{variant}", removed.precision[:, v, place]
            floor = random_average_precision(removed.relevant[:, v], items, k)
            found[name, k] = value
            found[f"{name}_floor", k] = floor
            found[f"{name}_excess", k] = value - floor
            found[f"{name}_original", k] = original.precision[:, v, place]
            if control is not None:
                found[f"{name}_control", k] = control.precision[:, v, place]
                found[f"{name}_net", k] = value - control.precision[:, v, place]
    share = 1.0 - removed.relevant[:, 0] / items
    for place, k in enumerate(ks):
        found["H_removed", k] = removed.having[:, place]
        found["H_original", k] = original.having[:, place]
        found["H_floor", k] = share
        found["DG", k] = original.having[:, place] - removed.having[:, place]
        if control is not None:
            found["H_control", k] = control.having[:, place]
            found["DG_control", k] = original.having[:, place] - control.having[:, place]
            found["DG_net", k] = control.having[:, place] - removed.having[:, place]
    return tuple(found), np.stack(list(found.values()), axis=1)


def _check(
    removed: Tensor,
    original: Tensor,
    gallery: Tensor,
    category: Tensor,
    present: Tensor,
    gallery_present: Tensor,
    control: Tensor | None,
    has_control: Tensor | None,
) -> None:
    check_embeddings(removed=removed, original=original, gallery=gallery)
    queries = len(removed)
    if len(original) != queries:
        raise ValueError(f"removed has {queries} rows and original {len(original)}: each query needs both forms")
    check_ids(queries, "removed", category=category)
    for name, table, rows in (("present", present, queries), ("gallery_present", gallery_present, len(gallery))):
        if table.ndim != 2 or len(table) != rows or table.dtype != torch.bool:
            raise ValueError(
                f"{name} is {tuple(table.shape)} {table.dtype}; it must be bool with a row for each of the {rows}"
            )
    if present.shape[1] != gallery_present.shape[1]:
        raise ValueError(
            f"present knows {present.shape[1]} categories and gallery_present {gallery_present.shape[1]}: not one list"
        )
    if not (int(category.min()) >= 0 and int(category.max()) < present.shape[1]):
        raise ValueError(f"category holds what is none of 0 to {present.shape[1] - 1}")
    without = torch.nonzero(~present[torch.arange(queries, device=present.device), category.to(present.device)])
    if len(without):
        raise ValueError(f"query {int(without[0, 0])} does not have the object of its category: nothing was taken away")
    if control is None:
        return
    some = torch.ones(queries, dtype=torch.bool) if has_control is None else has_control
    if control.shape != removed.shape or some.shape != (queries,):
        raise ValueError(f"control must have a row for each of the {queries} queries, and has_control an entry")
    if bool(some.any()):
        check_embeddings(removed=removed, control=control[some.to(control.device)])


def _key(column: Name) -> str:
    return label_of(*column)
