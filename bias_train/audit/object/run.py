"""The audit of object bias, from embedded pictures and texts to its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from bias_train.audit.object.edited_set import EditedSet
from bias_train.audit.object.guardrails import guardrails
from bias_train.audit.object.options import ObjectOptions
from bias_train.audit.object.outcome import DEFINITION, ObjectOutcome
from bias_train.errors import RunError
from bias_train.metrics.functional.inputs import is_normalised
from bias_train.metrics.functional.object.questions import Answers, answers

Vectors = tuple[Tensor, Tensor]


def audit_object(
    asked: EditedSet,
    vectors: Vectors,
    options: ObjectOptions | None = None,
    *,
    against: Vectors | None = None,
    title: str = "audit",
    inputs: Mapping[str, Any] | None = None,
) -> ObjectOutcome:
    """Audit what a retriever recalls of objects that were taken out.

    Args:
        asked: edited pictures and what they search.
        vectors: (image [N, D], text [T, D]) of the audited retriever, rows as in ``asked``.
        options: the choices; defaults where None.
        against: the same of another retriever; every figure's change is then given, this minus that, on the same
            resamples.
        title: heading of the outputs.
        inputs: what was audited, for the record.

    Raises:
        RunError: for vectors that cannot be measured.
    """
    options = options or ObjectOptions()
    found = _answers(asked, vectors, options)
    figures = tuple(found.figures())
    change = None if against is None else found.minus(_answers(asked, against, options))
    return ObjectOutcome(
        title=title,
        inputs=dict(inputs or {}),
        options=asdict(options),
        conventions=_conventions(asked, vectors, options)
        | {"categories in the mean": {direction: bias.kept for direction, bias in found.bias.items()}},
        counts=asked.counts,
        figures=figures,
        changes=() if change is None else tuple(change.figures()),
        warnings=tuple(guardrails(found, figures, asked.counts, options)),
    )


def _answers(asked: EditedSet, vectors: Vectors, options: ObjectOptions) -> Answers:
    image, text = vectors
    try:
        return answers(
            asked.questions, image, text, ks=options.ks, clean_ks=options.clean_ks, minimum=options.minimum,
            bootstrap=options.bootstrap,
        )  # fmt: skip
    except ValueError as error:
        raise error if isinstance(error, RunError) else RunError(f"{error}") from error


def _conventions(asked: EditedSet, vectors: Vectors, options: ObjectOptions) -> dict[str, Any]:
    words = asked.vocabulary
    return {
        "definition": f"{DEFINITION}; not the metric of arXiv 2304.03391, whose formula is not known to us",
        "scores": "cosines" if is_normalised(*vectors) else "dot products",
        "gallery": "unedited captions or pictures, those of the query among them",
        "relevance": "V1: without the object; V2: and with another object of the query; V3: and with none that the "
        "query lacks",
        "ties": "in expectation over random order",
        "floor": "a random order of the gallery, exactly",
        "captions": "as they are",
        "mentions": {
            "categories": len(words.categories), "version": words.version, "sha256": words.digest,
        },
        "edits": asked.edits,
        "means": f"over categories with {options.minimum} queries or more; micro: over queries",
        "intervals": "none" if options.bootstrap is None
        else f"percentile bootstrap over pictures, {options.bootstrap.resamples} resamples, seed "
        f"{options.bootstrap.seed}",
    }  # fmt: skip
