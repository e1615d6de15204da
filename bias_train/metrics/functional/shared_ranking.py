"""Many galleries ranked in one pass: every query meets every picture once, whatever the number of galleries.

Galleries at several mixing ratios, of single generators and of one source alone are unions of a few disjoint sets of
pictures, here called atoms: pictures that belong to the same galleries. Where a picture stands in a gallery follows
from how many pictures of each of its atoms score higher, so that these are counted once and added up; and the top of
a gallery is merged from the tops of its atoms. Own construction; it gives the figures of ranking each gallery alone
(`bias_train.metrics.functional.source`), ties included.

Shapes: Q queries, c of them in a chunk, M pictures, W pictures of a target, A atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.metrics.functional.ranking import discounts, score_chunks
from bias_train.stats import Floats, Ints

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Placement:
    """Where each query's own pictures stand in one gallery.

    Attributes:
        above: [Q, W] float64, gallery pictures that score higher.
        equal: [Q, W] float64, gallery pictures that score the same, the picture itself included.
        there: [Q, W] bool, whether the gallery holds the picture; the counts of others mean nothing.
    """

    above: Floats
    equal: Floats
    there: Bools

    def ranks(self) -> Floats:
        """[Q, W] 1-based mid-ranks, NaN for pictures that the gallery lacks."""
        return np.where(self.there, self.above + (self.equal + 1.0) / 2.0, np.nan)

    def expected(self, by_rank: Floats) -> Floats:
        """Expected value of a function of the rank, over the random order of tied pictures.

        Args:
            by_rank: [K] its value at ranks 1..K; zero beyond.

        Returns:
            [Q, W], zero for pictures that the gallery lacks.
        """
        summed = np.concatenate([[0.0], np.cumsum(by_rank)])
        last = len(by_rank)
        begin = np.minimum(self.above, last).astype(np.int64)
        end = np.minimum(self.above + self.equal, last).astype(np.int64)
        value = (summed[end] - summed[begin]) / np.maximum(self.equal, 1.0)
        return np.where(self.there, value, 0.0)


@dataclass(frozen=True)
class Shown:
    """What each query's top holds in one gallery.

    Attributes:
        generated: [Q, K] expected share of generated pictures at each of the first K positions.
        tied: [Q] bool, whether any of the positions is shared by several pictures.
    """

    generated: Floats
    tied: Bools

    def counts(self, k: int) -> tuple[Floats, Floats]:
        """[Q] generated pictures in the top k, and their summed discounts."""
        top = self.generated[:, :k]
        # Summed in order, as the rankings of one gallery are: a tie between figures must not break on the last bit.
        return top.cumsum(axis=1)[:, -1], (top * discounts(k).numpy()).cumsum(axis=1)[:, -1]


@dataclass(frozen=True)
class Rankings:
    """Rankings of several galleries; entry g of each list is gallery g."""

    placement: tuple[Placement, ...]
    shown: tuple[Shown | None, ...]


def own_pictures(query_target: Ints, image_target: Ints) -> Ints:
    """[Q, W] rows of the pictures that share each query's target, in ascending order, -1 where there are fewer."""
    asked, query = np.unique(query_target, return_inverse=True)
    place = np.searchsorted(asked, image_target).clip(max=len(asked) - 1)
    rows = np.flatnonzero(asked[place] == image_target)
    owner = place[rows]
    rows, owner = rows[np.argsort(owner, kind="stable")], np.sort(owner, kind="stable")
    turn = np.arange(len(owner)) - np.searchsorted(owner, owner, side="left")
    index = np.full((len(asked), int(turn.max(initial=0)) + 1), -1, dtype=np.int64)
    index[owner, turn] = rows
    return index[query]


def rank_galleries(
    text: Tensor,
    image: Tensor,
    own: Ints,
    generated: Bools,
    galleries: Sequence[Bools],
    top: Sequence[int],
    *,
    chunk_size: int | None = None,
) -> Rankings:
    """Rank several galleries of the same pictures.

    Args:
        text: [Q, D] float.
        image: [M, D] float.
        own: [Q, W] rows of each query's own pictures, -1 for none (`own_pictures`).
        generated: [M] whether each picture is generated.
        galleries: [M] masks, at least one picture in each.
        top: by gallery, how many positions to look at for what is shown, at most its size; 0 for none.
        chunk_size: queries scored at once; None chooses by memory.

    Returns:
        Placements and tops by gallery.
    """
    atoms = _Atoms.of(generated, galleries)
    scored = image[torch.from_numpy(atoms.order)]
    column = np.full(len(image), -1, dtype=np.int64)
    column[atoms.order] = np.arange(len(atoms.order))
    own_column = torch.from_numpy(np.where(own >= 0, column[own], -1))
    queries, width = own.shape
    above: Floats = np.zeros((queries, width, len(atoms.sizes)))
    equal = np.zeros_like(above)
    depth = max(top, default=0)
    shown = [np.empty((queries, k)) for k in top]
    tied = [np.zeros(queries, dtype=bool) for _ in top]
    for rows, scores in score_chunks(text, scored, chunk_size):
        for w in range(width):
            _count(scores, own_column[rows, w], atoms, above[rows, w], equal[rows, w])
        if depth:
            # One position more than asked for tells whether a tie goes on beyond the last.
            tops = [part.topk(min(depth + 1, part.shape[1]), dim=1).values for part in atoms.split(scores)]
            for g, k in enumerate(top):
                if k:
                    shown[g][rows], tied[g][rows] = _top_share(scores, tops, atoms, g, k)
    member = own_membership(own, galleries)
    placements = tuple(
        Placement(above @ inside.astype(np.float64), equal @ inside.astype(np.float64), there)
        for inside, there in zip(atoms.inside, member, strict=True)
    )
    return Rankings(placements, tuple(Shown(shown[g], tied[g]) if k else None for g, k in enumerate(top)))


