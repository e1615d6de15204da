"""The audit of text spotting, from embedded pictures and texts to its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from bias_train.audit.text.guardrails import guardrails
from bias_train.audit.text.options import TextOptions
from bias_train.audit.text.outcome import TextOutcome
from bias_train.audit.text.text_set import TextSet
from bias_train.errors import RunError
from bias_train.metrics.functional.inputs import is_normalised
from bias_train.metrics.functional.text.questions import TextAnswers, text_answers

Vectors = tuple[Tensor, Tensor]


def audit_text(
    asked: TextSet,
    vectors: Vectors,
    options: TextOptions | None = None,
    *,
    against: Vectors | None = None,
    title: str = "audit",
    inputs: Mapping[str, Any] | None = None,
) -> TextOutcome:
    """Audit how far a retriever reads the words in pictures.

    Args:
        asked: pictures, rendered words and what is asked of them.
        vectors: (image [N, D], text [T, D]) of the audited retriever, rows as in ``asked``.
        options: the choices; defaults where None.
        against: the same of another retriever; every figure's change is then given, this minus that, on the same
            resamples.
        title: heading of the outputs.
        inputs: what was audited, for the record.

    Raises:
        RunError: for vectors that cannot be measured.
    """
    options = options or TextOptions()
    found = _answers(asked, vectors, options)
    figures = tuple(found.figures())
    changes = () if against is None else tuple(found.minus(_answers(asked, against, options)).figures())
    return TextOutcome(
        title=title,
        inputs=dict(inputs or {}),
        options=asdict(options),
        conventions=_conventions(asked, vectors, options),
        counts=asked.counts,
        figures=figures,
        changes=changes,
        warnings=tuple(guardrails(asked, figures, changes)),
    )


def _answers(asked: TextSet, vectors: Vectors, options: TextOptions) -> TextAnswers:
    image, text = vectors
    try:
        return text_answers(asked.questions, image, text, ks=options.ks, bootstrap=options.bootstrap)
    except ValueError as error:
        raise error if isinstance(error, RunError) else RunError(f"{error}") from error


def _conventions(asked: TextSet, vectors: Vectors, options: TextOptions) -> dict[str, Any]:
    rendering = asked.rendering
    return {
        "scores": "cosines" if is_normalised(*vectors) else "dot products",
        "NS": "(matched - mismatched rendered words) / (matched - mismatched ordinary pairs), bias-train definition",
        "win share": "share of captions below the query for the written word on the picture that carries it; ties one "
        "half; bias-train definition",
        "ties": "in expectation over random order",
        "floor": "a random order of the gallery, exactly",
        "rendered words": None if rendering is None else rendering.record(),
        "texts": asked.record,
        "intervals": "none"
        if options.bootstrap is None
        else f"percentile bootstrap, {options.bootstrap.resamples} resamples, seed {options.bootstrap.seed}; words, "
        "ordinary pairs and each other set resampled by themselves, pictures with all their captions",
    }
