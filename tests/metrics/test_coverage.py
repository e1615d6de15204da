"""Intervals cover the true bias of the model that the embeddings were drawn from, as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from known_bias import KnownClasses, KnownPairs
from scipy import stats

from bias_train.metrics.functional.source import source_bias
from bias_train.stats import Bootstrap

DRAWS = 300


def assert_covered(model: KnownPairs | KnownClasses, **options: object) -> None:
    truth = model.truth()
    rng = np.random.default_rng(1)
    covered = dict.fromkeys(truth, 0)
    values: dict[str, list[float]] = {key: [] for key in truth}
    for draw in range(DRAWS):
        figures = source_bias(**model.draw(rng), **options)
        for figure in figures:
            if figure.key in truth:
                covered[figure.key] += figure.low <= truth[figure.key] <= figure.high
                values[figure.key].append(figure.value)
        assert draw or set(truth) <= {f.key for f in figures}
    # A correct 95 % interval stays within these bounds in all but 1 of 1,000 sets of draws.
    low, high = stats.binom.ppf((0.0005, 0.9995), DRAWS, 0.95)
    for key, value in truth.items():
        assert low <= covered[key] <= high, (key, covered[key] / DRAWS)
        # And the figure itself aims at the truth: within four standard errors of the mean over draws.
        error = np.std(values[key]) / np.sqrt(DRAWS)
        assert abs(np.mean(values[key]) - value) < 4 * error, (key, np.mean(values[key]), value)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_pairs(method: str) -> None:
    assert_covered(KnownPairs(), ks=(1,), bootstrap=Bootstrap(1000, method=method))


def test_classes() -> None:
    assert_covered(KnownClasses(), ks=(), precision_ks=(20,), relevance="label", bootstrap=Bootstrap(500))


def test_truth_of_the_pairs_against_simulation() -> None:
    """The closed form is right: two million captions drawn from its definition."""
    model = KnownPairs()
    rng = np.random.default_rng(0)
    scene, own, other, caption = rng.normal(size=(4, 2_000_000))
    real = model.mean_real + model.scene * scene + model.own * own - model.caption * caption
    generated = model.mean_generated + model.scene * scene + model.own * other + model.caption * caption
    truth = model.truth()
    assert truth["pair_win_rate"] == pytest.approx(np.mean(generated > real), abs=0.002)
    assert truth["R_real@1"] == pytest.approx(np.mean((real > generated) & (real > model.bar)), abs=0.002)


def test_truth_of_the_classes_against_simulation() -> None:
    model = KnownClasses()
    rng = np.random.default_rng(0)
    others = (model.classes - 1) * (model.real + model.generated)
    kinds = np.repeat([0, 1, 2], [model.real, model.generated, others])
    means = np.array([model.mean_real, model.mean_generated, 0.0])[kinds]
    top = np.argsort(-(rng.normal(size=(4000, len(kinds))) + means), axis=1)[:, : model.k]
    truth = model.truth()
    assert truth["P_real@20"] == pytest.approx(np.mean(kinds[top] == 0), abs=0.004)
    assert truth["P_generated@20"] == pytest.approx(np.mean(kinds[top] == 1), abs=0.004)
