"""Clustered bootstrap against scipy, against resamples written out, and on data with known spread."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bias_train.stats import (
    Bootstrap,
    bootstrap_median,
    cluster_totals,
    clustered_bootstrap,
    interval,
    paired_difference,
    resample_counts,
)


def ratio(totals: np.ndarray) -> np.ndarray:
    return totals[..., :1] / totals[..., 1:2]


@pytest.mark.parametrize(("method", "scipy_name"), [("percentile", "percentile"), ("bca", "BCa")])
def test_intervals_against_scipy(method: str, scipy_name: str) -> None:
    rng = np.random.default_rng(0)
    top, bottom = rng.exponential(size=60), rng.uniform(0.5, 2.0, size=60)
    found = clustered_bootstrap(np.column_stack([top, bottom]), ratio, Bootstrap(40_000, method=method))
    reference = scipy_stats.bootstrap(
        (top, bottom),
        lambda a, b, axis=-1: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True, vectorized=True, n_resamples=40_000, method=scipy_name, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    width = reference.high - reference.low
    assert found.low[0] == pytest.approx(reference.low, abs=0.03 * width)
    assert found.high[0] == pytest.approx(reference.high, abs=0.03 * width)
    assert found.value[0] == pytest.approx(top.sum() / bottom.sum())


def test_resamples_equal_data_written_out() -> None:
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(20), rng.integers(1, 6, size=20))
    values = rng.normal(size=(len(cluster), 1))
    totals = cluster_totals(np.column_stack([values, np.ones(len(cluster))]), cluster)
    bootstrap = Bootstrap(100, level=0.9, seed=5)
    means = []
    for counts in np.concatenate(list(resample_counts(20, bootstrap))):
        means.append(np.concatenate([np.tile(values[cluster == c, 0], n) for c, n in enumerate(counts)]).mean())
    found = clustered_bootstrap(totals, ratio, bootstrap)
    assert (found.low[0], found.high[0]) == pytest.approx(
        tuple(np.quantile(means, (0.05, 0.95), method="inverted_cdf"))
    )


def test_counts_are_multinomial_and_seeded() -> None:
    bootstrap = Bootstrap(4000, seed=1)
    counts = np.concatenate(list(resample_counts(30, bootstrap)))
    assert counts.shape == (4000, 30)
    assert (counts.sum(axis=1) == 30).all()
    # Multinomial moments: mean 1, variance 1 - 1/n, covariance -1/n.
    assert counts.mean(axis=0) == pytest.approx(np.ones(30), abs=0.08)
    assert counts.var(axis=0).mean() == pytest.approx(1 - 1 / 30, abs=0.02)
    assert np.cov(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-1 / 30, abs=0.04)
    assert (counts == np.concatenate(list(resample_counts(30, bootstrap)))).all()
    assert (counts != np.concatenate(list(resample_counts(30, Bootstrap(4000, seed=2))))).any()


def test_blocks_continue_one_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(resample_counts(7, Bootstrap(50)))
    monkeypatch.setattr("bias_train.stats._BLOCK", 20)
    pieces = list(resample_counts(7, Bootstrap(50)))
    assert len(whole) == 1
    assert len(pieces) == 25
    assert (np.concatenate(pieces) == whole[0]).all()


def test_strata_keep_their_size() -> None:
    strata = np.array([3, 1, 1, 3, 3, 8])
    counts = np.concatenate(list(resample_counts(6, Bootstrap(500), strata)))
    for stratum, size in ((1, 2), (3, 3), (8, 1)):
        assert (counts[:, strata == stratum].sum(axis=1) == size).all()
    assert counts[:, 0].max() == 3


def test_clusters_are_wider_than_independent_rows() -> None:
    """Five identical rows per cluster hold the information of one: the honest interval is sqrt(5) wider."""
    rng = np.random.default_rng(2)
    values = np.repeat(rng.normal(size=400), 5)
    cluster = np.repeat(np.arange(400), 5)
    columns = np.column_stack([values, np.ones(2000)])
    honest = clustered_bootstrap(cluster_totals(columns, cluster), ratio, Bootstrap(4000))
    naive = clustered_bootstrap(columns, ratio, Bootstrap(1000))
    wider = (honest.high - honest.low) / (naive.high - naive.low)
    assert wider[0] == pytest.approx(np.sqrt(5), rel=0.1)
    # Width of a mean's interval, closed form.
    assert (honest.high - honest.low)[0] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


def test_paired_difference_sees_the_same_resamples() -> None:
    rng = np.random.default_rng(3)
    hard = rng.normal(size=200)
    first = np.column_stack([hard + 0.5, np.ones(200)])
    second = np.column_stack([hard, np.ones(200)])
    found = paired_difference(first, second, ratio, Bootstrap(300))
    assert (found.low[0], found.high[0]) == pytest.approx((0.5, 0.5))
    with pytest.raises(ValueError, match="same clusters"):
        paired_difference(first, second[:5], ratio, Bootstrap(300))


def test_undefined_and_infinite_draws() -> None:
    draws = np.array([[np.nan, 1.0], [1.0, np.inf], [2.0, np.inf], [3.0, np.inf]])
    found = interval(np.array([2.0, np.inf]), draws, Bootstrap(4, level=0.5))
    assert found.undefined.tolist() == [0.25, 0.0]
    assert (found.low[0], found.high[0]) == (1.0, 3.0)
    assert (found.low[1], found.high[1]) == (1.0, np.inf)
    undefined = interval(np.array([np.nan]), draws[:, :1], Bootstrap(4))
    assert np.isnan([undefined.low[0], undefined.high[0]]).all()


def test_bca_without_spread_falls_back_to_percentiles() -> None:
    totals = np.tile([1.0, 2.0], (5, 1))
    found = clustered_bootstrap(totals, ratio, Bootstrap(50, method="bca"))
    assert (found.low[0], found.high[0]) == (0.5, 0.5)
    alone = clustered_bootstrap(totals[:1], ratio, Bootstrap(50))
    assert alone.value[0] == 0.5
    assert np.isnan(alone.low[0])


def test_median_against_resamples_written_out() -> None:
    rng = np.random.default_rng(4)
    cluster = np.repeat(np.arange(15), rng.integers(1, 5, size=15))
    values = rng.integers(0, 9, size=len(cluster)).astype(float)
    bootstrap = Bootstrap(80, level=0.8)
    medians = [
        np.median(np.repeat(values, counts[cluster])) for counts in np.concatenate(list(resample_counts(15, bootstrap)))
    ]
    value, low, high = bootstrap_median(values, cluster, bootstrap)
    assert value == np.median(values)
    assert (low, high) == tuple(np.quantile(medians, (0.1, 0.9), method="inverted_cdf"))
    assert np.isnan(bootstrap_median(values[:0], cluster[:0], bootstrap)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"resamples": 1}, "resamples is 1"), ({"level": 95.0}, "level is 95"), ({"method": "t"}, "method is 't'")],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bootstrap(**options)
