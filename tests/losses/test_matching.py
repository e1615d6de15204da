"""SourceMMD and SourceCORAL against loops, closed forms and NumPy's moments; their strata and degenerate batches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_features import random_features, unit_rows
from torch import Tensor

from losses import REAL, Features, Loss, LossError, SourceCORAL, SourceMMD

TERMS: list[type[SourceMMD] | type[SourceCORAL]] = [SourceMMD, SourceCORAL]


def total(loss: Loss, features: Features) -> Tensor:
    return torch.stack([*loss(features).values()]).sum()


def samples(features: Features, pairs: bool, labels: Tensor | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photos and generated pictures by stratum, gathered row by row."""
    found: dict[int, tuple[list[Any], list[Any]]] = {}
    for i in range(len(features.image)):
        real, fake = found.setdefault(int(labels[i]) if labels is not None else 0, ([], []))
        own, other = (real, fake) if features.source[i] == REAL else (fake, real)
        if pairs:
            assert features.twin is not None
            assert features.has_twin is not None
            if features.has_twin[i]:
                own.append(features.image[i].numpy())
                other.append(features.twin[i].numpy())
        else:
            own.append(features.image[i].numpy())
    return [(np.array(real), np.array(fake)) for real, fake in found.values()]


def kernel(x: np.ndarray, y: np.ndarray, widths: list[float]) -> float:
    return float(np.mean([math.exp(-float(((x - y) ** 2).sum()) / (2 * s * s)) for s in widths]))


def naive_mmd(real: np.ndarray, fake: np.ndarray, widths: list[float], unbiased: bool) -> float:
    def inside(sample: np.ndarray) -> float:
        values = [
            kernel(a, b, widths)
            for i, a in enumerate(sample)
            for j, b in enumerate(sample)
            if not (unbiased and i == j)
        ]
        return float(np.mean(values))

    between = float(np.mean([kernel(a, b, widths) for a in real for b in fake]))
    return inside(real) + inside(fake) - 2 * between


