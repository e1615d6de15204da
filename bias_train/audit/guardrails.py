"""What to know before a figure of an audit is quoted: each as one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bias_train.audit.evaluate import CellResult
from bias_train.audit.options import AuditOptions
from bias_train.audit.outcome import EquivalenceRow, Guardrail, Row
from bias_train.audit.plan import Plan
from bias_train.embeddings import Embeddings
from bias_train.metrics.functional.inputs import is_normalised


def pair_counts(embeddings: Embeddings) -> dict[str, int]:
    """Count pictures, queries and what the queried targets have; the keys are those of the outputs."""
    generated = embeddings.image_source > 0
    asked = np.unique(embeddings.query_target)
    place = np.searchsorted(asked, embeddings.image_target).clip(max=len(asked) - 1)
    mine = asked[place] == embeddings.image_target
    photos, made = (np.bincount(place[mine & side], minlength=len(asked)) for side in (~generated, generated))
    counts = {
        "pictures": len(generated),
        "photos": int((~generated).sum()),
        "generated": int(generated.sum()),
        "queries": len(embeddings.query_target),
        "targets": len(asked),
    }
    if embeddings.relevance == "pair":
        counts |= {
            "pairs": int(((photos == 1) & (made >= 1)).sum()),
            "without_photo": int((photos == 0).sum()),
            "without_twin": int(((photos >= 1) & (made == 0)).sum()),
            "several_photos": int((photos > 1).sum()),
            "several_twins": int((made > 1).sum()),
        }
    for code in np.unique(embeddings.image_source):
        counts[f"source:{embeddings.sources[code]}"] = int((embeddings.image_source == code).sum())
    return counts


def guardrails(
    embeddings: Embeddings,
    plan: Plan,
    results: Sequence[CellResult],
    rows: Sequence[Row],
    equivalences: Sequence[EquivalenceRow],
    options: AuditOptions,
    headline: tuple[str, int],
) -> list[Guardrail]:
    """Every warning that applies."""
    assert embeddings.text is not None
    found = [
        *_of_the_set(embeddings, plan),
        *_of_cut_offs(results, options),
        *_of_deltas(rows, options, headline),
        *_of_parity(equivalences),
        *(_of_classes(rows, plan) if embeddings.relevance == "label" else []),
    ]
    if not is_normalised(embeddings.text, embeddings.image):
        found.append(
            Guardrail(
                "unnormalised",
                "Embeddings are not of unit length, so that scores are dot products and a long vector ranks high for "
                "every query; --normalise makes them cosines.",
            )
        )
    return found


def _of_the_set(embeddings: Embeddings, plan: Plan) -> list[Guardrail]:
    counts = pair_counts(embeddings)
    found = []
    if counts["photos"] != counts["generated"]:
        used = int(plan.galleries[plan.cells[0].gallery].rows.sum())
        found.append(
            Guardrail(
                "unequal_sources",
                f"There are {counts['photos']:,} photos and {counts['generated']:,} generated pictures; the evenly "
                f"mixed gallery takes {used:,} of the {counts['pictures']:,} pictures, as many of both.",
            )
        )
    for code, what in (
        ("without_twin", "queried targets have a photo and no generated twin: their queries count for exposure only"),
        ("without_photo", "queried targets have no photo: their queries count for exposure only"),
        ("several_photos", "queried targets have several photos and are no pairs: their queries count for exposure "
                           "only"),
        ("several_twins", "queried targets have several generated twins: where a gallery holds several, a random one "
                          "stands for them, in expectation"),
    ):  # fmt: skip
        if counts.get(code):
            found.append(Guardrail(code, f"{counts[code]:,} of {counts['targets']:,} {what}."))
    return found


def _of_cut_offs(results: Sequence[CellResult], options: AuditOptions) -> list[Guardrail]:
    found = []
    capped = [f"{result.cell.name} ({result.pictures:,})" for result in results if result.pictures < max(options.ks)]
    if capped:
        found.append(
            Guardrail(
                "k_capped",
                f"Cut-offs up to {max(options.ks)} are capped at the gallery's pictures in: {_listed(capped)}.",
            )
        )
    tied = results[0].tied
    if tied:
        found.append(
            Guardrail(
                "ties",
                f"{tied:,} queries have tied pictures in the headline's top {max(options.ks)}; every figure is the "
                "expectation over their order.",
            )
        )
    return found


def _of_deltas(rows: Sequence[Row], options: AuditOptions, headline: tuple[str, int]) -> list[Guardrail]:
    name, k = headline
    measure = f"{name.removeprefix('relative_delta_')}@{k}"
    deltas = [row for row in rows if (row.name, row.k, row.label) == (name, k, "")]
    if not deltas:
        return [Guardrail("no_delta", "No query has both sources among its pictures: there is no Relative Delta.")]
    defined = [row for row in deltas if not math.isnan(row.value)]
    # The paper's mode says the same of the same queries once more.
    pooled = [row for row in defined if row.mode == "clean"]
    hits = {row: _hits(rows, row) for row in pooled}
    # Each: code, what is wrong, where.
    found: list[tuple[str, str, list[str]]] = [
        (
            "undefined",
            f"Relative Delta of {measure} is undefined, since no source has a hit",
            [_place(row) for row in deltas if math.isnan(row.value)],
        ),
        (
            "one_source",
            f"Only one source has hits at {k}, so that Relative Delta stands at its bound with a one-sided interval",
            [_place(row) for row in defined if abs(row.value) == 200.0],
        ),
        (
            "few_hits",
            f"Fewer than {options.fewest_hits} hits at {k} stand behind Relative Delta",
            [f"{_place(row)} ({hits[row]:.3g})" for row in pooled
             if hits[row] < options.fewest_hits],
        ),
        (
            "wide_interval",
            f"The interval of Relative Delta of {measure} is wider than {options.widest:g} points",
            [f"{_place(row)} ({row.high - row.low:.1f})" for row in pooled if row.high - row.low > options.widest],
        ),
        (
            "no_interval",
            "There are too few targets for an interval",
            [_place(row) for row in pooled if math.isnan(row.low)],
        ),
    ]  # fmt: skip
    return [Guardrail(code, f"{what}, in: {_listed(places)}.") for code, what, places in found if places]


def _hits(rows: Sequence[Row], delta: Row) -> float:
    """Relevant pictures of either source in the top k, summed over queries."""
    measure = delta.name.removeprefix("relative_delta_")
    wanted = (delta.group, delta.cell, delta.mode, delta.k, delta.label)
    sides = [
        row.value * row.count
        for row in rows
        if row.name in (f"{measure}_real", f"{measure}_generated")
        and (row.group, row.cell, row.mode, row.k, row.label) == wanted
    ]
    return sum(sides) * (delta.k or 1 if measure == "P" else 1)


def _of_parity(equivalences: Sequence[EquivalenceRow]) -> list[Guardrail]:
    unequal = [row for row in equivalences if row.question.startswith("parity") and not row.test.equivalent]
    if not unequal:
        return []
    places = [f"{row.cell} ({row.test.value:+.2f} points)" for row in unequal]
    return [
        Guardrail(
            "parity",
            "Photos alone and generated pictures alone are not shown to be found equally well within "
            f"{unequal[0].test.margin:g} points: part of the bias may be one source being easier, so read "
            f"normalised_delta beside it, in: {_listed(places)}.",
        )
    ]


def _of_classes(rows: Sequence[Row], plan: Plan) -> list[Guardrail]:
    found = []
    if len({gallery.ratio for gallery in plan.galleries}) > 1:
        found.append(
            Guardrail(
                "pool_balance",
                "With classes, Relative Delta of P@k holds the gallery's own balance where it is not even; that of R@k "
                "does not.",
            )
        )
    sides = [
        next((row for row in rows if row.name == f"class_accuracy_{side}" and not row.label), None)
        for side in ("real", "generated")
    ]
    if sides[0] is not None and sides[1] is not None:
        real, generated = sides[0], sides[1]
        if real.high < generated.low or generated.high < real.low:
            found.append(
                Guardrail(
                    "parity",
                    f"{100 * real.value:.1f} % of the photos and {100 * generated.value:.1f} % of the generated "
                    "pictures are classified right: part of the bias may be one source being easier.",
                )
            )
    return found


def _place(row: Row) -> str:
    return row.cell + (", paper" if row.mode == "paper" else "")


def _listed(places: Sequence[str], most: int = 6) -> str:
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return "; ".join(places[:most]) + more
