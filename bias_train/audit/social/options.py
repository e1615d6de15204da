"""What an audit of social bias is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bias_train.errors import RunError
from bias_train.stats import Bootstrap

Target = Literal["pool", "uniform"] | Mapping[str, Mapping[str, float]]
FEWEST = 30  # pictures of a group, below which its figures are mostly noise


@dataclass(frozen=True)
class SocialOptions:
    """The choices of an audit of social bias.

    Attributes:
        attributes: what people are grouped by, such as ``"race"`` or ``"race x gender"``; None takes every attribute
            of the pictures, and race crossed with gender where they have both.
        minimum: groups with fewer pictures are left out.
        ks: cut-offs; the first leads.
        target: the shares that a neutral query should show: "pool" (those of all pictures), "uniform", or shares by
            attribute and group; attributes that it does not name have the pool's.
        bootstrap: how intervals are made.
        permutations: random relabellings behind the p-value of each association; 0 takes a curve with the first three
            moments of all of them, which alone can be small enough to stand a correction for thousands of cells.
        adjust: correction of the p-values over all words and groups of an attribute.
        alpha: level at which a corrected p-value counts as significant.
        floor_draws: random rankings behind the random retriever's floor.
        seed: of permutations, floors and halves.
    """

    attributes: tuple[str, ...] | None = None
    minimum: int = FEWEST
    ks: tuple[int, ...] = (100, 500, 1000)
    target: Target = "pool"
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    permutations: int = 0
    adjust: Literal["bh", "holm", "none"] = "bh"
    alpha: float = 0.05
    floor_draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise RunError(f"k holds {', '.join(map(str, self.ks)) or 'nothing'}; a cut-off is at least 1")
        object.__setattr__(self, "ks", tuple(dict.fromkeys(self.ks)))
        for name, value, least in (
            ("minimum", self.minimum, 1), ("permutations", self.permutations, 0), ("floor_draws", self.floor_draws, 1),
        ):  # fmt: skip
            if value < least:
                raise RunError(f"{name} is {value}; give {least} or more")
        if not 0 < self.alpha < 1:
            raise RunError(f"alpha is {self.alpha:g}; give a level between 0 and 1, such as 0.05")
        if self.adjust not in ("bh", "holm", "none"):
            raise RunError(f"adjust is {self.adjust!r}; choose bh, holm or none")
        if isinstance(self.target, str) and self.target not in ("pool", "uniform"):
            raise RunError(f"target is {self.target!r}; choose pool or uniform, or give shares")

    def target_of(self, attribute: str, labels: tuple[str, ...]) -> Literal["pool", "uniform"] | list[float]:
        """The target of one attribute: "pool", "uniform", or a share for each of its groups.

        Raises:
            RunError: for shares that name other groups, are not positive, or do not sum to 1.
        """
        if self.target == "pool" or self.target == "uniform":
            return self.target
        given = self.target.get(attribute)
        if given is None:
            return "pool"
        if set(given) != set(labels):
            raise RunError(
                f"target: names the groups {', '.join(given)} of {attribute!r}, but there are {', '.join(labels)}"
            )
        shares = [float(given[label]) for label in labels]
        if min(shares) <= 0 or abs(sum(shares) - 1.0) > 1e-6:
            raise RunError(f"target: the shares of {attribute!r} must be above 0 and sum to 1, not {sum(shares):g}")
        return shares
