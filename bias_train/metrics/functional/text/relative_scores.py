"""How much of the score of a picture and its caption the text in the picture carries: RSA and RSC.

RSA = S(raw) - S(all text removed), RSC = S(raw) - S(the caption's words removed), with S the cosine of picture and
caption (Lin et al. 2023, arXiv 2312.14232). Removing anything lowers a score a little: *net* is the score after as many
places were removed at random less the score after the text was, our form of the paper's random control.

Legend of the shapes: N pictures, C captions of them, D dimensions, F columns, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from bias_train.metrics.functional.inputs import check_embeddings, check_ids
from bias_train.metrics.functional.text.drawn import Drawn, apart, drawn_means
from bias_train.stats import Bootstrap, Floats, Ints, resample_counts

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ABOVE = (0.1, 0.2)  # thresholds by which the paper makes its training subsets

# Cells of counts by queries that are held at once.
_BLOCK = 1 << 24


def relative_scores(
    name: str,
    raw: Tensor,
    erased: Tensor,
    control: Tensor | None,
    caption: Tensor,
    caption_of: Tensor,
    target: Tensor,
    *,
    has_control: Tensor | None = None,
    without_text: int = 0,
    quantiles: Sequence[float] = QUANTILES,
    above: Sequence[float] = ABOVE,
    bootstrap: Bootstrap | None = None,
) -> list[Drawn]:
    """Distribution of a relative score over captions.

    Args:
        name: "RSA" or "RSC".
        raw: [N, D] float embeddings of pictures in which text was found. Scores are dot products.
        erased: [N, D] of the same with the text removed.
        control: [N, D] with as many other places removed; None where no picture has that.
        caption: [C, D] of their captions.
        caption_of: [C] integers, row of each caption's picture.
        target: [N] integers, what is resampled together.
        has_control: [N] bool, which have a control; None for all.
        without_text: pictures in which no text was found, whose score is 0 by definition; they are not in the
            distribution, and are counted in the notes.
        quantiles: levels in [0, 1].
        above: thresholds.
        bootstrap: how intervals are made; None for none.

    Returns:
        ``RSA_mean``, ``RSA_q05`` and so on, ``RSA_above_0.1``; the same of ``RSA_control`` (score lost to removing
        other places) and ``RSA_net``. A quantile of no value is NaN.

    Raises:
        ValueError: for embeddings or ids that do not fit.
    """
    check_embeddings(raw=raw, erased=erased, caption=caption, **({} if control is None else {"control": control}))
    check_ids(len(raw), "raw", target=target)
    check_ids(len(caption), "caption", caption_of=caption_of)
    of = caption_of.to(raw.device)
    text = caption.double()
    scores = [(one[of].double() * text).sum(dim=1).cpu().numpy() for one in (raw, erased)]
    columns = {name: scores[0] - scores[1]}
    if control is not None:
        kept = (control[of].double() * text).sum(dim=1).cpu().numpy()
        if has_control is not None:
            kept = np.where(has_control.cpu().numpy()[caption_of.cpu().numpy()], kept, np.nan)
        columns |= {f"{name}_control": scores[0] - kept, f"{name}_net": kept - scores[1]}
    note = "over captions of pictures with text"
    note += f"; {without_text} pictures without, 0 by definition, left out" if without_text else ""
    cluster = target.cpu().numpy()[caption_of.cpu().numpy()].astype(np.int64)
    draws = apart(bootstrap, "erased")
    return [
        one
        for label, values in columns.items()
        for one in _distribution(label, values, cluster, quantiles, above, draws, note)
    ]


def _distribution(
    name: str,
    values: Floats,
    cluster: Ints,
    quantiles: Sequence[float],
    above: Sequence[float],
    bootstrap: Bootstrap | None,
    note: str,
) -> list[Drawn]:
    larger = [np.where(np.isnan(values), np.nan, values > threshold) for threshold in above]
    names: list[tuple[str, int | None]] = [
        (f"{name}_mean", None), *((f"{name}_above_{threshold:g}", None) for threshold in above)
    ]  # fmt: skip
    notes = [note] * len(names)
    mean, *shares = drawn_means(names, np.stack([values, *larger], axis=1), cluster, bootstrap, notes)
    has = ~np.isnan(values)
    value, draws = quantile_draws(values[has], cluster[has], quantiles, bootstrap)
    inverted = f"inverted distribution function; {note}"
    spread = [
        Drawn(
            f"{name}_q{100 * level:02.0f}",
            float(value[q]),
            int(has.sum()),
            inverted,
            draws=None if draws is None else draws[:, q],
        )
        for q, level in enumerate(quantiles)
    ]
    return [mean, *spread, *shares]


def quantile_draws(
    values: Floats, cluster: Ints, levels: Sequence[float], bootstrap: Bootstrap | None
) -> tuple[Floats, Floats | None]:
    """Quantiles and the same on resamples of clusters, by the inverse of the distribution function.

    Args:
        values: [C] without NaN.
        cluster: [C] integers.
        levels: [F] in [0, 1].
        bootstrap: how; None for none.

    Returns:
        ``(value [F], draws [B, F] or None)``; NaN for no values.

    >>> quantile_draws(np.array([3.0, 1.0, 2.0, 4.0]), np.arange(4), (0.5, 0.75), None)[0].tolist()
    [2.0, 3.0]
    """
    if len(values) == 0:
        return np.full(len(levels), np.nan), None
    value = np.quantile(values, levels, method="inverted_cdf")
    units, owner = np.unique(cluster, return_inverse=True)
    if bootstrap is None or len(units) < 2:
        return value, None
    order = np.argsort(values, kind="stable")
    ordered, owner = values[order], owner[order]
    draws = []
    for block in resample_counts(len(units), bootstrap):
        for counts in np.array_split(block.astype(np.int32), max(1, len(block) * len(values) // _BLOCK)):
            cumulated = np.cumsum(counts[:, owner], axis=1, dtype=np.int64)
            total = cumulated[:, -1:]
            found = np.empty((len(counts), len(levels)))
            for f, level in enumerate(levels):
                # Of n values drawn, the first place whose count reaches n times the level, and at least one. What
                # rounds above a whole number in binary is that number.
                wanted = np.maximum(np.ceil(total * level - 1e-9), 1)
                found[:, f] = ordered[np.argmax(cumulated >= wanted, axis=1)]
            draws.append(found)
    return value, np.concatenate(draws)
