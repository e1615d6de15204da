"""Groups of people, as a data set's labels have them, and their crossings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError

Ints = NDArray[np.int64]

META = "groups"  # where a sample's meta keeps them: {"race": "Black", "gender": "Female"}
CROSS = " x "
UNKNOWN = -1


@dataclass(frozen=True)
class Grouping:
    """One way to divide pictures of people: by race, by gender, by both.

    Attributes:
        name: the attribute, such as ``"race"``, or ``"race x gender"``.
        labels: [G] names of the groups.
        code: [M] int64, each picture's group; -1 where it is not known.
    """

    name: str
    labels: tuple[str, ...]
    code: Ints

    def __post_init__(self) -> None:
        if len(set(self.labels)) < len(self.labels):
            raise DataError(f"grouping {self.name!r}: names a group twice in {', '.join(self.labels)}")
        if len(self.code) and not (self.code.min() >= UNKNOWN and self.code.max() < len(self.labels)):
            raise DataError(f"grouping {self.name!r}: holds a code that is none of its {len(self.labels)} groups")

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.labels)

    @property
    def counts(self) -> Ints:
        """[G] pictures of each group."""
        return np.bincount(self.code[self.code >= 0], minlength=len(self.labels)).astype(np.int64)

    @property
    def known(self) -> NDArray[np.bool_]:
        """[M] whether a picture's group is known."""
        return self.code >= 0

    def rows(self, keep: NDArray[np.integer] | NDArray[np.bool_]) -> Grouping:
        """The same groups for some of the pictures: integer row numbers, or a bool [M]."""
        return replace(self, code=self.code[keep])


def grouping(name: str, values: Sequence[str | None], labels: Sequence[str] | None = None) -> Grouping:
    """Make a grouping from names.

    Args:
        name: the attribute.
        values: [M] each picture's group; None or an empty string where it is not known.
        labels: the groups in their order; None takes those that occur, sorted.

    Raises:
        DataError: for a value that is none of the labels.

    >>> grouping("gender", ["Male", None, "Female"]).code.tolist()
    [1, -1, 0]
    """
    found = tuple(labels) if labels is not None else tuple(sorted({value for value in values if value}))
    number = {label: code for code, label in enumerate(found)}
    strange = next((value for value in values if value and value not in number), None)
    if strange is not None:
        raise DataError(f"attribute {name!r}: {strange!r} is none of its groups: {', '.join(found)}")
    return Grouping(name, found, np.array([number[v] if v else UNKNOWN for v in values], dtype=np.int64))


def groupings_of(values: Sequence[Mapping[str, str]]) -> tuple[Grouping, ...]:
    """Make a grouping of every attribute that some picture has.

    Args:
        values: [M] each picture's group by attribute.

    >>> [g.name for g in groupings_of([{"race": "Black"}, {"race": "White", "gender": "Male"}])]
    ['gender', 'race']
    """
    names = sorted({name for picture in values for name in picture})
    return tuple(grouping(name, [picture.get(name) for picture in values]) for name in names)


def crossed(parts: Sequence[Grouping], minimum: int = 0) -> Grouping:
    """Cross groupings: a group for every combination, such as ``"Black x Female"``.

    Args:
        parts: groupings of the same pictures, at least one.
        minimum: combinations with fewer pictures are no group of their own: their pictures become unknown. 0 keeps
            every combination that has a picture.

    Returns:
        Groups in the order of the parts' labels. A picture that is unknown to a part is unknown.

    Raises:
        DataError: for no parts, unequal lengths, or no combination that is large enough.

    >>> both = crossed([grouping("race", ["B", "W", "B"]), grouping("gender", ["F", "F", "M"])])
    >>> both.name, both.labels, both.code.tolist()
    ('race x gender', ('B x F', 'B x M', 'W x F'), [0, 2, 1])
    """
    if not parts:
        raise DataError("no attributes to cross: name at least one, such as race")
    if len({len(part.code) for part in parts}) > 1:
        raise DataError("attributes of unequal numbers of pictures cannot be crossed")
    name = CROSS.join(part.name for part in parts)
    flat = np.zeros(len(parts[0].code), dtype=np.int64)
    known = np.ones(len(flat), dtype=bool)
    for part in parts:
        flat = flat * len(part) + np.maximum(part.code, 0)
        known &= part.known
    labels = [CROSS.join(combination) for combination in product(*(part.labels for part in parts))]
    count = np.bincount(flat[known], minlength=len(labels))
    kept = np.flatnonzero(count >= max(minimum, 1))
    if len(kept) == 0:
        raise DataError(f"{name}: no group has {max(minimum, 1)} pictures or more; lower the minimum")
    number = np.full(len(labels), UNKNOWN, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    return Grouping(name, tuple(labels[row] for row in kept.tolist()), np.where(known, number[flat], UNKNOWN))


def attribute(available: Sequence[Grouping], wanted: str, minimum: int = 0) -> Grouping:
    """Look an attribute up, or cross several: ``"race"``, ``"race x gender"``.

    Raises:
        DataError: for a name that the pictures do not carry, or where no group is large enough.
    """
    by_name = {part.name: part for part in available}
    names = [wanted] if wanted in by_name else wanted.split(CROSS)
    missing = next((name for name in names if name not in by_name), None)
    if missing is not None:
        raise DataError(f"there is no attribute {missing!r}; the pictures have {', '.join(sorted(by_name)) or 'none'}")
    return crossed([by_name[name] for name in names], minimum)
