"""Remedies that edit coordinates: clipping by mutual information, imputation by a forest's importances."""

from __future__ import annotations

import builtins
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted_people import WIDTH, calibration, queries
from sklearn.metrics import mutual_info_score

from models import ModelError
from models.remedies import Clipping, FeatureImputation, FittedLinear
from models.remedies.clipping import mutual_information


@pytest.mark.parametrize(("rows", "bins"), [(64, 4), (61, 7), (5, 16)])
def test_mutual_information_of_a_contingency_table(rows: int, bins: int) -> None:
    rng = np.random.default_rng(rows)
    x, group = rng.standard_normal((rows, 6)), rng.integers(0, 3, rows)
    x[:, 0] += 3 * group
    found = mutual_information(torch.from_numpy(x), torch.from_numpy(group), bins)
    for column in range(6):
        rank = np.argsort(np.argsort(x[:, column]))
        assert float(found[column]) == pytest.approx(mutual_info_score(rank * bins // rows, group), abs=1e-12)
    if rows > 10:
        assert int(found.argmax()) == 0


def test_clipping_drops_what_tells_the_group() -> None:
    data = calibration(3, each=200)
    fitted = Clipping(keep=(WIDTH - 3) / WIDTH).fit(data)
    x = queries(5, 3, 2)
    expected = x.clone()
    expected[:, :3] = 0  # the groups' own dimensions
    expected = torch.nn.functional.normalize(expected, dim=1)
    torch.testing.assert_close(fitted.text(x), expected)
    torch.testing.assert_close(fitted.image(x), expected)
    # The paper clips both sides and leaves their lengths alone: clipping queries ranks pictures alike.
    text = Clipping(keep=(WIDTH - 3) / WIDTH, side="text").fit(data)
    papers = x[:, 3:] @ data.image[:, 3:].T
    ours = text.text(x) @ text.image(data.image).T
    assert torch.equal(papers.argsort(dim=1), ours.argsort(dim=1))


def test_imputation_replaces_the_dimensions_that_a_forest_names() -> None:
    data = calibration(2, each=150)
    fitted = FeatureImputation(dimensions=2, confidence=0.9, trees=60).fit(data)
    assert isinstance(fitted, FittedLinear)
    assert fitted.image_map is not None
    assert fitted.text_map is not None
    replaced = torch.nonzero(fitted.image_map.matrix.diagonal() == 0)[:, 0]
    assert replaced.tolist() == [0, 1]
    mapped = fitted.image_map.apply(data.image.double(), renormalise=False)
    torch.testing.assert_close(mapped[:, 2:], data.image[:, 2:].double())
    assert mapped[:, :2].std(dim=0).max() == 0
    # Undecided pictures lie between the groups.
    means = data.means()[:, :2]
    assert ((mapped[0, :2] > means.amin(dim=0)) & (mapped[0, :2] < means.amax(dim=0))).all()
    words = fitted.text_map.apply(data.words.double(), renormalise=False)
    torch.testing.assert_close(words[0, :2], data.words.double().mean(dim=0)[:2])
    again = FeatureImputation(dimensions=2, confidence=0.9, trees=60).fit(data)
    assert isinstance(again, FittedLinear)
    assert again.image_map is not None
    assert again.image_map.bias is not None
    assert fitted.image_map.bias is not None
    assert torch.equal(again.image_map.bias, fitted.image_map.bias)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModelError, match="pip install scikit-learn"):
        FeatureImputation().fit(calibration())


def test_what_cannot_be_done_is_named() -> None:
    data = calibration()
    for make, words in (
        (lambda: Clipping(keep=1.0), "keep is 1"),
        (lambda: Clipping(bins=1), "bins is 1"),
        (lambda: Clipping(keep=0.001).fit(data), "keeps none, or all"),
        (lambda: Clipping(side="query"), "side is 'query'"),  # type: ignore[arg-type]
        (lambda: FeatureImputation(dimensions=0), "dimensions is 0"),
        (lambda: FeatureImputation(confidence=2.0), "confidence is 2"),
        (lambda: FeatureImputation(dimensions=WIDTH).fit(data), "24 wide"),
        (lambda: FeatureImputation(dimensions=3, confidence=1e-6, trees=30).fit(data), "raise confidence"),
        (lambda: FeatureImputation().fit(replace(data, words=torch.empty(0, WIDTH))), "fitted to words"),
        (lambda: Clipping().fit(replace(data, labels=("a", "b", "c", "d"))), "group 'd'"),
    ):
        with pytest.raises(ModelError, match=words):
            make()  # type: ignore[no-untyped-call]
