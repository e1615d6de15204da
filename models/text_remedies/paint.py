"""Choosing how far to go from a starting model to a finetuned one (PAINT)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.errors import ModelError
from models.interpolation import kept_state, put_between
from models.retriever import Retriever

ALPHAS = tuple(step / 10 for step in range(11))
"""The paper's grid."""


@dataclass(frozen=True)
class Point:
    """A retriever on the line, measured.

    Attributes:
        alpha: how far it is from the start, 0 to 1.
        attack: the figure to bring down, such as the share of pictures that the written word wins.
        clean: the figure to keep, such as R@1 of ordinary pairs.
    """

    alpha: float
    attack: float
    clean: float


@dataclass(frozen=True)
class Chosen:
    """What :func:`choose` decides.

    Attributes:
        point: the chosen point.
        points: all, in the order of alpha.
        margin: what ``clean`` was allowed to lose, as a difference.
        floor: what ``clean`` had to reach.
    """

    point: Point
    points: tuple[Point, ...]
    margin: float
    floor: float

    def allowed(self, point: Point) -> bool:
        """Whether a point keeps what must be kept."""
        return point.clean >= self.floor


def walk(
    retriever: Retriever,
    finetuned: Retriever,
    measure: Callable[[Retriever], tuple[float, float]],
    alphas: Sequence[float] = ALPHAS,
    margin: float = 0.01,
) -> Chosen:
    """Measure retrievers on the line between two, and leave the first one with the best weights.

    Ilharco et al. 2022, "Patching open-vocabulary models by interpolating weights" (PAINT), equation 1:
    ``theta = (1 - alpha) theta_0 + alpha theta_ft``, alpha chosen on held-out data. There the text tower stays frozen
    while one finetunes, so that it is the same all along the line; here a trained one is interpolated too. The rule of
    the choice, see :func:`choose`, is ours.

    Args:
        retriever: the starting model; in the end it has the weights of the chosen point.
        finetuned: of the same architecture; stays as it is.
        measure: gives ``(attack, clean)`` of a retriever, on data that neither was trained on.
        alphas: the grid; 0 is always measured, since the margin counts from there.
        margin: see :func:`choose`.

    Returns:
        All points and the chosen one.

    Raises:
        ModelError: for retrievers of different architectures, an alpha outside [0, 1], or no number to choose by.
    """
    grid = sorted({0.0, *alphas})
    if not 0 <= grid[0] <= grid[-1] <= 1:
        raise ModelError(f"alphas lie in [0, 1], but {grid[0] if grid[0] < 0 else grid[-1]:g} is among them")
    start, trained = kept_state(retriever), kept_state(finetuned)
    points = []
    try:
        for alpha in grid:
            put_between(retriever, start, trained, alpha)
            points.append(Point(alpha, *measure(retriever)))
        chosen = choose(points, margin)
    except BaseException:
        put_between(retriever, start, trained, 0.0)
        raise
    put_between(retriever, start, trained, chosen.point.alpha)
    return chosen


def choose(points: Sequence[Point], margin: float = 0.01) -> Chosen:
    """Take the point with the least attack figure among those that keep the clean one.

    Args:
        points: measured; one of them at alpha 0.
        margin: by how much ``clean`` may lie below that at alpha 0, as a difference of shares: 0.01 is a point of R@1.

    Returns:
        The choice; of equal points the one nearest to the start. Alpha 0 always keeps itself, so that there is one.

    Raises:
        ModelError: for a negative margin, no point at alpha 0, or one whose figures are no numbers.

    Example:
        >>> points = [Point(0.0, 0.60, 0.40), Point(0.5, 0.20, 0.395), Point(1.0, 0.10, 0.30)]
        >>> choose(points, margin=0.01).point.alpha
        0.5
    """
    if not margin >= 0:
        raise ModelError(f"the margin of the clean figure is {margin}; give 0 or more, such as 0.01 for a point of R@1")
    ordered = tuple(sorted(points, key=lambda point: point.alpha))
    start = next((point for point in ordered if point.alpha == 0), None)
    if start is None:
        raise ModelError("no point at alpha 0 was measured: the margin counts from there")
    unknown = next((point for point in ordered if math.isnan(point.clean) or math.isnan(point.attack)), None)
    if unknown is not None:
        raise ModelError(
            f"at alpha {unknown.alpha:g} the figures are {unknown.attack} and {unknown.clean}: nothing to choose by; "
            "give more pictures"
        )
    # A rounding error must not turn away a point that lies just on the margin.
    floor = start.clean - margin - 1e-9
    allowed = [point for point in ordered if point.clean >= floor]
    return Chosen(min(allowed, key=lambda point: (point.attack, point.alpha)), ordered, margin, floor)