def own_membership(own: Ints, galleries: Sequence[Bools]) -> list[Bools]:
    """By gallery, [Q, W] whether it holds each query's own pictures."""
    return [mask[own] & (own >= 0) for mask in galleries]


@dataclass(frozen=True)
class _Atoms:
    """Pictures by the galleries that they are in; each atom is of one kind.

    Attributes:
        order: [M'] rows of the pictures that are in any gallery, atom by atom.
        sizes: A numbers of pictures.
        generated: [A] whether an atom's pictures are generated.
        inside: by gallery, [A] whether it holds the atom.
    """

    order: Ints
    sizes: tuple[int, ...]
    generated: Bools
    inside: tuple[Bools, ...]

    @classmethod
    def of(cls, generated: Bools, galleries: Sequence[Bools]) -> _Atoms:
        membership = np.stack([generated, *galleries])
        used = np.flatnonzero(membership[1:].any(axis=0))
        kinds, atom = np.unique(membership[:, used], axis=1, return_inverse=True)
        atom = atom.reshape(-1)
        order = used[np.argsort(atom, kind="stable")]
        sizes = tuple(np.bincount(atom, minlength=kinds.shape[1]).tolist())
        return cls(order, sizes, kinds[0], tuple(kinds[1:]))

    def split(self, table: Tensor) -> tuple[Tensor, ...]:
        """Columns [c, M'] by atom."""
        return table.split(self.sizes, dim=1)


def _count(scores: Tensor, column: Tensor, atoms: _Atoms, above: Floats, equal: Floats) -> None:
    """Write into [c, A] how many pictures of each atom score above a picture per query, and as much as it."""
    own = scores.gather(1, column.clamp(min=0).unsqueeze(1))
    ends = np.cumsum(atoms.sizes)
    for table, found in ((above, (scores > own).numpy()), (equal, (scores == own).numpy())):
        for a, end in enumerate(ends):
            # NumPy counts bytes several times faster than torch sums booleans.
            table[:, a] = np.count_nonzero(found[:, end - atoms.sizes[a] : end], axis=1)


def _top_share(scores: Tensor, tops: list[Tensor], atoms: _Atoms, g: int, k: int) -> tuple[Floats, Bools]:
    """[c, k] expected generated share by position in one gallery, and [c] whether positions are shared."""
    inside = np.flatnonzero(atoms.inside[g])
    merged = torch.cat([tops[a] for a in inside], dim=1)
    kind = torch.cat([torch.full((tops[a].shape[1],), float(atoms.generated[a])) for a in inside]).double()
    values, index = merged.topk(min(k + 1, merged.shape[1]), dim=1)
    share = kind[index[:, :k]]
    beyond = values[:, k] == values[:, k - 1] if values.shape[1] > k else torch.zeros(len(values), dtype=torch.bool)
    values = values[:, :k]
    same = values[:, 1:] == values[:, :-1]
    tied = same.any(dim=1) | beyond
    rows = torch.nonzero(tied)[:, 0]
    if len(rows):
        share[rows] = _averaged(share[rows], same[rows])
    rows = torch.nonzero(beyond)[:, 0]
    if len(rows):
        # The last group goes on beyond the list; its composition is then that of all its members.
        parts = atoms.split(scores)
        counts = torch.stack([(parts[a][rows] == values[rows, -1:]).sum(dim=1) for a in inside], dim=1).double()
        composition = (counts @ torch.from_numpy(atoms.generated[inside].astype(np.float64))) / counts.sum(dim=1)
        last = values[rows] == values[rows, -1:]
        share[rows] = torch.where(last, composition.unsqueeze(1), share[rows])
    return share.numpy(), tied.numpy()


def _averaged(share: Tensor, same: Tensor) -> Tensor:
    """Replace [c, k] values by their mean over each run of tied positions; ``same`` [c, k - 1] tells ties."""
    fresh = torch.ones(share.shape, dtype=torch.int64)
    fresh[:, 1:] = (~same).long()
    group = fresh.cumsum(dim=1) - 1
    size = torch.zeros_like(share).scatter_add_(1, group, torch.ones_like(share))
    sums = torch.zeros_like(share).scatter_add_(1, group, share)
    return sums.gather(1, group) / size.gather(1, group)
