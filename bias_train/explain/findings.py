"""Runs every analysis that a set of embeddings allows, and says of each other one why it could not be run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.explain.cross import CrossCosine, cross_cosines
from bias_train.explain.decomposition import Decomposition, decompose, without_common
from bias_train.explain.direction import Consistency, consistency
from bias_train.explain.maps import EmbeddingMap, Method, check_method, embedding_map
from bias_train.explain.outcome import Outcome, change, measure_gallery
from bias_train.explain.pictures import shard_spectra
from bias_train.explain.probe import ProbeResult, probe
from bias_train.explain.reversal import Reversal, reverse
from bias_train.explain.spectrum import Spectra, SpectralDifference, spectral_differences
from bias_train.explain.units import TOLD, Kind, differences, kind_of, units_of
from bias_train.stats import Bootstrap

ALL = "all"

# Below this, two retrievers' embeddings of a picture are too far apart for their difference to be read as a change.
LEAST_AGREEMENT = 0.7


@dataclass(frozen=True)
class Choices:
    """What an explanation is asked for.

    Attributes:
        resamples: of bootstrap intervals.
        permutations: of the sign-flip and permutation tests.
        folds: of the probe's cross-validation.
        map: layout beside the principal components.
        pictures: of each source, for spectra.
        side: of the squares that spectra are taken of; None for the shortest side.
        seed: of everything that is drawn.
    """

    resamples: int = 2000
    permutations: int = 1000
    folds: int = 5
    map: Method = "pca"
    pictures: int = 500
    side: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (("resamples", 100), ("permutations", 100), ("folds", 2), ("pictures", 2)):
            if getattr(self, name) < least:
                raise RunError(f"--{name} {getattr(self, name)}: give {least} or more")
        if self.side is not None and self.side < 8:
            raise RunError(f"--spectrum-size {self.side}: give 8 pixels or more")


@dataclass(frozen=True)
class PictureSpectra:
    """Spectra with the names of their sources."""

    spectra: Spectra
    sources: tuple[str, ...]
    differences: list[SpectralDifference]


@dataclass
class Explanation:
    """What was found.

    Attributes:
        kind: what is set against what.
        counts: pictures by source.
        bias: the gallery's own figures.
        left: the same without the common displacement.
        change: their difference, paired; empty where it has no interval.
        direction: by generator; "all" takes the mean of a photo's twins.
        probes: by generator; "all" takes every generated picture.
        decompositions: by generator.
        cosines: between generators.
        reversal: the experiment, where a debiased retriever was given.
        maps: pictures in the plane.
        spectra: of the pictures themselves, where they were given.
        notes: what could not be done and why, and how to read what was.
    """

    kind: Kind
    counts: dict[str, int]
    bias: list[Outcome] = field(default_factory=list)
    left: list[Outcome] = field(default_factory=list)
    change: list[Outcome] = field(default_factory=list)
    direction: dict[str, Consistency] = field(default_factory=dict)
    probes: dict[str, ProbeResult] = field(default_factory=dict)
    decompositions: dict[str, Decomposition] = field(default_factory=dict)
    cosines: list[CrossCosine] = field(default_factory=list)
    reversal: Reversal | None = None
    maps: list[EmbeddingMap] = field(default_factory=list)
    spectra: PictureSpectra | None = None
    notes: list[str] = field(default_factory=list)


def explain(
    embeddings: Embeddings,
    choices: Choices | None = None,
    *,
    debiased: Embeddings | None = None,
    shards: Sequence[str] = (),
) -> Explanation:
    """Explain a source bias.

    Args:
        embeddings: the retriever's pictures and, where known, queries.
        choices: how.
        debiased: a debiased retriever's embeddings of the same pictures, for the reversal experiment.
        shards: the pictures themselves, for their spectra.

    Raises:
        RunError: if one source only is there, or an embedding is zero or not finite.
    """
    choices = choices or Choices()
    check_method(choices.map)
    _check(embeddings)
    kind = kind_of(embeddings)
    counts = {name: int((embeddings.image_source == code).sum()) for code, name in enumerate(embeddings.sources)}
    found = Explanation(kind, {name: count for name, count in counts.items() if count})
    bootstrap = Bootstrap(resamples=choices.resamples, seed=choices.seed)
    found.notes.append(f"Compared: {TOLD[kind]}.")
    _directions(found, embeddings, choices)
    _probes(found, embeddings, choices, bootstrap)
    _gaps(found, embeddings, bootstrap)
    if len(found.counts) > 2:
        found.cosines = cross_cosines(embeddings, resamples=choices.permutations, seed=choices.seed)
    if debiased is not None:
        found.reversal = reverse(embeddings, debiased, bootstrap, seed=choices.seed)
        if found.reversal is None:
            found.notes.append("No reversal experiment: no query is answered by both sources.")
        elif found.reversal.agreement < LEAST_AGREEMENT:
            found.notes.append(
                f"Reversal: a picture's embeddings by the two retrievers have a mean cosine of only "
                f"{found.reversal.agreement:.2f}. Unless the debiased one was trained from the other, their difference "
                "is that of two spaces, and the experiment says little."
            )
    image = embeddings.image.numpy().astype(np.float64)
    methods: list[Method] = ["pca"] if choices.map == "pca" else ["pca", choices.map]
    found.maps = [embedding_map(image, embeddings.image_source, method, seed=choices.seed) for method in methods]
    if shards:
        spectra, names, paired = shard_spectra(shards, most=choices.pictures, side=choices.side, seed=choices.seed)
        found.spectra = PictureSpectra(
            spectra, names, spectral_differences(spectra, paired=paired, bootstrap=bootstrap)
        )
        found.notes += [f"Left out of the spectra: {line}." for line in spectra.problems.lines()]
    else:
        found.notes.append("No spectra: the pictures themselves were not given (--shards, or --pictures).")
    return found


def _check(embeddings: Embeddings) -> None:
    if not embeddings.generated.any() or embeddings.generated.all():
        there = ", ".join(embeddings.sources[code] for code in np.unique(embeddings.image_source).tolist())
        raise RunError(f"a source bias needs photos and generated pictures, and there are only: {there}")
    for name, side in (("picture", embeddings.image), ("query", embeddings.text)):
        if side is None:
            continue
        array = side.numpy()
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1) | (array == 0).all(axis=1))
        if len(bad):
            raise RunError(
                f"the embedding of {name} {bad[0]} is zero or not finite ({len(bad)} such): nothing to explain"
            )


def _generators(embeddings: Embeddings) -> Iterator[tuple[str, tuple[int, ...]]]:
    """All generated pictures, then each generator's, where there are several."""
    codes = [int(code) for code in np.unique(embeddings.image_source) if code > 0]
    if len(codes) > 1:
        yield ALL, ()
    for code in codes:
        yield embeddings.sources[code], (code,)


