from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from explain_worlds import class_world, pair_world
from scipy.stats import kstest
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from bias_train.embeddings import load_embeddings
from bias_train.explain.findings import Choices, explain
from bias_train.explain.probe import permuted_labels, probe
from bias_train.linear_probe import fit_probe, folds_of, ledoit_wolf, weighted_auc
from bias_train.stats import Bootstrap

FEW = Bootstrap(resamples=300)


def test_shrinkage_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for n, width in ((30, 50), (400, 8), (60, 60)):
        rows = rng.standard_normal((n, width)) * np.linspace(0.2, 2.0, width)
        rows -= rows.mean(axis=0)
        assert ledoit_wolf(rows) == pytest.approx(ledoit_wolf_shrinkage(rows, assume_centered=True), rel=1e-9)


def test_auc_is_that_of_scikit_learn_with_ties_and_weights() -> None:
    rng = np.random.default_rng(1)
    score = rng.integers(0, 6, 50).astype(float)
    made = rng.random(50) < 0.4
    weight = rng.integers(0, 4, (7, 50)).astype(float)
    sums = weighted_auc(score, made, weight)
    expected = [roc_auc_score(made, score, sample_weight=row) for row in weight]
    assert sums[:, 0] / sums[:, 1] == pytest.approx(expected)


def test_the_direction_is_the_discriminants() -> None:
    # Two normal sources of equal known covariance: the best direction is S^-1 (m1 - m0).
    rng = np.random.default_rng(2)
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    made = np.repeat([False, True], 20_000)
    image = rng.multivariate_normal([0, 0], covariance, 40_000) + made[:, None] * [0.5, 0.0]
    found, best = fit_probe(image, made), np.linalg.solve(covariance, [0.5, 0.0])
    assert found @ best / np.linalg.norm(found) / np.linalg.norm(best) == pytest.approx(1.0, abs=1e-3)


def test_folds_keep_groups_and_spread_sources() -> None:
    group = np.repeat(np.arange(50), 3)
    made = np.tile([False, True, True], 50)
    fold = folds_of(group, made, 5, 0)
    assert all(len(set(fold[group == which])) == 1 for which in range(50))
    assert {int((fold == number).sum()) for number in range(5)} == {30}
    apart = folds_of(np.arange(100), np.arange(100) < 20, 5, 0)
    assert [int((apart[:20] == number).sum()) for number in range(5)] == [4] * 5


@pytest.mark.parametrize("offset", [0.0, 0.15, 0.6])
def test_auc_is_near_a_logistic_regressions(offset: float) -> None:
    embeddings, _ = pair_world(150, width=16, offset=offset, noise=0.2)
    image, made = embeddings.image.numpy().astype(float), embeddings.generated
    found = probe(image, made, embeddings.image_target, bootstrap=FEW)
    assert found is not None
    model = LogisticRegression(C=10.0, max_iter=2000)
    score = cross_val_predict(
        model, image, made, groups=embeddings.image_target, cv=GroupKFold(5), method="decision_function"
    )
    assert found.auc == pytest.approx(roc_auc_score(made, score), abs=0.04)
    assert found.low <= found.auc <= found.high
    if offset == 0.0:
        assert found.low < 0.5 + 0.05
        assert found.high > 0.5 - 0.05
    else:
        assert found.low > 0.5
        assert found.p < 0.01


def test_by_chance_the_auc_is_a_half() -> None:
    rng = np.random.default_rng(3)
    found = [
        probe(
            rng.standard_normal((120, 10)),
            np.arange(120) % 2 == 0,
            np.arange(120) // 2,
            bootstrap=FEW,
            permutations=99,
            seed=seed,
        )
        for seed in range(30)
    ]
    assert np.mean([result.auc for result in found if result]) == pytest.approx(0.5, abs=0.025)
    assert kstest([result.p for result in found if result], "uniform").pvalue > 0.01


@pytest.mark.parametrize("groups", ["mixed", "pure"])
def test_the_permutation_test_is_that_of_a_loop(groups: str) -> None:
    rng = np.random.default_rng(5)
    made = np.arange(40) % 2 == 0
    group = np.arange(40) // 2 if groups == "mixed" else np.arange(40) // 4 * 2 + made
    image = rng.standard_normal((40, 3)) + 0.5 * made[:, None]
    image[7] = image[9]  # a tie
    found = probe(image, made, group, bootstrap=FEW, permutations=80, seed=3)
    assert found is not None
    fold = folds_of(group, made, 5, 3)
    drawn = permuted_labels(made, group, 64, again := np.random.default_rng(3))
    drawn = np.concatenate([drawn, permuted_labels(made, group, 16, again)])
    chance = []
    for labels in [made, *drawn]:
        won = pairs = 0.0
        for number in range(5):
            test = fold == number
            both = int(labels[test].sum()) * int((~labels[test]).sum())
            if both:
                score = image[test] @ fit_probe(image[~test], labels[~test])
                won += both * roc_auc_score(labels[test], score)
                pairs += both
        chance.append(won / pairs)
    assert found.auc == pytest.approx(chance[0])
    assert found.p == pytest.approx((1 + np.sum(np.array(chance[1:]) >= chance[0] - 1e-9)) / 81)
    assert found.null_high == pytest.approx(np.quantile(chance[1:], 0.95))


def test_labels_move_within_groups_or_with_them() -> None:
    made = np.array([True, False, True, True, True, False, False])
    group = np.array([0, 0, 0, 1, 1, 2, 3])
    drawn = permuted_labels(made, group, 3000, np.random.default_rng(0))
    assert (drawn[:, :3].sum(axis=1) == 2).all()
    assert (drawn[:, 3] == drawn[:, 4]).all()
    assert ((drawn[:, 3].astype(int) + drawn[:, 5] + drawn[:, 6]) == 1).all()
    assert drawn[:, 1].mean() == pytest.approx(2 / 3, abs=0.03)
    assert drawn[:, 5].mean() == pytest.approx(1 / 3, abs=0.03)


def test_classes_are_left_out_whole() -> None:
    embeddings = class_world(offset=2.0)
    strata = embeddings.image_target * 2 + embeddings.image_source
    image, made = embeddings.image.numpy().astype(float), embeddings.generated
    found = probe(image, made, embeddings.image_target, strata=strata, bootstrap=FEW)
    assert found is not None
    assert (found.folds, found.groups) == (5, 5)
    assert found.auc > 0.99


def test_groups_of_one_source_alone_cannot_be_probed() -> None:
    assert probe(np.ones((4, 2)), np.array([False, False, True, True]), np.array([0, 0, 1, 1])) is None


def test_real_clip_vectors_betray_their_source(shared_data: Path) -> None:
    embeddings = load_embeddings(shared_data / "clip_vectors.npz")
    found = explain(embeddings, Choices(resamples=300, permutations=100))
    result = found.probes["ai"]
    assert result.low > 0.9
    image, made = embeddings.image.numpy().astype(float), embeddings.generated
    group = np.where(embeddings.image_target >= 0, embeddings.image_target, 1000 + np.arange(len(made)))
    model = LogisticRegression(C=10.0, max_iter=5000)
    score = cross_val_predict(model, image, made, groups=group, cv=GroupKFold(5), method="decision_function")
    assert result.auc == pytest.approx(roc_auc_score(made, score), abs=0.03)
    assert found.kind == "whole"
    assert any("norm" in note for note in found.notes)
