"""The probe and the neighbourhoods against scikit-learn and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from torch.nn.functional import normalize

from bias_train.erasure.neighbourhood import neighbourhood
from bias_train.erasure.probe import separability, transferred
from bias_train.linear_probe import fit_probe


def test_the_discriminant_is_scikit_learns_without_shrinkage() -> None:
    rng = np.random.default_rng(1)
    x, generated = rng.standard_normal((5000, 4)) @ rng.standard_normal((4, 4)), rng.random(5000) < 0.4
    x[generated] += 0.3
    own = fit_probe(x, generated)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(x, generated).coef_[0]
    assert own @ theirs / np.linalg.norm(own) / np.linalg.norm(theirs) > 0.9999


def test_the_area_is_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(2)
    generated = rng.random(400) < 0.3
    x = torch.from_numpy(rng.integers(0, 4, (400, 1)) + generated[:, None].astype(float))
    found = transferred((x, generated), (x, generated))
    assert found.auc == pytest.approx(roc_auc_score(generated, x[:, 0].numpy()), abs=1e-12)
    assert (found.real, found.generated) == ((~generated).sum(), generated.sum())


def test_intervals_cover_and_nothing_is_found_where_nothing_is() -> None:
    rng = np.random.default_rng(3)
    covered, areas = [], []
    for _ in range(100):
        x, generated = torch.from_numpy(rng.standard_normal((200, 5))), rng.random(200) < 0.5
        found = transferred((x[:100], generated[:100]), (x[100:], generated[100:]))
        covered.append(found.low <= 0.5 <= found.high)
        areas.append(separability(x, generated, np.full(200, -1)).auc)
    assert np.mean(covered) > 0.88
    assert np.mean(areas) == pytest.approx(0.5, abs=0.02)
    x, generated = torch.from_numpy(rng.standard_normal((400, 5))), np.arange(400) % 2 == 0
    x[torch.from_numpy(generated), 2] += 1.0
    # Two unit Gaussians one apart: Phi(1 / sqrt(2)).
    found = separability(x, generated, np.full(400, -1))
    assert found.low < 0.7602 < found.high


def test_kin_do_not_help_the_probe() -> None:
    """Groups of near copies, each of one source at random: only a probe that has seen the kin could know."""
    rng = np.random.default_rng(4)
    centre, kind = rng.standard_normal((60, 40)), rng.random(60) < 0.5
    group = np.repeat(np.arange(60), 8)
    x = torch.from_numpy(centre[group] + 0.01 * rng.standard_normal((480, 40)))
    split, mixed = (separability(x, kind[group], g) for g in (group, np.full(480, -1)))
    assert split.auc < 0.65
    assert mixed.auc > 0.85


def test_one_source_has_no_area() -> None:
    found = separability(torch.randn(10, 3), np.ones(10, dtype=bool), np.full(10, -1))
    assert np.isnan(found.auc)


def test_neighbourhoods_by_loops() -> None:
    rng = np.random.default_rng(5)
    x = normalize(torch.from_numpy(rng.standard_normal((40, 6))), dim=1)
    target = rng.integers(-1, 9, 40)
    target[:2] = 20, 21  # alone
    same, other, hits, asked = [], [], 0, 0
    known = [i for i in range(40) if target[i] >= 0]
    for i in known:
        rest = [j for j in known if j != i]
        for j in rest:
            (same if target[i] == target[j] else other).append(float(x[i] @ x[j]))
        if any(target[j] == target[i] for j in rest):
            asked += 1
            hits += target[max(rest, key=lambda j: float(x[i] @ x[j]))] == target[i]
    found = neighbourhood(x, target)
    assert found is not None
    assert found.same == pytest.approx(np.mean(same))
    assert found.other == pytest.approx(np.mean(other))
    assert found.gap == pytest.approx(np.mean(same) - np.mean(other))
    assert found.nearest == pytest.approx(hits / asked)
    assert neighbourhood(x, np.arange(40)) is None
    assert neighbourhood(x, np.full(40, -1)) is None
