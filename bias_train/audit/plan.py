"""Which galleries an audit ranks, and which cells of figures it reads from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bias_train.audit.options import HEADLINE_RATIO, AuditOptions
from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.metrics.functional.source_columns import Mode
from bias_train.stats import Floats
from datamodules.gallery import gallery

Bools = NDArray[np.bool_]
EVERY = "all"
MOST_TWINS = 200


@dataclass(frozen=True)
class Gallery:
    """A mixed gallery.

    Attributes:
        ratio: its generated share.
        generator: whose generated pictures it holds; "all" for every generator's.
        rows: [M] bool, its pictures.
    """

    ratio: float
    generator: str
    rows: Bools


@dataclass(frozen=True)
class Cell:
    """Some queries over one gallery.

    Attributes:
        group: "headline", "ratio", "generator", "caption_length" or "similarity".
        name: what sets it apart from the others of its group, for readers.
        gallery: number of its gallery.
        mode: of the relevance figures.
        queries: [Q] bool, or None for all.
    """

    group: str
    name: str
    gallery: int
    mode: Mode = "clean"
    queries: Bools | None = None


@dataclass(frozen=True)
class Plan:
    """Galleries and cells; cell 0 is the headline, the evenly mixed gallery of all generators."""

    galleries: tuple[Gallery, ...]
    cells: tuple[Cell, ...]


def plan_audit(embeddings: Embeddings, options: AuditOptions, similarity: Mapping[str, float] | None = None) -> Plan:
    """Choose galleries and cells.

    Args:
        embeddings: what is audited; its similarities divide the photos.
        options: the reader's choices.
        similarity: recorded similarity of generated pictures with their photo by key, in place of the cosine in the
            audited space.

    Raises:
        RunError: if photos, generated pictures or queries are missing, or similarities of some twins.
    """
    _check_sides(embeddings)
    present = sorted(set(embeddings.image_source[embeddings.image_source > 0].tolist()))
    galleries = [_gallery(embeddings, ratio, None, options.seed) for ratio in options.ratios]
    headline = options.ratios.index(HEADLINE_RATIO)
    pairs = embeddings.relevance == "pair"
    # With one caption or label slot the paper's mean of ratios needs no slots; with several it needs them told apart.
    modes: tuple[Mode, ...] = ("clean", "paper") if pairs and _slots_differ(embeddings) else ("clean",)
    cells = [Cell("headline", "all generators", headline, mode) for mode in modes]
    cells += [
        Cell("ratio", f"{100 * ratio:g} % generated", number)
        for number, ratio in enumerate(options.ratios)
        if number != headline
    ]
    if len(present) > 1:
        for code in present:
            galleries.append(_gallery(embeddings, HEADLINE_RATIO, code, options.seed))
            name = embeddings.sources[code]
            cells += [Cell("generator", name, len(galleries) - 1, mode) for mode in modes]
    if pairs and options.quantiles > 1:
        cells += _by_length(embeddings, headline, options.quantiles)
        cells += _by_similarity(embeddings, galleries[headline].rows, headline, options.quantiles, similarity)
    return Plan(tuple(galleries), tuple(cells))


def _check_sides(embeddings: Embeddings) -> None:
    if embeddings.text is None or len(embeddings.text) == 0:
        raise RunError("there are no queries; give embeddings with an array 'text', or shards with captions")
    generated = embeddings.image_source > 0
    for name, count in (("photos", int((~generated).sum())), ("generated pictures", int(generated.sum()))):
        if count == 0:
            raise RunError(f"there are no {name}; a source bias needs pictures of both kinds")
    if not np.isin(embeddings.query_target, embeddings.image_target[embeddings.image_target >= 0]).any():
        raise RunError("no query has a picture of its target; query_target and image_target must match")
    asked = np.isin(embeddings.image_target, embeddings.query_target)
    most = int(np.unique(embeddings.image_target[asked], return_counts=True)[1].max())
    if embeddings.relevance == "pair" and most > MOST_TWINS:
        raise RunError(
            f"a target has {most:,} pictures, too many for a photo and its twins; if targets are classes, "
            "relevance must be label"
        )
    if int(embeddings.query_target.min()) < 0:
        raise RunError("query_target holds a negative target; every query must ask for a known one")


def _gallery(embeddings: Embeddings, ratio: float, code: int | None, seed: int) -> Gallery:
    rows = np.zeros(len(embeddings.image), dtype=bool)
    rows[gallery(embeddings.image_source, embeddings.image_target, ratio, generator=code, seed=seed)] = True
    return Gallery(ratio, EVERY if code is None else embeddings.sources[code], rows)


def _slots_differ(embeddings: Embeddings) -> bool:
    """Whether no target has two queries in one caption slot, so that slots are known."""
    slots = np.stack([embeddings.query_target, embeddings.query_slot])
    return len(np.unique(slots, axis=1).T) == slots.shape[1]


def _by_length(embeddings: Embeddings, headline: int, parts: int) -> list[Cell]:
    """Cells by number of words; none where the captions are not known or all of one length."""
    words = np.array([len(caption.split()) for caption in embeddings.query], dtype=np.float64)
    if len(words) == 0 or not words.all():
        return []
    cells = []
    for part, (low, high) in zip(*_quantile_parts(words, parts), strict=True):
        name = f"{low:g} words" if low == high else f"{low:g} to {high:g} words"
        cells.append(Cell("caption_length", name, headline, queries=part))
    return cells if len(cells) > 1 else []


def _by_similarity(
    embeddings: Embeddings, rows: Bools, headline: int, parts: int, recorded: Mapping[str, float] | None
) -> list[Cell]:
    """Cells by mean similarity of a photo with its twins in the gallery; queries without a pair are in none."""
    by_target = twin_similarity(embeddings, rows, recorded)
    known = np.array([by_target.get(target, np.nan) for target in embeddings.query_target.tolist()])
    paired = ~np.isnan(known)
    if not paired.any():
        return []
    # Photos are divided, not captions: a photo with many captions must not move the borders.
    borders = np.array(list(by_target.values()))
    cells = []
    for part, (low, high) in zip(*_quantile_parts(known, parts, borders), strict=True):
        cells.append(Cell("similarity", f"similarity {low:.3f} to {high:.3f}", headline, queries=part & paired))
    return cells if len(cells) > 1 else []


def twin_similarity(
    embeddings: Embeddings, rows: Bools, recorded: Mapping[str, float] | None = None
) -> dict[int, float]:
    """Mean similarity of each photo with its twins.

    Args:
        embeddings: pictures.
        rows: [M] bool, the gallery.
        recorded: similarity of generated pictures by key; None takes the cosine of the embeddings.

    Returns:
        By target, for targets with one photo and a twin in the gallery.

    Raises:
        RunError: if a twin's similarity is not recorded.
    """
    target, source = embeddings.image_target, embeddings.image_source
    photos = np.flatnonzero(rows & (source == 0) & (target >= 0))
    ids, count = np.unique(target[photos], return_counts=True)
    single = ids[count == 1]
    if len(single) == 0:
        return {}
    photo_of = dict(zip(target[photos].tolist(), photos.tolist(), strict=True))
    twins = np.flatnonzero(rows & (source > 0) & np.isin(target, single))
    if len(twins) == 0:
        return {}
    if recorded is None:
        mine = torch.from_numpy(np.array([photo_of[t] for t in target[twins].tolist()]))
        other = torch.from_numpy(twins)
        values = torch.nn.functional.cosine_similarity(embeddings.image[mine], embeddings.image[other], dim=1)
        cosine: Floats = values.double().numpy()
    else:
        keys = [embeddings.image_key[row] for row in twins.tolist()]
        missing = [key for key in keys if key not in recorded]
        if missing:
            raise RunError(
                f"{len(missing)} twins have no recorded similarity, the first is {missing[0]!r}; give one for "
                "every generated picture, or leave out --similarity for the cosine in the audited space"
            )
        cosine = np.array([recorded[key] for key in keys], dtype=np.float64)
    owner, dense = np.unique(target[twins], return_inverse=True)
    mean = np.bincount(dense, weights=cosine) / np.bincount(dense)
    return dict(zip(owner.tolist(), mean.tolist(), strict=True))


def _quantile_parts(
    values: Floats, parts: int, borders: Floats | None = None
) -> tuple[list[Bools], list[tuple[float, float]]]:
    """Divide values at the quantiles of ``borders`` (of themselves): masks, and the least and greatest of each.

    Equal values stay together, so that parts may differ in size and fewer may remain.
    """
    own = values if borders is None else borders
    edges = np.unique(np.quantile(own, np.arange(1, parts) / parts, method="inverted_cdf"))
    number = np.searchsorted(edges, values, side="left")
    number[np.isnan(values)] = -1
    masks, ranges = [], []
    for part in np.unique(number[number >= 0]):
        mask: Bools = number == part
        masks.append(mask)
        ranges.append((float(values[mask].min()), float(values[mask].max())))
    return masks, ranges
