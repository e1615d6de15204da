"""A comparison over several random splits: with few people, one split says little."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bias_train.errors import RunError
from bias_train.remedies.compare import ComparisonOptions, compare
from bias_train.remedies.material import Material
from bias_train.remedies.outcome import NONE, Comparison, Row
from models.remedies import Remedy

_NUMBERS = ("value", "low", "high", "change", "change_low", "change_high")


def compare_repeatedly(
    material: Material,
    remedies: Mapping[str, Remedy],
    options: ComparisonOptions,
    splits: int,
    *,
    inputs: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare remedies on several splits, of which each has the next seed, and average the figures.

    Args:
        material: see :func:`bias_train.remedies.compare.compare`, as for what follows.
        remedies: by name.
        options: of the first split.
        splits: how many, at least 1.
        inputs: for the record.
        progress: told the split and each remedy's name.

    Raises:
        RunError: for no splits, and as :func:`~bias_train.remedies.compare.compare` does.
    """
    if splits < 1:
        raise RunError(f"--splits is {splits}; give 1 or more")
    found = []
    for number in range(splits):

        def told(name: str, number: int = number) -> None:
            if progress is not None:
                progress(name if splits == 1 else f"{name}, split {number + 1} of {splits}")

        chosen = replace(options, seed=options.seed + number)
        found.append(compare(material, remedies, chosen, inputs=inputs, progress=told))
    return found[0] if splits == 1 else averaged(found)


def averaged(found: Sequence[Comparison]) -> Comparison:
    """Average figures over comparisons of the same remedies on several splits.

    Ends of intervals are averaged, too: what they say is how sure one split is, not their mean, which is surer. A cut
    is that of the averaged excesses, since a mean of ratios would hang on the splits with the least to cut. Notes tell
    the least and the largest value. What was fitted, and the counts, are those of the first split.
    """
    first = found[0]
    by_key: dict[tuple[Any, ...], list[Row]] = {}
    for one in found:
        for row in one.rows:
            by_key.setdefault((row.remedy, row.kind, row.words, row.name, row.k, row.label), []).append(row)
    rows = {key: _mean(own) for key, own in by_key.items()}
    for key, row in rows.items():
        if row.name.startswith("cut_"):
            excess = f"excess_{row.name.removeprefix('cut_')}"
            after, before = (rows[remedy, *key[1:3], excess, *key[4:]].value for remedy in (row.remedy, NONE))
            rows[key] = replace(row, value=100.0 * (1.0 - after / before) if before > 0 else math.nan)
    skipped = {name: why for one in found for name, why in one.skipped.items()}
    return replace(first, rows=tuple(rows.values()), skipped=skipped, options={**first.options, "splits": len(found)})


def _mean(rows: Sequence[Row]) -> Row:
    """One figure's mean over splits; splits in which a number is undefined are left out of it."""
    means: dict[str, Any] = {}
    for name in _NUMBERS:
        defined = [value for row in rows if not math.isnan(value := getattr(row, name))]
        means[name] = sum(defined) / len(defined) if defined else math.nan
    values = [row.value for row in rows if not math.isnan(row.value)]
    spread = f", from {min(values):.4g} to {max(values):.4g}" if values else ""
    note = "; ".join(filter(None, (f"mean over {len(rows)} splits{spread}", rows[0].note)))
    return replace(rows[0], **means, note=note)
