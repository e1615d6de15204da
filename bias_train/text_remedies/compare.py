"""Fits remedies against reading to one half of some pictures, and measures them on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

from bias_train.audit.text.text_set import TextSet
from bias_train.metrics.functional.text.questions import TextAnswers
from bias_train.stats import Bootstrap
from bias_train.text_remedies.changed import embed_changed
from bias_train.text_remedies.head_search import find_heads
from bias_train.text_remedies.measure import Embedding, Vectors, answers_of, attack_and_clean
from bias_train.text_remedies.outcome import NONE, Row, TextComparison
from bias_train.text_remedies.parts import halves
from bias_train.text_remedies.spelling_features import spelling_features, written_words
from datamodules.evaluation import Transform
from models.errors import ModelError
from models.retriever import Retriever
from models.text_remedies.heads import ablated
from models.text_remedies.paint import ALPHAS, walk
from models.text_remedies.spelling import SpellingProjection

OCR, PROJECTION, PAINT, HEADS = "OCR + blur", "projection", "PAINT", "heads"


@dataclass(frozen=True)
class TextComparisonOptions:
    """The choices of a comparison.

    Attributes:
        held_out: share of the scenes that are measured only.
        projection: how the projection is trained.
        alphas: grid of the interpolation.
        margin: what R@1 of ordinary pairs of the fitted half may lose by the interpolation, and by heads: a difference
            of shares.
        search_heads: whether heads are searched for, which embeds the fitted half once for every head that is tried.
        bootstrap: how intervals are made.
        embedding: how pictures are embedded.
        seed: of the halves and of the words on pictures that heads are scored by.
    """

    held_out: float = 0.5
    projection: SpellingProjection = field(default_factory=SpellingProjection)
    alphas: tuple[float, ...] = ALPHAS
    margin: float = 0.01
    search_heads: bool = True
    bootstrap: Bootstrap = field(default_factory=lambda: Bootstrap(resamples=1000))
    embedding: Embedding = field(default_factory=Embedding)
    seed: int = 0


def compare(
    asked: TextSet,
    retriever: Retriever,
    *,
    finetuned: Retriever | None = None,
    blur: Transform | None = None,
    options: TextComparisonOptions | None = None,
    inputs: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> TextComparison:
    """Compare remedies that need no training of the whole retriever.

    The same pictures, words and resamples stand behind all of them, so that changes have intervals of paired
    differences. Reading OCR and blurring what it finds is fitted to nothing; it is the baseline to beat.

    Args:
        asked: a set with overlaid pictures, best with rendered words and a reading set.
        retriever: as it is; it is left so.
        finetuned: the same architecture after training against reading, for the interpolation; None leaves it out.
        blur: reads a picture uint8 [H, W, 3] and blurs what is written; None leaves it out.
        options: the choices; defaults where None.
        inputs: what was compared on, for the record.
        progress: told each remedy's name before its turn.

    Raises:
        RunError: for pictures that cannot be divided or measured. A remedy that cannot be fitted is left out, and the
            outcome says why.
    """
    options = options or TextComparisonOptions()
    fitted_part, measured_part = halves(asked, options.held_out, options.seed)
    embedding = options.embedding
    plain = embedding.of(retriever, measured_part)
    fit_vectors = embedding.of(retriever, fitted_part)
    before = answers_of(measured_part, plain, bootstrap=options.bootstrap)
    rows = [Row.of(NONE, figure, None) for figure in before.figures()]
    fitted: dict[str, Mapping[str, Any]] = {}
    skipped: dict[str, str] = {}

    def blurred() -> tuple[Vectors, dict[str, Any]]:
        if blur is None:
            raise ModelError("no OCR engine was named")
        image = embed_changed(
            retriever, measured_part, blur, batch_size=embedding.batch_size, workers=embedding.workers,
            device=embedding.device,
        )  # fmt: skip
        return (image, plain[1]), {"method": "OCR and blur at query time", "engine": str(getattr(blur, "name", blur))}

    def projected() -> tuple[Vectors, dict[str, Any]]:
        features = spelling_features(
            retriever, fitted_part, fit_vectors, batch_size=embedding.batch_size, device=embedding.device
        )
        found = options.projection.fit(features)
        return (found.image(plain[0]), found.text(plain[1])), found.metadata

    def interpolated() -> tuple[Vectors, dict[str, Any]]:
        if finetuned is None:
            raise ModelError("no finetuned checkpoint was given")
        on_line = deepcopy(retriever)
        chosen = walk(
            on_line,
            finetuned.to(embedding.device),
            lambda one: attack_and_clean(answers_of(fitted_part, embedding.of(one, fitted_part))),
            options.alphas,
            options.margin,
        )
        about = {"method": "PAINT", "alpha": chosen.point.alpha, "points": [asdict(point) for point in chosen.points],
                 "margin": chosen.margin}  # fmt: skip
        return embedding.of(on_line, measured_part), about

    def headless() -> tuple[Vectors, dict[str, Any]]:
        if not options.search_heads:
            raise ModelError("heads were not searched for")
        chosen, about = find_heads(retriever, fitted_part, embedding, drop=options.margin, seed=options.seed)
        with ablated(retriever, chosen.heads):
            image, _ = embedding.of(retriever, measured_part)
        return (image, plain[1]), about

    remedies: dict[str, Callable[[], tuple[Vectors, dict[str, Any]]]] = {
        OCR: blurred, PROJECTION: projected, PAINT: interpolated, HEADS: headless,
    }  # fmt: skip
    for name, fit in remedies.items():
        if progress is not None:
            progress(name)
        try:
            vectors, fitted[name] = fit()
        except ModelError as error:
            skipped[name] = str(error)
            continue
        rows += _rows(name, answers_of(measured_part, vectors, bootstrap=options.bootstrap), before)
    return TextComparison(
        inputs=dict(inputs or {}),
        options=asdict(options),
        counts=_counts(asked, fitted_part, measured_part),
        fitted=fitted,
        skipped=skipped,
        rows=tuple(rows),
    )


def _rows(name: str, now: TextAnswers, before: TextAnswers) -> list[Row]:
    changes = {(one.name, one.k, one.label): one for one in now.minus(before).figures()}
    return [Row.of(name, one, changes.get((one.name, one.k, one.label))) for one in now.figures()]


def _counts(asked: TextSet, fitted: TextSet, measured: TextSet) -> dict[str, Any]:
    words = [set(written_words(part)) for part in (fitted, measured)]
    rendered = set() if measured.rendering is None else set(measured.rendering.words)
    return {
        **asked.counts,
        "overlaid pictures, fitted": len(_overlaid(fitted)),
        "overlaid pictures, measured": len(_overlaid(measured)),
        "words on pictures, fitted": len(words[0]),
        "words on pictures, measured": len(words[1]),
        "words on pictures of both halves": len(words[0] & words[1]),
        "rendered words that pictures of the fitted half carry": len(words[0] & rendered),
    }


def _overlaid(part: TextSet) -> Any:
    assert part.questions.overlays is not None
    return part.questions.overlays.written