def naive_coral(real: np.ndarray, fake: np.ndarray, unbiased: bool) -> tuple[float, float]:
    mean = float(((real.mean(axis=0) - fake.mean(axis=0)) ** 2).sum())
    a, b = np.cov(real.T), np.cov(fake.T)
    if unbiased:
        mean -= np.trace(a) / len(real) + np.trace(b) / len(fake)
    return mean, float(((a - b) ** 2).sum())


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("pictures", ["anchors", "pairs"])
@pytest.mark.parametrize("bandwidth", [0.7, "median"])
def test_mmd_against_loops(unbiased: bool, pictures: Any, bandwidth: Any) -> None:
    features = random_features(rows=15)
    ((real, fake),) = samples(features, pictures == "pairs")
    width = bandwidth
    if bandwidth == "median":
        both = np.concatenate([real, fake])
        distances = sorted(np.linalg.norm(a - b) for i, a in enumerate(both) for b in both[:i])
        width = distances[(len(distances) - 1) // 2]  # torch's median is the lower of the two in the middle
    loss = SourceMMD(pictures, bandwidth=bandwidth, multiples=[0.5, 2.0], unbiased=unbiased, min_count=2)
    expected = naive_mmd(real, fake, [0.5 * width, 2.0 * width], unbiased)
    assert float(loss(features)["source_mmd"]) == pytest.approx(expected)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("pictures", ["anchors", "pairs"])
def test_coral_against_numpy(unbiased: bool, pictures: Any) -> None:
    features = random_features(rows=15)
    ((real, fake),) = samples(features, pictures == "pairs")
    terms = SourceCORAL(covariance=3.0, pictures=pictures, unbiased=unbiased, min_count=2)(features)
    mean, covariance = naive_coral(real, fake, unbiased)
    assert float(terms["coral_mean"]) == pytest.approx(mean)
    assert float(terms["coral_covariance"]) == pytest.approx(3 * covariance)


@pytest.mark.parametrize("within", ["caption", "group"])
@pytest.mark.parametrize("pictures", ["anchors", "pairs"])
def test_strata_against_loops(within: Any, pictures: Any) -> None:
    rows = 40
    labels, other = torch.arange(rows) % 6 * 10, torch.arange(rows)
    ids = {"caption_id": labels, "group": other} if within == "caption" else {"caption_id": other, "group": labels}
    features = random_features(rows=rows, **ids)
    mmd, coral, weights = [], [], []
    for real, fake in samples(features, pictures == "pairs", labels):
        if min(len(real), len(fake)) >= 3:
            mmd.append(naive_mmd(real, fake, [0.9], unbiased=True))
            coral.append(sum(naive_coral(real, fake, unbiased=True)))
            weights.append(1 / (1 / len(real) + 1 / len(fake)))
    assert len(weights) > 1
    options: dict[str, Any] = {"pictures": pictures, "within": within, "min_count": 3}
    value = SourceMMD(bandwidth=0.9, multiples=[1.0], **options)(features)["source_mmd"]
    assert float(value) == pytest.approx(np.average(mmd, weights=weights))
    assert float(total(SourceCORAL(**options), features)) == pytest.approx(np.average(coral, weights=weights))


def test_unbiased_is_zero_on_average_where_the_sources_are_alike() -> None:
    """And the biased forms are above zero, by what sampling makes of it."""
    values: dict[str, list[float]] = {"u": [], "b": [], "cu": [], "cb": []}
    source = torch.arange(16) % 2
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        features = random_features(rows=16, width=4, image=unit_rows(16, 4, generator), source=source)
        fixed: dict[str, Any] = {"bandwidth": 1.0, "multiples": [1.0]}
        values["u"].append(float(SourceMMD(**fixed)(features)["source_mmd"]))
        values["b"].append(float(SourceMMD(unbiased=False, **fixed)(features)["source_mmd"]))
        values["cu"].append(float(SourceCORAL()(features)["coral_mean"]))
        values["cb"].append(float(SourceCORAL(unbiased=False)(features)["coral_mean"]))
    for name in ("u", "cu"):
        assert abs(np.mean(values[name])) < 4 * np.std(values[name]) / 20
    for name in ("b", "cb"):
        assert np.mean(values[name]) > 10 * np.std(values[name]) / 20
    assert np.mean(values["cb"]) == pytest.approx(1 / 8 + 1 / 8, rel=0.1)  # tr(A) / n + tr(B) / m, traces of 1


@pytest.mark.parametrize("kind", TERMS)
def test_order_names_of_generators_and_exchange_of_sources_change_nothing(kind: type[SourceMMD]) -> None:
    features = random_features(rows=16, caption_id=torch.arange(16) % 2)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    changes = {name: getattr(features, name)[order] for name in ("image", "text", "group", "caption_id")}
    shuffled = replace(features, source=(features.source != REAL).long()[order] * 5, **changes)
    swapped = replace(features, source=(features.source == REAL).long())
    for within in ("batch", "caption"):
        loss = kind(within=within, min_count=2)  # type: ignore[arg-type]
        value = total(loss, features)
        assert float(value) != 0
        torch.testing.assert_close(total(loss, shuffled), value)
        torch.testing.assert_close(total(loss, swapped), value)


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize("pictures", ["anchors", "pairs"])
@pytest.mark.parametrize("case", ["photos", "generated", "no pairs", "one each"])
def test_nothing_to_compare_is_zero_with_a_graph(kind: type[SourceMMD], pictures: Any, case: str) -> None:
    changes: dict[str, Any] = {
        "photos": {"source": torch.zeros(12, dtype=torch.int64), "has_twin": torch.zeros(12, dtype=torch.bool)},
        "generated": {"source": torch.ones(12, dtype=torch.int64), "has_twin": torch.zeros(12, dtype=torch.bool)},
        "no pairs": {"source": torch.zeros(12, dtype=torch.int64), "has_twin": torch.zeros(12, dtype=torch.bool)},
        "one each": {"source": (torch.arange(12) == 5).long(), "has_twin": torch.arange(12) == 3},
    }[case]
    features = random_features(**changes)
    assert features.twin is not None
    image, twin = features.image.requires_grad_(), features.twin.requires_grad_()
    value = total(kind(pictures=pictures, min_count=2), features)
    value.backward()
    assert float(value.detach()) == 0.0
    for tensor in (image, twin):
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_one_row_a_source_is_enough_for_the_biased_form() -> None:
    features = random_features(rows=2, source=torch.tensor([0, 1]))
    value = SourceMMD(bandwidth=1.0, multiples=[1.0], unbiased=False, min_count=1)(features)["source_mmd"]
    squared = float((features.image[0] - features.image[1]).square().sum())
    assert float(value) == pytest.approx(2 - 2 * math.exp(-squared / 2))


def test_equal_pictures_do_not_break_the_median() -> None:
    image = torch.ones(12, 1, dtype=torch.float64).requires_grad_()
    value = SourceMMD(min_count=2)(random_features(image=image, text=image.detach(), twin=None, has_twin=None))
    value["source_mmd"].backward()
    assert float(value["source_mmd"].detach()) == pytest.approx(0.0, abs=1e-12)
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize("pictures", ["anchors", "pairs"])
def test_gradcheck(kind: type[SourceMMD], pictures: Any) -> None:
    features = random_features(rows=9, width=3, source=torch.tensor([0, 1, 0] * 3))
    assert features.twin is not None
    options: dict[str, Any] = {"bandwidth": 0.8} if kind is SourceMMD else {}  # the median has no gradient, on purpose

    def value(image: Tensor, twin: Tensor) -> Tensor:
        # The distances are those of unit vectors.
        image, twin = (torch.nn.functional.normalize(x, dim=1) for x in (image, twin + 1e-9))
        return total(kind(pictures=pictures, min_count=2, **options), replace(features, image=image, twin=twin))

    leaves = (features.image.clone().requires_grad_(), (features.twin + 0.1).requires_grad_())
    assert torch.autograd.gradcheck(value, leaves)


@pytest.mark.parametrize("kind", TERMS)
def test_descending_it_removes_a_planted_displacement(kind: type[SourceMMD]) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(120, 6, generator=generator, dtype=torch.float64)
    source = torch.arange(120) % 2
    pixels[source == 1, 0] += 1.5
    direction = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([direction], lr=1.0)

    def displacement() -> tuple[float, Features]:
        image = torch.nn.functional.normalize(pixels + (source == 1).unsqueeze(1) * direction, dim=1)
        features = random_features(rows=120, width=6, image=image, source=source, twin=None, has_twin=None)
        apart = image[source == 1].mean(dim=0) - image[source == 0].mean(dim=0)
        return float(apart.detach().norm()), features

    before = displacement()[0]
    for _ in range(150):
        optimizer.zero_grad()
        total(kind(), displacement()[1]).backward()
        optimizer.step()
    assert displacement()[0] < 0.35 * before


@pytest.mark.parametrize("kind", TERMS)
def test_what_is_wrong_is_named(kind: type[SourceMMD]) -> None:
    assert kind(pictures="pairs").needs_twin
    assert not kind().needs_twin
    with pytest.raises(LossError, match="twin_share"):
        kind(pictures="pairs")(random_features(twin=None, has_twin=None))
    with pytest.raises(LossError, match="pictures must be one of 'anchors', 'pairs'; got 'twins'"):
        kind(pictures="twins")  # type: ignore[arg-type]
    with pytest.raises(LossError, match="within must be one of"):
        kind(within="class")  # type: ignore[arg-type]
    with pytest.raises(LossError, match="min_count must be a finite number of at least 2; got 1"):
        kind(min_count=1)
    image = random_features().image.clone()
    image[4] = float("nan")
    with pytest.raises(LossError, match=rf"{kind.__name__}, step 3: .*features\.image \(1 of 12 rows, first: 4\)"):
        kind()(random_features(image=image))


def test_wrong_options_are_named() -> None:
    with pytest.raises(LossError, match="bandwidth must be one of 'median'; got 'mean'"):
        SourceMMD(bandwidth="mean")  # type: ignore[arg-type]
    with pytest.raises(LossError, match="bandwidth must be a finite number above 0; got 0"):
        SourceMMD(bandwidth=0)
    with pytest.raises(LossError, match="multiples is empty"):
        SourceMMD(multiples=[])
    with pytest.raises(LossError, match="multiples must be a finite number above 0; got -1"):
        SourceMMD(multiples=[1.0, -1.0])
    with pytest.raises(LossError, match="covariance must be a finite number of at least 0"):
        SourceCORAL(covariance=-1.0)
