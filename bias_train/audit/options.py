"""What an audit is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bias_train.errors import RunError
from bias_train.stats import Bootstrap

HEADLINE_RATIO = 0.5


@dataclass(frozen=True)
class AuditOptions:
    """The choices of an audit of source bias.

    Attributes:
        ks: cut-offs of R@k, NDCG@k, source share and Delta-NDSR; the first is the headline's.
        precision_ks: cut-offs of P@k where relevance is by label.
        ratios: generated shares of the galleries; 0.5 is always among them.
        quantiles: parts into which caption lengths and photo-twin similarities are divided; 0 for neither.
        bootstrap: how intervals are made.
        permutations: relabellings of the label-swap test; 0 for no test.
        adjust: correction of the tests' p-values over the cells in which the same figure is tested.
        margin: what does not matter in an equivalence test, in points of R@1 (percent).
        alpha: level of the equivalence tests.
        widest: an interval of a Relative Delta that is wider than this is warned of, in its points.
        fewest_hits: fewer hits behind a Relative Delta than this are warned of.
        max_rank: of the rank difference.
        seed: of galleries and permutations.
    """

    ks: tuple[int, ...] = (1, 3, 5, 10)
    precision_ks: tuple[int, ...] = (10, 100)
    ratios: tuple[float, ...] = (0.2, 0.5, 0.8)
    quantiles: int = 4
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    permutations: int = 9999
    adjust: Literal["holm", "bh", "none"] = "holm"
    margin: float = 0.5
    alpha: float = 0.05
    widest: float = 20.0
    fewest_hits: int = 50
    max_rank: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ks", _cutoffs("ks", self.ks))
        object.__setattr__(self, "precision_ks", _cutoffs("precision_ks", self.precision_ks))
        ratios = tuple(sorted({*self.ratios, HEADLINE_RATIO}))
        if not all(0 < ratio < 1 for ratio in ratios):
            raise RunError(
                f"ratios are {', '.join(f'{r:g}' for r in self.ratios)}; give shares above 0 and below 1: each "
                "source alone is always measured"
            )
        object.__setattr__(self, "ratios", ratios)
        for name, value, least in (
            ("quantiles", self.quantiles, 0),
            ("permutations", self.permutations, 0),
            ("max_rank", self.max_rank, 1),
        ):
            if value < least:
                raise RunError(f"{name} is {value}; give {least} or more")
        if not self.margin > 0:
            raise RunError(f"margin is {self.margin:g}; give points of R@1 above 0, such as 0.5")
        if not 0 < self.alpha < 0.5:
            raise RunError(f"alpha is {self.alpha:g}; give a level between 0 and 0.5, such as 0.05")
        if not self.widest > 0 or math.isnan(self.widest):
            raise RunError(f"widest is {self.widest:g}; give a width above 0")
        if self.adjust not in ("holm", "bh", "none"):
            raise RunError(f"adjust is {self.adjust!r}; choose holm, bh or none")

    @property
    def headline_k(self) -> int:
        """Cut-off of the figures that lead."""
        return self.ks[0]


def _cutoffs(name: str, ks: Sequence[int]) -> tuple[int, ...]:
    if not ks or min(ks) < 1:
        raise RunError(f"{name} holds {', '.join(map(str, ks)) or 'nothing'}; a cut-off is at least 1")
    return tuple(sorted(set(ks)))
