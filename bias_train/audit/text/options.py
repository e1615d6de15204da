"""What an audit of text spotting is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from bias_train.errors import RunError
from bias_train.metrics.functional.text.questions import KS
from bias_train.stats import Bootstrap


@dataclass(frozen=True)
class TextOptions:
    """The choices of an audit of text spotting.

    Attributes:
        ks: cut-offs of retrieval; the first leads.
        bootstrap: how intervals are made; None for none.
    """

    ks: tuple[int, ...] = KS
    bootstrap: Bootstrap | None = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        chosen = tuple(dict.fromkeys(self.ks))
        if not chosen or min(chosen) < 1:
            raise RunError(f"ks holds {', '.join(map(str, chosen)) or 'nothing'}; a cut-off is at least 1")
        object.__setattr__(self, "ks", chosen)
