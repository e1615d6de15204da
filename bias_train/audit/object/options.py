"""What an audit of object bias is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from bias_train.errors import RunError
from bias_train.metrics.functional.object.decorrelation import FEWEST
from bias_train.metrics.functional.object.questions import CLEAN_KS
from bias_train.stats import Bootstrap


@dataclass(frozen=True)
class ObjectOptions:
    """The choices of an audit of object bias.

    Attributes:
        ks: cut-offs of object bias; the first leads.
        clean_ks: cut-offs of ordinary retrieval beside it.
        minimum: queries below which a category stays out of the mean over categories.
        bootstrap: how intervals over pictures are made; None for none.
    """

    ks: tuple[int, ...] = (10, 1, 5, 50)
    clean_ks: tuple[int, ...] = CLEAN_KS
    minimum: int = FEWEST
    bootstrap: Bootstrap | None = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        for name in ("ks", "clean_ks"):
            chosen = tuple(dict.fromkeys(getattr(self, name)))
            if not chosen or min(chosen) < 1:
                raise RunError(f"{name} holds {', '.join(map(str, chosen)) or 'nothing'}; a cut-off is at least 1")
            object.__setattr__(self, name, chosen)
        if self.minimum < 1:
            raise RunError(f"minimum is {self.minimum}; give 1 or more")
