from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from bias_train.errors import RunError
from bias_train.explain import maps
from bias_train.explain.maps import embedding_map, principal_components, sample_rows


def test_principal_components_are_those_of_scikit_learn() -> None:
    image = np.random.default_rng(0).standard_normal((60, 7)) * np.linspace(1, 3, 7)
    place, share = principal_components(image)
    model = PCA(2).fit(image)
    assert np.abs(place) == pytest.approx(np.abs(model.transform(image)))
    assert share == pytest.approx(model.explained_variance_ratio_)


def test_pictures_are_drawn_evenly_from_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.repeat([0, 1, 2], [500, 30, 300])
    rows = sample_rows(source, 120, 0)
    assert np.bincount(source[rows]).tolist() == [40, 30, 40]
    assert (np.diff(rows) > 0).all()
    monkeypatch.setattr(maps, "MOST", 90)
    image = np.random.default_rng(0).standard_normal((830, 5))
    found = embedding_map(image, source)
    assert len(found.rows) == len(found.place) == 90
    # The axes are those of all pictures, not of the drawn ones.
    assert found.place == pytest.approx(principal_components(image)[0][found.rows])


def test_neighbours_stay_neighbours_in_tsne() -> None:
    rng = np.random.default_rng(0)
    image = np.concatenate([rng.standard_normal((25, 10)), rng.standard_normal((25, 10)) + 8.0])
    source = np.repeat([0, 1], 25)
    found = embedding_map(image, source, "tsne")
    assert found.method == "tsne"
    distance = np.linalg.norm(found.place[:, None] - found.place[None], axis=-1) + 1e9 * np.eye(50)
    assert (source[distance.argmin(axis=1)] == source).all()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    with pytest.raises(RunError, match="--map umap needs umap-learn, which is not installed: pip install umap-learn"):
        embedding_map(np.ones((5, 2)), np.array([0, 0, 1, 1, 1]), "umap")
