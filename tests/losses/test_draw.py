"""The draw of pairs: its counts, its distribution, and that it depends on (seed, step, row) and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from losses.draw import DRAWS, Draw, draw_pairs, uniform_rows


def splitmix64(state: int) -> int:
    """The generator's published C code, in Python integers."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (7, 123), (-1, 5), (2**63 + 9, 1)])
def test_numbers_are_a_splitmix_hash(seed: int, step: int) -> None:
    key = splitmix64(splitmix64(seed % 2**64) ^ step)
    expected = [(splitmix64(splitmix64(row) ^ key) >> 11) / 2**53 for row in range(20)]
    assert uniform_rows(20, seed=seed, step=step).tolist() == expected


def test_numbers_are_uniform_and_unrelated_between_steps_and_seeds() -> None:
    first = uniform_rows(20_000, seed=1, step=1)
    assert stats.kstest(first.numpy(), "uniform").pvalue > 1e-3
    for seed, step in ((1, 2), (2, 1), (2, 2)):
        other = uniform_rows(20_000, seed=seed, step=step)
        correlation = torch.corrcoef(torch.stack([first, other]))[0, 1]
        assert abs(float(correlation)) < 4 / math.sqrt(20_000)
    by_step = torch.stack([uniform_rows(1, seed=3, step=step)[0] for step in range(2_000)])
    assert stats.kstest(by_step.numpy(), "uniform").pvalue > 1e-3


def test_a_row_does_not_depend_on_the_batch_size() -> None:
    assert torch.equal(uniform_rows(5, seed=3, step=9), uniform_rows(64, seed=3, step=9)[:5])


@pytest.mark.parametrize("pairs", [0, 1, 9, 100, 149])
def test_fixed_draws_exactly_the_floor(pairs: int) -> None:
    """Of the decimal share that was written: 0.29 of 100 pairs are 29, though 0.29 * 100 is a little less in binary."""
    paired = torch.arange(150) < pairs
    for percent in range(101):
        drawn = draw_pairs(paired, percent / 100, "fixed", seed=0, step=0)
        assert int(drawn.sum()) == percent * pairs // 100
        assert not (drawn & ~paired).any()


def test_bernoulli_draws_p_on_average() -> None:
    paired = torch.arange(50_000) % 2 == 0
    drawn = draw_pairs(paired, 0.3, "bernoulli", seed=5, step=6)
    assert not (drawn & ~paired).any()
    assert stats.binomtest(int(drawn.sum()), 25_000, 0.3).pvalue > 1e-3


def test_fixed_draws_every_pair_alike() -> None:
    paired = torch.tensor([True, False, True, True, False, True])
    counts = sum(draw_pairs(paired, 0.5, "fixed", seed=0, step=step).long() for step in range(2_000))
    assert stats.chisquare(counts[paired].numpy()).pvalue > 1e-3
    assert int(counts.sum()) == 4_000


@pytest.mark.parametrize("draw", DRAWS)
def test_all_or_none(draw: Draw) -> None:
    paired = torch.arange(40) % 3 == 0
    assert not draw_pairs(paired, 0.0, draw, seed=1, step=1).any()
    assert torch.equal(draw_pairs(paired, 1.0, draw, seed=1, step=1), paired)
