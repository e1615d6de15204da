"""Which objects come together more often than by chance without being alike: what a retriever may confuse."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError

ALIKE = "related by the table"
NEAR = "names too alike"
RARE = "too few pictures"
WEAK = "too weakly tied"


@dataclass(frozen=True)
class Pair:
    """Two categories in the order that is edited: ``a`` is taken out of pictures that show ``b``.

    Attributes:
        a: what is taken out.
        b: what stays.
        support: pictures that show both.
        given: share of the pictures with ``b`` that show ``a``.
        npmi: normalised pointwise mutual information, in [-1, 1].
        cosine: of the names' embeddings; None where none was measured.
        why: why the pair is not mined; "" where it is.
    """

    a: str
    b: str
    support: int
    given: float
    npmi: float
    cosine: float | None = None
    why: str = ""


def npmi(present: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Measure how much pairs of categories come together.

    NPMI(a, b) = ln(p(a, b) / (p(a) p(b))) / -ln p(a, b) (Bouma, "Normalized (Pointwise) Mutual Information in
    Collocation Extraction", GSCL 2009): 1 where they only come together, 0 by chance, -1 never together.

    Args:
        present: [N, C] which picture shows what.

    Returns:
        [C, C]. Categories that are nowhere have NaN; two that are in every picture, whose value is 0 / 0, have 0.

    >>> npmi(np.array([[True, True], [False, False]]))[0, 1].item()
    1.0
    """
    total = len(present)
    together = present.T.astype(np.float64) @ present.astype(np.float64)
    alone = np.diag(together)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = together / total
        value = np.log(share * total * total / np.outer(alone, alone)) / -np.log(share)
    value[together == 0] = -1.0
    value[together == total] = 0.0
    value[alone == 0, :] = value[:, alone == 0] = np.nan
    return np.asarray(value)


def mine_pairs(
    present: npt.NDArray[np.bool_],
    categories: Sequence[str],
    *,
    min_npmi: float = 0.15,
    min_support: int = 200,
    cosine: npt.NDArray[np.floating] | None = None,
    related: Collection[frozenset[str]] = (),
) -> list[Pair]:
    """Find pairs of objects that come together although they are unrelated.

    Ours, after the abstract of arXiv 2304.03391 ("semantically unrelated objects"), whose own rule is not known.

    Args:
        present: [N, C] which picture shows what; from annotations, not from captions.
        categories: names of the C columns.
        min_npmi: a pair's least mutual information.
        min_support: least number of pictures that show both.
        cosine: [C, C] of the names' embeddings; a pair counts as unrelated below the median of all pairs. None leaves
            that out.
        related: pairs that are related, whatever else says.

    Returns:
        All ordered pairs that any picture shows, the mined ones (``why`` empty) first, by falling NPMI.
    """
    value = npmi(present)
    together = present.T.astype(np.int64) @ present.astype(np.int64)
    above = np.triu_indices(len(categories), 1)
    limit = np.inf if cosine is None else float(np.median(cosine[above]))
    found = []
    for a, b in np.argwhere((together > 0) & ~np.eye(len(categories), dtype=bool)).tolist():
        near = None if cosine is None else float(cosine[a, b])
        if frozenset((categories[a], categories[b])) in related:
            why = ALIKE
        elif together[a, b] < min_support:
            why = RARE
        elif value[a, b] < min_npmi:
            why = WEAK
        else:
            why = NEAR if near is not None and near >= limit else ""
        given = float(together[a, b] / together[b, b])
        found.append(Pair(categories[a], categories[b], int(together[a, b]), given, float(value[a, b]), near, why))
    return sorted(found, key=lambda pair: (pair.why != "", -pair.npmi, pair.a, pair.b))


def read_related(path: str | Path, categories: Collection[str]) -> frozenset[frozenset[str]]:
    """Read a user's table of related pairs: a CSV with two categories a line, no header.

    Raises:
        DataError: naming file and line, for a line of another form or a category that is not known.
    """
    path = Path(path).expanduser()
    found = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                names = [name.strip() for name in row]
                if not any(names) or names[0].startswith("#"):
                    continue
                if len(names) != 2 or not set(names) <= set(categories) or names[0] == names[1]:
                    raise DataError(f"{path}: line {number}: {','.join(row)!r} is not two categories of the vocabulary")
                found.add(frozenset(names))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the table of related pairs cannot be read ({error})") from error
    return frozenset(found)
