"""Ranks and top lists, a chunk of queries at a time, with ties that no library's order decides.

Shapes: c queries of a chunk, M items in the gallery, K positions looked at, S kinds of item.

Ties. Tied items are taken to stand in random order, and every quantity is its expectation over that order: an item
among e tied ones below g better ones has mid-rank g + (e + 1)/2, and each position g+1..g+e holds 1/e of it
(McSherry and Najork 2008, "Computing information retrieval performance measures efficiently in the presence of tied
scores"). A top-k of the library would break ties by memory order, which in a gallery stored photos-first is a bias
of its own.

Scores are summed in float64 and rounded to float32. A float32 product depends, in its last bit, on the column's
place in the matrix and on the chunk, so that two copies of one picture would not tie and figures would change with
the chunk size. Rounded from float64, equal pictures have equal scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Scores of one chunk: 64 MiB as float64.
_CHUNK_SCORES = 1 << 23


def score_chunks(query: Tensor, item: Tensor, chunk_size: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Scores of all items, for some queries at a time.

    Args:
        query: [Q, D] float.
        item: [M, D] float.
        chunk_size: queries at once; None keeps a chunk's scores within 64 MiB.

    Yields:
        ``(rows, scores)``: the slice of the queries, and [c, M] float32 dot products (cosines of unit vectors).

    Raises:
        ValueError: if ``chunk_size`` is below 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; at least one query must be scored at a time")
    size = chunk_size or max(1, _CHUNK_SCORES // max(1, len(item)))
    columns = item.double().T
    for start in range(0, len(query), size):
        rows = slice(start, min(start + size, len(query)))
        yield rows, (query[rows].double() @ columns).float()


def mid_ranks(scores: Tensor, index: Tensor) -> Tensor:
    """1-based mid-ranks of chosen items.

    Args:
        scores: [c, M] float32.
        index: [c, R] int64 columns; -1 where a query has fewer.

    Returns:
        [c, R] float64, NaN where the index is -1.
    """
    ranks = torch.full(index.shape, torch.nan, dtype=torch.float64, device=scores.device)
    for r in range(index.shape[1]):
        own = scores.gather(1, index[:, r : r + 1].clamp(min=0))
        better = (scores > own).sum(dim=1)
        equal = (scores == own).sum(dim=1)
        rank = better.double() + (equal.double() + 1.0) / 2.0
        ranks[:, r] = torch.where(index[:, r] >= 0, rank, ranks[:, r])
    return ranks


@dataclass(frozen=True)
class TopList:
    """What stands at each of the first K positions, in expectation over the order of tied items.

    Attributes:
        index: [c, K] int64 columns, best first; among tied ones any order. For display.
        kind: [c, K, S] float64, expected share of each kind at the position; sums to 1.
        relevant: [c, K, S] float64, the same, counting relevant items only.
        above: [c, K] float64, number of items strictly better than those at the position.
        equal: [c, K] float64, number of items tied with it, itself included, beyond position K too.
    """

    index: Tensor
    kind: Tensor
    relevant: Tensor
    above: Tensor
    equal: Tensor

    @property
    def tied(self) -> Tensor:
        """[c] bool: whether any of the positions is shared by several items."""
        return (self.equal > 1).any(dim=1)


def top_list(scores: Tensor, relevant: Tensor, kind: Tensor, kinds: int, k: int) -> TopList:
    """The first k positions of each query's ranking.

    Args:
        scores: [c, M] float32.
        relevant: [c, M] bool.
        kind: [M] integers in 0..kinds-1, or [c, M] where an item's kind depends on the query.
        kinds: S.
        k: positions, at most M.
    """
    values, index = scores.topk(k, dim=1)
    kind = kind.expand(scores.shape)
    shown = torch.nn.functional.one_hot(kind.gather(1, index).long(), kinds).double()
    hit = shown * relevant.gather(1, index).unsqueeze(2)
    fresh = torch.ones_like(index)
    fresh[:, 1:] = (values[:, 1:] != values[:, :-1]).long()
    group = fresh.cumsum(dim=1) - 1
    inside = torch.zeros(group.shape, dtype=torch.float64, device=scores.device)
    inside.scatter_add_(1, group, torch.ones_like(inside))
    equal = inside.gather(1, group)
    # Position of the group's first member: everything before it is strictly better.
    above = torch.where(fresh.bool(), torch.arange(k, device=scores.device), 0).cummax(dim=1).values.double()
    if bool((equal > 1).any()):
        shown = _group_mean(shown, group, inside)
        hit = _group_mean(hit, group, inside)
    # The last group may go on beyond the list; its composition is then that of all its members.
    last = (scores == values[:, -1:]).sum(dim=1).double()
    for row in torch.nonzero(last > equal[:, -1])[:, 0].tolist():
        members = torch.nonzero(scores[row] == values[row, -1])[:, 0]
        ending = group[row] == group[row, -1]
        composition = torch.nn.functional.one_hot(kind[row, members].long(), kinds).double()
        shown[row, ending] = composition.mean(dim=0)
        hit[row, ending] = (composition * relevant[row, members].unsqueeze(1)).mean(dim=0)
        equal[row, ending] = last[row]
    return TopList(index, shown, hit, above, equal)


def expected_precision(share: Tensor, top: TopList) -> Tensor:
    """Expected value of (relevant here) * (precision here) at each position, the summand of an average precision.

    Among e tied items, r of them relevant, below n better relevant ones, the j-th tied position holds a relevant one
    with chance r/e, and then expects n + 1 + (j - 1)(r - 1)/(e - 1) of them up to itself (McSherry and Najork 2008).

    Args:
        share: [c, K] float64, chance that the position holds a relevant item: sums of columns of ``top.kind`` or
            ``top.relevant``.
        top: the list that they are of.

    Returns:
        [c, K] float64.
    """
    position = torch.arange(1, share.shape[1] + 1, dtype=torch.float64, device=share.device)
    place = position - top.above
    among = share * top.equal
    # Better groups lie wholly within the list, so that their expectations add up to their exact count.
    better = (share.cumsum(dim=1) - share).gather(1, top.above.long())
    others = (place - 1.0) * (among - 1.0) / (top.equal - 1.0).clamp(min=1.0)
    return share * (better + 1.0 + others) / position


def _group_mean(values: Tensor, group: Tensor, size: Tensor) -> Tensor:
    """Replace [c, K, S] values by the mean over their tie group."""
    spread = group.unsqueeze(2).expand_as(values)
    sums = torch.zeros_like(values).scatter_add_(1, spread, values)
    return sums.gather(1, spread) / size.gather(1, group).unsqueeze(2)


@dataclass(frozen=True)
class FirstRelevant:
    """Where a query's best relevant item stands; rows without a relevant item hold zeros in ``among``.

    Attributes:
        above: [c] float64, items strictly better than it.
        equal: [c] float64, items tied with it, itself included.
        among: [c] float64, relevant items among the tied ones.
    """

    above: Tensor
    equal: Tensor
    among: Tensor

    def rank(self) -> Tensor:
        """[c] float64 expected 1-based rank: above + (equal + 1)/(among + 1), the mid-rank for a single one."""
        return self.above + (self.equal + 1.0) / (self.among + 1.0)

    def hit(self, k: int) -> Tensor:
        """[c] float64 probability that a relevant item stands in the top k: 0 or 1 where no tie straddles k."""
        room = (k - self.above).clamp(min=0).minimum(self.equal)
        misses = self.equal - self.among

        def log_choose(n: Tensor, m: Tensor) -> Tensor:
            return torch.lgamma(n + 1) - torch.lgamma(m + 1) - torch.lgamma(n - m + 1)

        # All of the room is filled by irrelevant ones: hypergeometric, impossible once there are too few of them.
        safe = room.minimum(misses)
        none = torch.exp(log_choose(misses, safe) - log_choose(self.equal, safe))
        hit = torch.where(room > misses, torch.ones_like(none), 1.0 - none)
        return torch.where(room <= 0, torch.zeros_like(hit), hit)


def first_relevant(scores: Tensor, relevant: Tensor) -> FirstRelevant:
    """Locate the best relevant item of each query.

    Args:
        scores: [c, M] float32.
        relevant: [c, M] bool.
    """
    best = scores.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    tied = scores == best
    return FirstRelevant(
        above=(scores > best).sum(dim=1).double(),
        equal=tied.sum(dim=1).double(),
        among=(tied & relevant).sum(dim=1).double(),
    )


def discounts(k: int) -> Tensor:
    """[k] float64 weights 1/log2(1 + position) of a cumulated gain (Jarvelin and Kekalainen 2002)."""
    return 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
