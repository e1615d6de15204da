"""Embeddings in the plane: principal components always, t-SNE or UMAP where their library is installed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from bias_train.errors import RunError
from bias_train.stats import Floats, Ints

Method = Literal["pca", "tsne", "umap"]
MOST = 3000


@dataclass(frozen=True)
class EmbeddingMap:
    """Pictures in the plane.

    Attributes:
        method: how they got there.
        rows: [n] which pictures.
        place: [n, 2].
        explained: share of the variance that each axis holds, for "pca"; empty else.
    """

    method: Method
    rows: Ints
    place: Floats
    explained: tuple[float, ...] = ()


def principal_components(image: Floats, count: int = 2) -> tuple[Floats, Floats]:
    """Project on the directions of largest variance.

    Args:
        image: [n, D].
        count: directions.

    Returns:
        [n, count] places, each axis with its largest loading positive, and [count] shares of the variance.
    """
    centred = image - image.mean(axis=0)
    value, vector = np.linalg.eigh(centred.T @ centred)
    value, vector = value[::-1][:count].clip(min=0.0), vector[:, ::-1][:, :count]
    # The sign of an eigenvector is the library's whim; a map must not be mirrored by another version.
    vector = vector * np.sign(vector[np.abs(vector).argmax(axis=0), np.arange(vector.shape[1])])
    total = float((centred**2).sum())
    return centred @ vector, value / total if total > 0 else np.zeros(len(value))


def sample_rows(source: Ints, most: int, seed: int) -> Ints:
    """Choose at most so many pictures, evenly from the sources, in ascending order."""
    rng = np.random.default_rng(seed)
    codes = np.unique(source)
    rows = [rng.permutation(np.flatnonzero(source == code))[: max(1, most // len(codes))] for code in codes]
    return np.sort(np.concatenate(rows)).astype(np.int64)


def check_method(method: Method) -> None:
    """Fail early where a map's library is missing.

    Raises:
        RunError: with what to install.
    """
    module, package = {"tsne": ("sklearn", "scikit-learn"), "umap": ("umap", "umap-learn")}.get(method, ("numpy", ""))
    if find_spec(module) is None:
        raise RunError(f"--map {method} needs {package}, which is not installed: pip install {package}, or --map pca")


def embedding_map(image: Floats, source: Ints, method: Method = "pca", *, seed: int = 0) -> EmbeddingMap:
    """Lay pictures out in the plane.

    Args:
        image: [M, D].
        source: [M] codes; where there are more than some thousand pictures, evenly many of each are drawn.
        method: "pca", "tsne" (scikit-learn) or "umap" (umap-learn). Only the first keeps distances.
        seed: of the choice and of the method.

    Raises:
        RunError: where the method's library is missing.
    """
    check_method(method)
    rows = sample_rows(source, MOST, seed) if len(image) > MOST else np.arange(len(image))
    if method == "pca" or len(rows) < 4:
        # The axes are those of all pictures, whichever are drawn.
        place, share = principal_components(image)
        return EmbeddingMap("pca", rows, place[rows], tuple(float(part) for part in share))
    layout: Any
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(rows) - 1) / 3)
        layout = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    else:
        from umap import UMAP

        layout = UMAP(n_neighbors=min(15, len(rows) - 1), random_state=seed)
    return EmbeddingMap(method, rows, np.asarray(layout.fit_transform(image[rows]), dtype=np.float64))
