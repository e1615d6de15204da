"""The audit of source bias, from embeddings to its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from bias_train.audit.evaluate import CellResult, evaluate
from bias_train.audit.guardrails import guardrails, pair_counts
from bias_train.audit.options import AuditOptions
from bias_train.audit.outcome import EquivalenceRow, Outcome, Row
from bias_train.audit.plan import Plan, plan_audit
from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.ratios import Measured
from bias_train.significance import Equivalence, benjamini_hochberg, equivalence, holm


def audit_source(
    embeddings: Embeddings,
    options: AuditOptions | None = None,
    *,
    against: Embeddings | None = None,
    similarity: Mapping[str, float] | None = None,
    title: str = "audit",
    inputs: Mapping[str, Any] | None = None,
) -> Outcome:
    """Audit a retriever's preference for generated pictures.

    Args:
        embeddings: pictures of both kinds and queries.
        options: the choices; defaults where None.
        against: the same pictures and queries by another retriever, or by this one before a change; every figure's
            difference is then given, this minus that, on the same resamples.
        similarity: recorded similarity of generated pictures with their photo by key, to divide the photos by.
        title: heading of the outputs.
        inputs: what the embeddings are, for the record.

    Returns:
        Every figure with its interval, tests and warnings.

    Raises:
        RunError: for embeddings that cannot be audited, naming what is missing.
    """
    options = options or AuditOptions()
    plan = plan_audit(embeddings, options, similarity)
    other = None if against is None else aligned(against, embeddings)
    try:
        results = evaluate(embeddings, plan, options)
        before = None if other is None else evaluate(other, plan, options)
    except ValueError as error:
        raise error if isinstance(error, RunError) else RunError(f"{error}") from error
    rows = _adjusted([row for result in results for row in _rows(plan, result, options)], options)
    # Classes have many right answers: R@1 would be a handful of pictures, one per prompt.
    pairs = embeddings.relevance == "pair"
    headline = ("relative_delta_R", options.headline_k) if pairs else ("relative_delta_P", options.precision_ks[-1])
    changes: list[Row] = []
    equivalences = [test for result in results for test in _parity(result, options)]
    if before is not None:
        for new, old in zip(results, before, strict=True):
            change = replace(
                new,
                measured=tuple(a.minus(b) for a, b in zip(new.measured, old.measured, strict=True)),
                swap=None,
                alone=(),
            )
            changes += _rows(plan, change, options)
            equivalences += _no_loss(change, options)
    return Outcome(
        title=title,
        inputs=dict(inputs or {}),
        options=asdict(options),
        counts=pair_counts(embeddings),
        rows=tuple(rows),
        changes=tuple(changes),
        equivalences=tuple(equivalences),
        warnings=tuple(guardrails(embeddings, plan, results, rows, equivalences, options, headline)),
        tests=sum(row.p is not None for row in rows),
        headline=headline,
    )


def aligned(other: Embeddings, embeddings: Embeddings) -> Embeddings:
    """Put another retriever's embeddings into the order of the audited ones.

    Pictures are matched by key, queries by target, slot and text.

    Raises:
        RunError: unless both hold the same pictures, with the same targets and sources, and the same queries.
    """
    if other.text is None:
        raise RunError("--against: holds no queries")
    pictures = _matched(embeddings.image_key, other.image_key, "picture")
    columns = (embeddings.query_target.tolist(), embeddings.query_slot.tolist(), embeddings.query)
    theirs = (other.query_target.tolist(), other.query_slot.tolist(), other.query)
    queries = _matched(list(zip(*columns, strict=True)), list(zip(*theirs, strict=True)), "query")
    kept = other.pictures(pictures).queries(queries)
    names = [[side.sources[code] for code in side.image_source.tolist()] for side in (embeddings, kept)]
    if not np.array_equal(kept.image_target, embeddings.image_target) or names[0] != names[1]:
        raise RunError("--against: pictures of one key have another target or source; both must be of the same set")
    return replace(kept, image_source=embeddings.image_source, sources=embeddings.sources)


def _matched(wanted: Sequence[Any], given: Sequence[Any], what: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    if list(wanted) == list(given):
        return np.arange(len(wanted))
    place = {key: row for row, key in enumerate(given)}
    if len(place) < len(given) or len(set(wanted)) < len(wanted):
        raise RunError(f"--against: several rows have the same {what}, so that the two sides cannot be matched")
    missing = [key for key in wanted if key not in place]
    if missing or len(given) != len(wanted):
        example = f", such as {missing[0]!r}" if missing else ""
        raise RunError(
            f"--against: both sides must hold the same; {len(missing)} of {len(wanted)} are missing there{example}, "
            f"and it has {len(given)} ({what})"
        )
    return np.array([place[key] for key in wanted], dtype=np.int64)


def normalised(embeddings: Embeddings) -> Embeddings:
    """Scale every vector to unit length; zero vectors stay, and are refused where they are measured."""

    def unit(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(rows, dim=1)

    text = None if embeddings.text is None else unit(embeddings.text)
    return replace(embeddings, image=unit(embeddings.image), text=text)


def _rows(plan: Plan, result: CellResult, options: AuditOptions) -> list[Row]:
    cell, gallery = result.cell, plan.galleries[result.cell.gallery]
    p = {} if result.swap is None else dict(zip(result.tested, result.swap.p.tolist(), strict=True))

    def row(figure: Figure) -> Row:
        tested = p.get((figure.name, figure.k)) if figure.label is None and not np.isnan(figure.value) else None
        return Row(
            cell.group, cell.name, gallery.ratio, gallery.generator, cell.mode, figure.name, figure.k,
            figure.label or "", figure.value, figure.low, figure.high, figure.count, figure.note, tested,
        )  # fmt: skip

    found = [figure for measured in result.measured for figure in measured.figures(options.bootstrap)]
    return [row(figure) for figure in (*found, *result.alone)]


def _adjusted(rows: list[Row], options: AuditOptions) -> list[Row]:
    """Correct the tests' p-values over the cells in which the same figure is tested."""
    if options.adjust == "none":
        return rows
    correct = {"holm": holm, "bh": benjamini_hochberg}[options.adjust]
    corrected = list(rows)
    for key in dict.fromkeys(row.key for row in rows if row.p is not None):
        places = [place for place, row in enumerate(rows) if row.key == key and row.p is not None]
        for place, value in zip(places, correct([rows[place].p or 0.0 for place in places]), strict=True):
            corrected[place] = replace(rows[place], p_adjusted=float(value))
    return corrected


