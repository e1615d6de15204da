"""RSA and RSC: by hand, against loops, and with pictures that lack a control."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bias_train.metrics.functional.text.relative_scores import quantile_draws, relative_scores
from bias_train.stats import Bootstrap, resample_counts, resampled_medians

TEXT = torch.tensor([[1.0, 0.0]])


def pictures(*scores: float) -> torch.Tensor:
    """Vectors whose score with the caption (1, 0) is given."""
    return torch.tensor([[score, 1.0] for score in scores], dtype=torch.float64)


def test_by_hand() -> None:
    """Four pictures: text carries .3, .15, .05 and -.1 of the score; other places .1, .05 and nothing."""
    found = {
        one.name: one
        for one in relative_scores(
            "RSA", pictures(0.4, 0.3, 0.2, 0.1), pictures(0.1, 0.15, 0.15, 0.2), pictures(0.3, 0.25, 0.2, 9.0),
            TEXT.double().repeat(4, 1), torch.arange(4), torch.arange(4),
            has_control=torch.tensor([True, True, True, False]), without_text=3,
        )
    }  # fmt: skip
    assert found["RSA_mean"].value == pytest.approx((0.3 + 0.15 + 0.05 - 0.1) / 4)
    assert found["RSA_above_0.1"].value == 0.5
    assert found["RSA_above_0.2"].value == 0.25
    assert found["RSA_q50"].value == pytest.approx(0.05)
    assert found["RSA_q95"].value == pytest.approx(0.3)
    assert found["RSA_control_mean"].value == pytest.approx((0.1 + 0.05 + 0.0) / 3)
    assert found["RSA_net_mean"].value == pytest.approx((0.2 + 0.1 + 0.05) / 3)
    assert (found["RSA_net_mean"].count, found["RSA_mean"].count) == (3, 4)
    assert "3 pictures without, 0 by definition, left out" in found["RSA_mean"].note
    # Raw less net is what removal as such does, over those that have both.
    assert found["RSA_net_above_0.1"].value == pytest.approx(1 / 3)  # 0.2, 0.1 (not above) and 0.05


def test_without_any_control() -> None:
    found = relative_scores("RSC", pictures(0.4, 0.3), pictures(0.1, 0.2), None, TEXT.double(), torch.tensor([1]),
                            torch.arange(2))  # fmt: skip
    assert {one.name.split("_")[1] for one in found} == {"mean", "q05", "q25", "q50", "q75", "q95", "above"}
    assert found[0].value == pytest.approx(0.1)  # one caption, of the second picture
    none = relative_scores("RSC", pictures(0.4), pictures(0.1), pictures(0.1), TEXT.double(), torch.tensor([0]),
                           torch.arange(1), has_control=torch.tensor([False]), bootstrap=Bootstrap(20))  # fmt: skip
    net = next(one for one in none if one.name == "RSC_net_q50")
    assert math.isnan(net.value)
    assert net.count == 0
    assert net.draws is None


def test_scores_are_those_of_the_captions_own_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    raw, erased, control = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    caption, of = torch.randn(9, 3, generator=generator, dtype=torch.float64), torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 1])
    found = {one.name: one.value for one in relative_scores("RSA", raw, erased, control, caption, of, torch.arange(5))}
    lost = [float((raw[i] - erased[i]) @ caption[c]) for c, i in enumerate(of)]
    net = [float((control[i] - erased[i]) @ caption[c]) for c, i in enumerate(of)]
    assert found["RSA_mean"] == pytest.approx(np.mean(lost))
    assert found["RSA_net_mean"] == pytest.approx(np.mean(net))
    assert found["RSA_net_q25"] == pytest.approx(sorted(net)[2])  # the third of nine: the first at 25 % or more
    assert found["RSA_above_0.2"] == pytest.approx(np.mean(np.array(lost) > 0.2))


@pytest.mark.parametrize("levels", [(0.0, 0.05, 0.25, 0.5, 0.95, 1.0), (0.1, 0.2, 0.3)])
def test_resampled_quantiles_are_quantiles_of_resamples(levels: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    values, cluster = rng.integers(0, 9, size=20).astype(float), rng.integers(0, 7, size=20) * 3
    bootstrap = Bootstrap(50, seed=4)
    found, draws = quantile_draws(values, cluster, levels, bootstrap)
    assert draws is not None
    np.testing.assert_array_equal(found, np.quantile(values, levels, method="inverted_cdf"))
    ids = np.unique(cluster)
    for draw, counts in zip(draws, np.concatenate(list(resample_counts(len(ids), bootstrap))), strict=True):
        weight = counts[np.searchsorted(ids, cluster)]
        np.testing.assert_array_equal(draw, np.quantile(np.repeat(values, weight), levels, method="inverted_cdf"))


def test_the_median_is_that_of_the_other_helper() -> None:
    """An odd number of values in one cluster each has one middle, by either definition."""
    values = np.random.default_rng(1).normal(size=21)
    _, draws = quantile_draws(values, np.arange(21), (0.5,), Bootstrap(100))
    np.testing.assert_array_equal(draws, resampled_medians(values[:, None], np.arange(21), Bootstrap(100)))


def test_one_cluster_has_no_interval() -> None:
    found, draws = quantile_draws(np.array([1.0, 2.0]), np.zeros(2, dtype=np.int64), (0.5,), Bootstrap(10))
    assert (found.tolist(), draws) == ([1.0], None)
    found, draws = quantile_draws(np.empty(0), np.empty(0, dtype=np.int64), (0.5,), Bootstrap(10))
    assert np.isnan(found).all()


def test_errors() -> None:
    with pytest.raises(ValueError, match="erased row 0 is not finite"):
        relative_scores(
            "RSA", pictures(0.1), pictures(math.inf), None, TEXT.double(), torch.tensor([0]), torch.arange(1)
        )
    with pytest.raises(ValueError, match="target has shape"):
        relative_scores("RSA", pictures(0.1), pictures(0.1), None, TEXT.double(), torch.tensor([0]), torch.arange(2))
