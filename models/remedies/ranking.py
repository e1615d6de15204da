"""Re-ranking: what a search shows first is put together from all groups. Needs the group of each picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import ModelError
from models.remedies.base import Calibration, Fitted, Remedy
from models.remedies.sides import record

Ints = NDArray[np.int64]

_LATE = np.iinfo(np.int64).max


class GreedyRanking(Remedy):
    """Fill the places from the first on so that every beginning of the list has the wanted shares.

    Geyik, Ambler and Kenthapadi 2019 ("Fairness-aware ranking in search & recommendation systems"). With n_g pictures
    of group g among the first k - 1, place k goes to the best-scored picture of a group that would fall below
    ``floor(k q_g)``; where none would, to one of the groups below ``ceil(k q_g)``: of DetGreedy ("greedy") the
    best-scored one, of DetCons ("conservative") that of the group whose next picture is due first, the smallest
    ``ceil(k q_g) / q_g``. Groups that run out leave their places to the others. The wanted shares q are the
    calibration's target.

    Pictures of unknown group keep the places that their scores give them; the others are arranged around them (ours).

    Args:
        rule: "greedy" or "conservative".
    """

    def __init__(self, rule: Literal["greedy", "conservative"] = "greedy") -> None:
        if rule not in ("greedy", "conservative"):
            raise ModelError(f"GreedyRanking: rule is {rule!r}; choose greedy or conservative")
        self.rule = rule

    def _fit(self, calibration: Calibration) -> FittedGreedyRanking:
        return FittedGreedyRanking(calibration.target, record("greedy ranking", calibration, rule=self.rule))


class Interleaving(Remedy):
    """Show the best picture of each group, then the second of each, and so on.

    PBM (Kong et al. 2023, "Mitigating test-time bias for fair image retrieval"): equal numbers of all groups. Among
    pictures of unknown group ("neutral"), the next round of all groups comes when the mean of its scores is above the
    score of the best neutral picture that is left, which comes otherwise. A group that has run out takes no part.
    """

    def _fit(self, calibration: Calibration) -> FittedInterleaving:
        return FittedInterleaving(calibration.target, record("interleaving", calibration))


class _FittedRanking(Fitted):
    """A ranking fitted to a target.

    Args:
        target: [G] float64 wanted shares.
        about: the metadata.
    """

    def __init__(self, target: Tensor, about: dict[str, Any]) -> None:
        self.target, self.about = target, about

    def _check(self, group: Tensor) -> Ints:
        codes = group.cpu().numpy()
        if len(codes) and (codes.min() < -1 or codes.max() >= len(self.target)):
            raise ModelError(f"the ranking was fitted to {len(self.target)} groups; a picture's group is none of them")
        return np.asarray(codes, dtype=np.int64)

    @property
    def metadata(self) -> dict[str, Any]:
        """How it was fitted."""
        return self.about

    def state(self) -> Mapping[str, Tensor]:
        """The wanted shares."""
        return {"target": self.target}

    @classmethod
    def of(cls, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> _FittedRanking:
        """Make it again."""
        return cls(state["target"], dict(metadata))


class FittedGreedyRanking(_FittedRanking):
    """See :class:`GreedyRanking`."""

    def rank(self, scores: Tensor, group: Tensor) -> Tensor:
        """Order each query's pictures; ties in scores go to the earlier row."""
        codes = self._check(group)
        order = np.argsort(-scores.cpu().numpy(), axis=1, kind="stable")
        known = codes[order] >= 0
        # Every query ranks the same pictures, so that each has as many of known group.
        ranked = order[known].reshape(len(order), int((codes >= 0).sum()))
        order[known] = np.take_along_axis(ranked, self._arranged(codes[ranked]), axis=1).ravel()
        return torch.from_numpy(order)

    def _arranged(self, code: Ints) -> Ints:
        """[W, n] which place of its ranking by scores each query shows first, second, ..., from groups [W, n]."""
        target = self.target.numpy()
        queries, total = code.shape
        size = np.bincount(code[0], minlength=len(target)) if queries else np.zeros(len(target), dtype=np.int64)
        first = np.cumsum(size) - size
        places = np.argsort(code, axis=1, kind="stable")  # group by group, each from its best to its last
        taken = np.zeros((queries, len(target)), dtype=np.int64)
        found, rows = np.empty_like(code), np.arange(queries)
        for k in range(1, total + 1):
            # Products such as 100 * 0.29 come out just below the whole number that they are.
            least, most = np.floor(k * target + 1e-9), np.ceil(k * target - 1e-9)
            left = taken < size
            best = np.take_along_axis(places, np.minimum(first + taken, total - 1), axis=1)
            below, allowed = left & (taken < least), left & (taken < most)
            urgent, possible = below.any(axis=1, keepdims=True), allowed.any(axis=1, keepdims=True)
            key = best
            if self.about["rule"] == "conservative":
                due = (most / np.maximum(target, 1e-12)).round(9)
                key = np.where(possible & ~urgent, np.unique(due, return_inverse=True)[1] * total + best, best)
            candidates = np.where(urgent, below, np.where(possible, allowed, left))
            chosen = np.where(candidates, key, _LATE).argmin(axis=1)
            found[:, k - 1] = best[rows, chosen]
            taken[rows, chosen] += 1
        return found


class FittedInterleaving(_FittedRanking):
    """See :class:`Interleaving`."""

    def rank(self, scores: Tensor, group: Tensor) -> Tensor:
        """Order each query's pictures; ties in scores go to the earlier row.

        Rounds and neutral pictures are two lists that are merged, each in its own order: a sort by score, in which a
        round's is the lowest mean of the rounds up to it.
        """
        codes = self._check(group)
        given = scores.double().cpu().numpy()
        order = np.argsort(-given, axis=1, kind="stable")
        code, score = codes[order], np.take_along_axis(given, order, axis=1)
        turn = np.full(code.shape, -1)  # which round shows a picture; none for neutral ones
        for group_code in range(len(self.target)):
            mine = code == group_code
            turn[mine] = (mine.cumsum(axis=1) - 1)[mine]
        rounds = int(turn.max(initial=-1)) + 1
        neutral = turn < 0
        total, count = np.zeros((2, len(order), rounds + 1))  # the last is where neutral pictures, of turn -1, go
        row = np.broadcast_to(np.arange(len(order))[:, None], turn.shape)
        np.add.at(total, (row, turn), np.where(neutral, 0.0, score))
        np.add.at(count, (row, turn), 1.0)
        lowest = np.minimum.accumulate(total[:, :rounds] / np.maximum(count[:, :rounds], 1.0), axis=1)
        key = score if rounds == 0 else np.where(neutral, score, np.take_along_axis(lowest, turn.clip(min=0), axis=1))
        merged = np.lexsort((turn, ~neutral, -key), axis=1)
        return torch.from_numpy(np.take_along_axis(order, merged, axis=1))
