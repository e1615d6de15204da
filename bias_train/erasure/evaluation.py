"""What an eraser does to some pictures: bias, retrieval, separability and neighbourhoods, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from bias_train.embeddings import Embeddings
from bias_train.erasure.neighbourhood import Neighbourhood, neighbourhood
from bias_train.erasure.probe import Separability, separability
from bias_train.erasure.strength import FigureChoice
from bias_train.files import json_value
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.retrieval import class_accuracy, retrieval
from bias_train.metrics.functional.source import source_bias, source_bias_change
from bias_train.stats import Bootstrap
from datamodules.gallery import gallery
from models.erasure import LinearEraser


@dataclass(frozen=True)
class Picture:
    """What one set of vectors looks like.

    Attributes:
        bias: source-bias figures of a gallery of equal parts; none without queries.
        quality: class accuracy or retrieval of photos alone and of generated pictures alone, ``_photos`` or
            ``_generated`` behind the name.
        probe: how well a linear probe tells the sources apart, trained and tested within these vectors.
        neighbours: whether pictures of one target lie together; None where no target has two.
    """

    bias: tuple[Figure, ...]
    quality: tuple[Figure, ...]
    probe: Separability
    neighbours: Neighbourhood | None

    def record(self, probe: bool = True) -> dict[str, Any]:
        """For JSON.

        Args:
            probe: with the probe. Not for the vectors that an eraser was fitted on: made to have equal means
                as a whole, a part of them and the rest lie apart in opposite ways: probes score far below chance.
        """
        around = None if self.neighbours is None else {**asdict(self.neighbours), "gap": self.neighbours.gap}
        return {
            "bias": [json_value(figure) for figure in self.bias],
            "quality": [json_value(figure) for figure in self.quality],
            "probe": json_value(self.probe) if probe else None,
            "neighbourhood": None if around is None else json_value(around),
        }


def picture_of(
    embeddings: Embeddings, figures: Sequence[FigureChoice], bootstrap: Bootstrap | None, seed: int = 0
) -> Picture:
    """Measure.

    Args:
        embeddings: unit vectors, erased or not.
        figures: Relative Deltas to measure.
        bootstrap: how intervals are made; None for none.
        seed: of the gallery and of the probe's folds.
    """
    both = bool(embeddings.generated.any() and not embeddings.generated.all())
    asked = embeddings.text is not None and len(embeddings.text) > 0
    # Classes are no groups that a probe could know pictures by, and half of them would be missing from each fold.
    kin = embeddings.image_target if embeddings.relevance == "pair" else np.full(len(embeddings), -1)
    return Picture(
        tuple(_bias(embeddings, figures, bootstrap, seed)) if asked and both else (),
        tuple(_quality(embeddings, bootstrap)) if asked else (),
        separability(embeddings.image, embeddings.generated, kin, seed=seed),
        neighbourhood(embeddings.image, embeddings.image_target),
    )


def before_and_after(
    embeddings: Embeddings,
    eraser: LinearEraser,
    figures: Sequence[FigureChoice],
    bootstrap: Bootstrap | None,
    seed: int = 0,
) -> tuple[Picture, Picture]:
    """Measure with and without the eraser."""
    erased = replace(embeddings, image=eraser.apply(embeddings.image))
    return picture_of(embeddings, figures, bootstrap, seed), picture_of(erased, figures, bootstrap, seed)


def bias_change(
    embeddings: Embeddings,
    eraser: LinearEraser,
    figures: Sequence[FigureChoice],
    bootstrap: Bootstrap | None,
    seed: int = 0,
) -> list[Figure]:
    """After minus before of each Relative Delta, on the same resamples; none without queries."""
    if embeddings.text is None or len(embeddings.text) == 0:
        return []
    rows = gallery(embeddings.image_source, embeddings.image_target, 0.5, seed=seed)
    image = embeddings.image[rows]
    changed = source_bias_change(
        (embeddings.text, image),
        (embeddings.text, eraser.apply(image)),
        torch.from_numpy(embeddings.query_target),
        torch.from_numpy(embeddings.image_target[rows]),
        torch.from_numpy(embeddings.image_source[rows]),
        relevance=embeddings.relevance,
        bootstrap=bootstrap,
        ks=_cutoffs(figures, precision=False),
        precision_ks=_cutoffs(figures, precision=True),
    )
    keys = {f"relative_delta_{choice.key}" for choice in figures}
    return [replace(figure, name=f"change_of_{figure.name}") for figure in changed if figure.key in keys]


def _cutoffs(figures: Sequence[FigureChoice], precision: bool) -> tuple[int, ...]:
    return tuple(sorted({choice.k for choice in figures if (choice.metric == "P") is precision}))


def _bias(
    embeddings: Embeddings, figures: Sequence[FigureChoice], bootstrap: Bootstrap | None, seed: int
) -> list[Figure]:
    assert embeddings.text is not None
    rows = gallery(embeddings.image_source, embeddings.image_target, 0.5, seed=seed)
    measured = source_bias(
        embeddings.text,
        embeddings.image[rows],
        torch.from_numpy(embeddings.query_target),
        torch.from_numpy(embeddings.image_target[rows]),
        torch.from_numpy(embeddings.image_source[rows]),
        relevance=embeddings.relevance,
        bootstrap=bootstrap,
        ks=_cutoffs(figures, precision=False),
        precision_ks=_cutoffs(figures, precision=True),
    )
    keys = {f"relative_delta_{choice.key}" for choice in figures}
    return [figure for figure in measured if figure.key in keys or figure.name in ("win_rate", "pair_win_rate")]


def _quality(embeddings: Embeddings, bootstrap: Bootstrap | None) -> list[Figure]:
    assert embeddings.text is not None
    query_target = torch.from_numpy(embeddings.query_target)
    found = []
    for side, name in ((False, "photos"), (True, "generated")):
        part = embeddings.pictures(embeddings.generated == side)
        if len(part) == 0:
            continue
        target = torch.from_numpy(part.image_target)
        if embeddings.relevance == "label":
            figures = class_accuracy(
                embeddings.text,
                part.image,
                query_target,
                target,
                torch.from_numpy(part.image_source),
                bootstrap=bootstrap,
            )[:1]
        else:
            figures = retrieval(embeddings.text, part.image, query_target, target, ks=(1, 10), bootstrap=bootstrap)
            figures = [figure for figure in figures if figure.name == "t2i_R"]
        found += [replace(figure, name=f"{figure.name}_{name}") for figure in figures]
    return found
