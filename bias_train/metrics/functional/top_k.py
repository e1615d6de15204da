"""Exact search for the best of a large gallery, block by block, on processors and GPUs.

Shapes: Q queries, G of them in a group, M gallery rows, B of them in a block, D width, c candidates.

What makes it fast (own construction). After the first block every query knows the k-th best score so far, and of a
later block only what scores higher can matter. Whether anything does is first asked of a product in low precision, with
a margin that no rounding can exceed, so nothing is lost; the few rows that pass are scored again, exactly. So nearly
all of the arithmetic is one matrix product in the precision that the hardware multiplies fastest, and one pass of
maxima over its outcome. The whole [Q, M] matrix is never held.

Scores are what :func:`bias_train.metrics.functional.ranking.score_chunks` gives: summed in float64 and rounded to
float32, so that equal rows tie wherever they stand. Of tied rows the one of the lower index comes first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bias_train.metrics.functional.inputs import check_embeddings

Block = Tensor | NDArray[Any]

_GROUP = 1024  # queries whose scores of a block are held at once
_WIDTH = 32  # neighbouring scores that are first looked at by their maximum alone
_DENSE = 32  # where more than one score in so many passes, scoring all of the block exactly is faster
_GATHERED = 1 << 14  # pairs of vectors that are gathered at once
_ROUND = 2.0**-24  # the most that float32 rounds off, relative


def top_k(
    queries: Tensor,
    gallery: Block | Iterable[Block],
    k: int,
    *,
    chunk_bytes: int = 1 << 28,
    first_pass: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """The k gallery rows of the largest inner product with each query, exactly.

    Args:
        queries: [Q, D] float, none all zeros; taken as float32.
        gallery: [M, D] float, taken as float32: a tensor, an array (it may be mapped from a file), or an iterable of
            such blocks of some thousand rows, read once.
        k: rows to find for each query, at most M.
        chunk_bytes: about the most that is held beside the queries, the outcome and the gallery itself.
        first_pass: bfloat16 or float32, the precision in which rows are sorted out; it changes no result. None takes
            bfloat16 where the hardware has units for it, else float32.
        device: where to compute; None where the queries are.

    Returns:
        ``(scores, index)`` on that device: [Q, k] float32, falling, and [Q, k] int64 rows of the gallery. Rows that
        tie stand in the order of the gallery.

    Raises:
        ValueError: for another shape or dtype, a row that is not finite, or a gallery of fewer than k rows.

    Example:
        >>> scores, index = top_k(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.0], [2.0, 1.0], [0.5, 3.0]]), 2)
        >>> scores.tolist(), index.tolist()
        ([[2.0, 0.5]], [[1, 0]])
    """
    check_embeddings(queries=queries)
    if k < 1:
        raise ValueError(f"k is {k}; at least one row must be asked for")
    place = torch.device(device) if device is not None else queries.device
    asked = queries.detach().to(place, torch.float32)
    kind = first_pass or _fastest(place)
    if kind not in (torch.bfloat16, torch.float32):
        raise ValueError(f"first_pass is {kind}; choose torch.bfloat16 or torch.float32")
    kinds = [torch.bfloat16, torch.float32] if kind == torch.bfloat16 else [torch.float32]
    width = asked.shape[1]
    size = _block_rows(chunk_bytes, min(len(asked), _GROUP), width)
    with _full_precision(), torch.no_grad():
        groups = [_Tops(group, k, kinds) for group in asked.split(_GROUP)]
        seen = 0
        for rows in _blocks(gallery, size, width):
            block = _prepared(rows, place, kinds, seen)
            for group in groups:
                group.meet(block)
            seen += block.count
        if seen < k:
            raise ValueError(f"k is {k}, but the gallery holds only {seen} rows")
        for group in groups:
            group.reduce()
    return torch.cat([group.score for group in groups]), torch.cat([group.index for group in groups])


class _Candidates(NamedTuple):
    row: Tensor  # int64 [c], which query of the group
    item: Tensor  # int64 [c], which row of the gallery
    score: Tensor  # float32 [c]


@dataclass(frozen=True)
class _Block:
    first: int  # index of its first row
    count: int
    exact: Tensor  # float32 [B', D], zeros below ``count`` so that B' is a multiple of _WIDTH
    by_kind: dict[torch.dtype, Tensor]
    longest: float  # the largest norm of a row


class _Tops:
    """The best rows so far of a group of queries, and what came later and may be better.

    Attributes:
        score: [G, k] float32, falling; -inf where fewer have been seen.
        index: [G, k] int64.
    """

    def __init__(self, query: Tensor, k: int, kinds: list[torch.dtype]) -> None:
        self.score = torch.full((len(query), k), -torch.inf, device=query.device)
        self.index = torch.full((len(query), k), -1, dtype=torch.int64, device=query.device)
        self._query, self._double = query, query.double()
        self._rounded = {kind: query.to(kind) for kind in kinds}
        self._margins = {kind: self._margin(kind) for kind in kinds}
        self._held: list[_Candidates] = []
        self._room: dict[torch.dtype, Tensor] = {}

    def meet(self, block: _Block) -> None:
        """Take up what a block has that is better than the k-th best."""
        found = None
        if bool(torch.isfinite(self.score[:, -1]).all()):
            # From the coarsest precision on: one in which too much lies within the margin sorts out too little.
            found = next((c for kind in self._rounded if (c := self._passing(block, kind)) is not None), None)
        self._held.append(self._rescored(block, *found) if found is not None else self._scored(block))
        if sum(len(held.row) for held in self._held) >= self.score.numel():
            self.reduce()

    def reduce(self) -> None:
        """Merge what was held into the tops."""
        count, k = self.score.shape
        known = torch.nonzero(self.index >= 0)
        mine = _Candidates(known[:, 0], self.index[known[:, 0], known[:, 1]], self.score[known[:, 0], known[:, 1]])
        row, index, score = (torch.cat(parts) for parts in zip(mine, *self._held, strict=True))
        self._held = []
        # By query, then by falling score, then by index: each sort keeps the order of the one before among equals.
        order = index.argsort(stable=True)
        order = order[score[order].argsort(stable=True, descending=True)]
        order = order[row[order].argsort(stable=True)]
        row, index, score = row[order], index[order], score[order]
        begin = torch.searchsorted(row, torch.arange(count, device=row.device))
        place = torch.arange(len(row), device=row.device) - begin[row]
        kept = place < k
        self.score[row[kept], place[kept]] = score[kept]
        self.index[row[kept], place[kept]] = index[kept]

    def _passing(self, block: _Block, kind: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """Queries and columns [c] that may score above the k-th best; None where there are too many to be worth it."""
        rows, bound, many = block.by_kind[kind], self._bound(block, kind), len(self._query)
        groups = len(rows) // _WIDTH  # of neighbours, looked at by their maximum first
        scores = self._scores(rows, kind)
        rows_first = kind == torch.bfloat16
        # Numbers above zero stand in the order of their bits, which is found several times as fast.
        bits = kind if not bool((bound > 0).all()) else torch.int16 if kind == torch.bfloat16 else torch.int32
        best = scores.view(bits).amax(dim=1)
        likely = (best.T if rows_first else best) >= bound.view(bits)[:, None]
        query, group = torch.nonzero(likely, as_tuple=True)
        if 2 * len(query) > many * groups:
            return None
        near = scores[group, :, query] if rows_first else scores[query, :, group]
        which, member = torch.nonzero(near >= bound[query, None], as_tuple=True)
        if _DENSE * len(which) > many * len(rows):
            return None
        query, group = query[which], group[which]
        column = group * _WIDTH + member if rows_first else member * groups + group
        inside = column < block.count
        return query[inside], column[inside]

    def _scores(self, rows: Tensor, kind: torch.dtype) -> Tensor:
        """Scores, neighbours along the middle axis, so that maxima over it run along the memory.

        In bfloat16 [B' / W, W, G], neighbours being adjacent rows: the library lays the second factor of a product out
        anew, so the smaller one stands there. In float32, where it does not, [G, W, B' / W], neighbours being B' / W
        rows apart.
        """
        room = self._room.get(kind)
        if room is None or room.numel() != len(self._query) * len(rows):
            room = self._room[kind] = torch.empty(len(self._query) * len(rows), dtype=kind, device=rows.device)
        if kind == torch.bfloat16:
            product = torch.mm(rows, self._rounded[kind].T, out=room.view(len(rows), -1))
            return product.view(-1, _WIDTH, len(self._query))
        product = torch.mm(self._rounded[kind], rows.T, out=room.view(-1, len(rows)))
        return product.view(len(self._query), _WIDTH, -1)

    def _margin(self, kind: torch.dtype) -> Tensor:
        """[G] float64 how far off a product in some precision is at most, for a gallery row of unit length.

        With roundings q' of q and x' of x, |qx - q'x'| <= |q - q'||x| + |q'||x - x'| (Cauchy and Schwarz), and a sum of
        D products in float32, in any order, is off by D units in the last place of |q'||x'| at most (Higham, "Accuracy
        and Stability of Numerical Algorithms", 2002, section 3.1).
        """
        rounded = self._rounded[kind].double()
        short = 0.0 if kind == torch.float32 else torch.finfo(kind).eps / 2
        length = rounded.norm(dim=1)
        summed = 1.1 * (rounded.shape[1] + 2) * _ROUND * length
        return ((self._double - rounded).norm(dim=1) + short * length + summed) * (1 + 2 * short)

    def _bound(self, block: _Block, kind: torch.dtype) -> Tensor:
        """[G] what a product in some precision comes to at least, where the exact score is above the k-th best.

        Rounding the product to that precision keeps the order of numbers, so the bound is rounded alike, and down.
        """
        least = self.score[:, -1].double()
        low = least - self._margins[kind] * block.longest - 2 * _ROUND * least.abs()
        return (low - 2 * torch.finfo(kind).eps * low.abs()).to(kind)

    def _rescored(self, block: _Block, query: Tensor, column: Tensor) -> _Candidates:
        """Candidates' exact scores, without those that are no better than the k-th best."""
        if torch.bfloat16 in self._rounded:  # most of what passed it falls short of the float32 score already
            likely = _products(self._query, block.exact, query, column) >= self._bound(block, torch.float32)[query]
            query, column = query[likely], column[likely]
        # Converting the few rows that are asked for takes less time than converting the block.
        asked, place = torch.unique(column, return_inverse=True)
        score = _products(self._double, block.exact[asked].double(), query, place).float()
        better = score > self.score[query, -1]
        return _Candidates(query[better], block.first + column[better], score[better])

    def _scored(self, block: _Block) -> _Candidates:
        """What of a block belongs to the best k of it and of all before, by its exact scores."""
        k = self.score.shape[1]
        exact = block.exact[: block.count].double().T
        found = []
        # Few enough at once that scores and counts take no more than a first pass does.
        for part in torch.arange(len(self._query), device=exact.device).split(max(1, _GROUP // 16)):
            scores = (self._double[part] @ exact).float()
            both = torch.cat([self.score[part], scores], dim=1)
            least = both.topk(k, dim=1).values[:, -1:]
            tied = scores == least
            kept = (scores > least) | (tied & (tied.cumsum(dim=1, dtype=torch.int32) <= k))
            row, column = torch.nonzero(kept & (scores > self.score[part][:, -1:]), as_tuple=True)
            found.append(_Candidates(part[row], block.first + column, scores[row, column]))
        return _Candidates(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _products(left: Tensor, right: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Inner products [c] of some rows of ``left`` [G, D] with some of ``right`` [B, D]; ``row`` does not fall."""
    if left.device.type == "cpu":
        begin = torch.searchsorted(row, torch.arange(len(left) + 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this layout of sparse tensors is new
            wanted = torch.sparse_csr_tensor(
                begin, column, left.new_zeros(len(row)), (len(left), len(right)), check_invariants=False
            )
            # Reads both vectors where they lie, in a tenth of the time that gathering them takes.
            return torch.sparse.sampled_addmm(wanted, left, right.T, beta=0.0).values()
    found = left.new_empty(len(row))
    for part in torch.arange(len(row), device=row.device).split(_GATHERED):
        found[part] = (left[row[part]] * right[column[part]]).sum(dim=1)
    return found


def _prepared(rows: Tensor, device: torch.device, kinds: list[torch.dtype], first: int) -> _Block:
    exact = rows.to(device, torch.float32)
    length = torch.linalg.vector_norm(exact, dim=1)
    if not bool(torch.isfinite(length).all()):
        row = first + int(torch.nonzero(~torch.isfinite(length))[0, 0])
        raise ValueError(f"gallery row {row} is not finite: the encoder diverged or its input was corrupt")
    if len(rows) % _WIDTH:
        exact = torch.nn.functional.pad(exact, (0, 0, 0, -len(rows) % _WIDTH))
    longest = float(length.max()) * (1 + 1e-5) + 1e-17  # squares of tiny rows underflow
    return _Block(first, len(rows), exact, {kind: exact.to(kind) for kind in kinds}, longest)


def _blocks(gallery: Block | Iterable[Block], size: int, width: int) -> Iterator[Tensor]:
    seen = 0
    for part in [gallery] if isinstance(gallery, Tensor | np.ndarray) else gallery:
        kind = part.is_floating_point() if isinstance(part, Tensor) else np.issubdtype(part.dtype, np.floating)
        if part.ndim != 2 or part.shape[1] != width or not kind:
            raise ValueError(
                f"the gallery is {tuple(part.shape)} {part.dtype} from row {seen} on; give [rows, {width}] float"
            )
        for start in range(0, len(part), size):
            block = part[start : start + size]
            # Copied out of an array that may be mapped from a file, and not writable.
            yield block.detach() if isinstance(block, Tensor) else torch.from_numpy(np.array(block))
        seen += len(part)


def _block_rows(chunk_bytes: int, group: int, width: int) -> int:
    """Rows of a block: room for a score of every query and what is made of it, and for the row in three precisions."""
    each = 12 * group + 24 * width
    if chunk_bytes < _WIDTH * each:
        raise ValueError(f"chunk_bytes is {chunk_bytes}; {group} queries {width} wide need at least {_WIDTH * each}")
    return chunk_bytes // each // _WIDTH * _WIDTH


def _fastest(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep products as exact as the margin takes them to be: no TF32, no sums in bfloat16."""
    before, matmul = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul
    reduced = matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        matmul.allow_bf16_reduced_precision_reduction = reduced
