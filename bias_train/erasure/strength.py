"""How strongly to erase: by bisection, until a figure of the calibration split has the value that is wanted."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.metrics.functional.source import source_bias
from datamodules.gallery import gallery
from models.erasure import LinearEraser

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Where a crossing is looked for; beyond them embeddings have little left but what the eraser put there."""

_TOLERANCE = 1.0 / 256.0


@dataclass(frozen=True)
class FigureChoice:
    """Which Relative Delta to look at.

    Attributes:
        metric: "R", "NDCG" or "P".
        k: cut-off.
    """

    metric: str
    k: int

    @classmethod
    def parse(cls, text: str) -> FigureChoice:
        """Read ``R@1`` and the like.

        Raises:
            RunError: for anything else.

        >>> FigureChoice.parse("P@100")
        FigureChoice(metric='P', k=100)
        """
        metric, _, k = text.partition("@")
        if metric not in ("R", "NDCG", "P") or not k.isdigit() or int(k) < 1:
            raise RunError(f"the figure {text!r} is none of R@k, NDCG@k and P@k, such as R@1 or P@100")
        return cls(metric, int(k))

    @classmethod
    def usual(cls, relevance: str) -> FigureChoice:
        """R@1 for scenes; P@100 for classes, where every gallery has many answers."""
        return cls("R", 1) if relevance == "pair" else cls("P", 100)

    def scaled(self, share: float) -> FigureChoice:
        """The same depth in a gallery of ``share`` times the size; the top ranks of scenes (k below 10) stay.

        >>> FigureChoice("P", 100).scaled(0.5).key, FigureChoice("R", 1).scaled(0.5).key
        ('P@50', 'R@1')
        """
        return self if self.k < 10 else FigureChoice(self.metric, max(1, round(self.k * share)))

    @property
    def key(self) -> str:
        """As people write it."""
        return f"{self.metric}@{self.k}"


def relative_delta(embeddings: Embeddings, figure: FigureChoice, seed: int = 0) -> float:
    """The Relative Delta of a gallery of equal parts, in percent; NaN where it is undefined."""
    if embeddings.text is None:
        raise RunError("the strength is tuned on a ranking, so the calibration needs queries; or set the strength")
    rows = gallery(embeddings.image_source, embeddings.image_target, 0.5, seed=seed)
    figures = source_bias(
        embeddings.text,
        embeddings.image[rows],
        torch.from_numpy(embeddings.query_target),
        torch.from_numpy(embeddings.image_target[rows]),
        torch.from_numpy(embeddings.image_source[rows]),
        relevance=embeddings.relevance,
        ks=() if figure.metric == "P" else (figure.k,),
        precision_ks=(figure.k,) if figure.metric == "P" else (),
    )
    return next((f.value for f in figures if f.name == f"relative_delta_{figure.metric}"), math.nan)


@dataclass(frozen=True)
class Tuned:
    """The outcome of a search.

    Attributes:
        strength: the one chosen.
        delta: what it gives on the calibration split, in percent.
        wanted: the target, in percent.
        figure: which Relative Delta.
        reached: whether some strength brings it to the target. If not, the one that comes nearest was chosen.
        tried: (strength, Relative Delta) in the order of trial.
    """

    strength: float
    delta: float
    wanted: float
    figure: str
    reached: bool
    tried: tuple[tuple[float, float], ...]

    def record(self) -> dict[str, Any]:
        """For the eraser's metadata."""
        return asdict(self)


def tune(
    eraser: LinearEraser, calibration: Embeddings, figure: FigureChoice, wanted: float = 0.0, seed: int = 0
) -> tuple[LinearEraser, Tuned]:
    """Choose the strength at which the calibration split's Relative Delta has the wanted value.

    Delta is a step function of the strength, and rises with it as a rule; so the first two of `STRENGTHS`
    between which it crosses the target are bisected. It never looks at a test split.

    Args:
        eraser: at strength 1.
        calibration: with queries.
        figure: which Relative Delta.
        wanted: in percent; 0 for no preference, or what a retriever trained on photos alone has.
        seed: of the gallery.

    Returns:
        The eraser at the chosen strength, and how it was found.

    Raises:
        RunError: where the calibration has no queries, or Delta is undefined without erasure.
    """
    tried: list[tuple[float, float]] = []

    def excess(strength: float) -> float:
        image = eraser.at(strength).apply(calibration.image)
        delta = relative_delta(replace(calibration, image=image), figure, seed)
        tried.append((strength, delta))
        return delta - wanted

    low, at_low = 0.0, excess(0.0)
    if math.isnan(at_low):
        raise RunError(
            f"Relative Delta of {figure.key} is undefined on the calibration split: no query has both of its sources "
            "within the cut-off; take a larger k"
        )
    bracket: tuple[float, float] | None = None
    for high in STRENGTHS:
        at_high = excess(high)
        if at_low == 0.0 or at_low * at_high < 0 or at_high == 0.0:
            bracket = low, high
            break
        if not math.isnan(at_high):
            low, at_low = high, at_high
    if bracket is not None:
        low, high = bracket
        while high - low > _TOLERANCE and at_low != 0.0:
            middle = (low + high) / 2
            at_middle = excess(middle)
            if at_low * at_middle <= 0:
                high = middle
            else:
                low, at_low = middle, at_middle
    strength, delta = min(
        (pair for pair in tried if not math.isnan(pair[1])), key=lambda pair: (abs(pair[1] - wanted), pair[0])
    )
    found = Tuned(strength, delta, wanted, figure.key, bracket is not None, tuple(tried))
    chosen = eraser.at(strength)
    return replace(chosen, metadata={**chosen.metadata, "tuned": found.record()}), found
