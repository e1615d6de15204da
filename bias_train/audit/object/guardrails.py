"""What to know before a figure of object bias is quoted: each as one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bias_train.audit.object.options import ObjectOptions
from bias_train.audit.outcome import Guardrail
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.object.questions import Answers

FEW_PICTURES = 100  # edited pictures, below which intervals are wide
SMALL_GALLERY = 1000  # items, below which the first ten are a large part of all
HIGH_FLOOR = 0.9

_ASKING = {"i2t": "pictures among captions", "t2i": "captions among pictures"}


def guardrails(
    found: Answers, figures: Sequence[Figure], counts: Mapping[str, int], options: ObjectOptions
) -> list[Guardrail]:
    """Every warning that applies.

    Args:
        found: the audited retriever's figures of every query.
        figures: their means.
        counts: of :class:`~bias_train.audit.object.edited_set.EditedSet`.
        options: the choices.
    """
    warnings = []
    pictures = counts["pictures asked with"]
    if pictures < FEW_PICTURES:
        warnings.append(Guardrail("few_pictures", f"Only {pictures} edited pictures stand behind the figures."))
    k = options.ks[0]
    means = {figure.key: figure for figure in figures if figure.label is None}
    for direction, bias in found.bias.items():
        where = _ASKING[direction]
        if bias.few:
            warnings.append(
                Guardrail(
                    "few_queries",
                    f"{where}: {len(bias.few)} categories have fewer than {options.minimum} queries and stay out of "
                    f"the mean over categories, which rests on {bias.kept}: {_listed(bias.few)}.",
                )
            )
        items = counts["captions searched" if direction == "i2t" else "pictures searched"]
        if items < SMALL_GALLERY:
            warnings.append(
                Guardrail(
                    "small_gallery",
                    f"{where}: only {items:,} items are searched; figures of galleries of another size cannot be set "
                    "beside these.",
                )
            )
        floor = means[f"{direction}_ODmAP_V1_floor_micro@{k}"].value
        if floor > HIGH_FLOOR:
            warnings.append(
                Guardrail(
                    "high_floor",
                    f"{where}: a random retriever has ODmAP V1@{k} {floor:.3f}; V1 says little, read V2 and the gap.",
                )
            )
        original, random = (means[f"{direction}_{name}_micro@{k}"] for name in ("H_original", "H_floor"))
        if not original.low > random.value and not np.isnan(original.low):
            warnings.append(
                Guardrail(
                    "not_recalled",
                    f"{where}: an object that is there is recalled no more often than by chance (H_original@{k} "
                    f"{original.value:.3f}), so that a low H_removed is no merit.",
                )
            )
        warnings += _of_control(direction, means, k, where)
    left_out = {name: count for name, count in counts.items() if name.startswith("edit")}
    if left_out:
        told = "; ".join(f"{count:,} {name}" for name, count in left_out.items())
        warnings.append(Guardrail("left_out", f"Not asked: {told}."))
    return warnings


def _of_control(direction: str, means: Mapping[str, Figure], k: int, where: str) -> list[Guardrail]:
    if direction != "i2t":
        return []
    moved = means.get(f"i2t_DG_control_micro@{k}")
    if moved is None:
        return [
            Guardrail(
                "no_control",
                f"{where}: there is no picture with an edited background, so that a gap may be the edit's own effect.",
            )
        ]
    if moved.low > 0 or moved.high < 0:
        return [
            Guardrail(
                "control_moves",
                f"{where}: an edit of the background as such changes H@{k} by {moved.value:+.3f}; read the "
                "figures net of it.",
            )
        ]
    return []


def _listed(counts: Mapping[str, int], most: int = 8) -> str:
    told = [f"{name} ({count})" for name, count in counts.items()]
    more = f" and {len(told) - most} more" if len(told) > most else ""
    return ", ".join(told[:most]) + more