def _parity(result: CellResult, options: AuditOptions) -> list[EquivalenceRow]:
    if result.cell.mode != "clean" or result.cell.group not in ("headline", "generator"):
        return []
    k = options.headline_k
    test = _equivalence(result.measured[0], "parity_R", k, options)
    question = f"parity, R@{k} of photos alone minus that of generated pictures alone"
    return [] if test is None else [EquivalenceRow(question, result.cell.group, result.cell.name, test)]


def _no_loss(change: CellResult, options: AuditOptions) -> list[EquivalenceRow]:
    if change.cell.mode != "clean" or change.cell.group != "headline":
        return []
    k, found = options.headline_k, []
    for name, what in (("alone_R_real", "photos"), ("alone_R_generated", "generated pictures")):
        test = _equivalence(change.measured[0], name, k, options)
        if test is not None:
            question = f"quality, change of R@{k} among {what} alone"
            found.append(EquivalenceRow(question, change.cell.group, change.cell.name, test))
    return found


def _equivalence(measured: Measured, name: str, k: int, options: AuditOptions) -> Equivalence | None:
    """Test a difference of shares, in points."""
    place = next((f for f, spec in enumerate(measured.specs) if (spec.name, spec.k) == (name, k)), None)
    if place is None or measured.draws is None:
        return None
    return equivalence(
        100.0 * float(measured.value[place]), 100.0 * measured.draws[:, place], options.margin, options.alpha
    )