def _directions(found: Explanation, embeddings: Embeddings, choices: Choices) -> None:
    for name, codes in _generators(embeddings):
        units = units_of(embeddings, codes)
        if len(units) == 0:
            found.notes.append(f"No direction of {name}: none of its pictures shares a target with a photo.")
            continue
        displacement = differences(units)
        result = consistency(displacement, resamples=choices.permutations, seed=choices.seed)
        if result is not None:
            found.direction[name] = result
        elif found.kind == "whole":
            norm = float(np.linalg.norm(displacement[0]))
            found.notes.append(f"One difference has no consistency: that of {name} has norm {norm:.4f}.")
        else:
            found.notes.append(f"No direction of {name}: fewer than two displacements are not zero.")
    if found.kind == "class" and found.direction:
        units_count = max(result.units for result in found.direction.values())
        found.notes.append(
            f"With {units_count} classes, sign flips reach no p below about {2.0 ** (1 - units_count):.2g}."
        )


def _probes(found: Explanation, embeddings: Embeddings, choices: Choices, bootstrap: Bootstrap) -> None:
    target = embeddings.image_target
    group = np.where(target >= 0, target, target.max(initial=0) + 1 + np.arange(len(target)))
    for name, codes in _generators(embeddings):
        chosen = (embeddings.image_source == 0) | (np.isin(embeddings.image_source, codes) if codes else True)
        generated = embeddings.generated[chosen]
        cells = np.stack([target[chosen], generated])
        strata = np.unique(cells, axis=1, return_inverse=True)[1].reshape(-1) if found.kind == "class" else None
        result = probe(
            embeddings.image.numpy()[chosen].astype(np.float64), generated, group[chosen],
            strata=strata, folds=choices.folds, bootstrap=bootstrap,
            permutations=choices.permutations, seed=choices.seed,
        )  # fmt: skip
        if result is None:
            found.notes.append(f"No probe of {name}: folds that keep targets together do not hold both sources.")
        else:
            found.probes[name] = result


def _gaps(found: Explanation, embeddings: Embeddings, bootstrap: Bootstrap) -> None:
    if embeddings.text is None:
        found.notes.append("No score gap and no Relative Delta: the set has no queries.")
        return
    gallery = measure_gallery(embeddings, embeddings.image, bootstrap)
    found.bias = gallery.outcomes
    if found.bias and found.kind != "whole":
        left = measure_gallery(embeddings, without_common(embeddings, seed=bootstrap.seed), bootstrap)
        found.left, found.change = left.outcomes, change(gallery, left, bootstrap)
    for name, codes in _generators(embeddings):
        result = decompose(embeddings, codes, bootstrap)
        if result is None:
            found.notes.append(f"No score gap of {name}: no query's target has pictures of both sources.")
        else:
            found.decompositions[name] = result
