from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.gallery import gallery


@given(st.integers(10, 200), st.integers(10, 200), st.integers(0, 20), st.integers(1, 5))
def test_a_gallery_has_its_share_and_is_the_largest(real: int, made: int, twentieths: int, targets: int) -> None:
    ratio = twentieths / 20
    source = np.repeat([0, 1], [real, made])
    chosen = gallery(source, np.arange(real + made) % targets, ratio)
    counts = np.bincount(source[chosen], minlength=2)
    assert abs(counts[1] - ratio * len(chosen)) < 1
    full = (counts[0] == real or ratio == 1) or (counts[1] == made or ratio == 0)
    assert full
    assert len(set(chosen.tolist())) == len(chosen)


def test_galleries_are_nested_and_spread_over_targets() -> None:
    source, target = np.repeat([0, 1], 100), np.tile(np.arange(10), 20)
    few, many = (gallery(source, target, ratio) for ratio in (0.2, 0.4))
    made = [set(rows[source[rows] == 1].tolist()) for rows in (few, many)]
    assert made[0] < made[1]
    counts = np.bincount(target[sorted(made[0])], minlength=10)
    assert counts.max() - counts.min() <= 1


def test_one_generator_alone() -> None:
    source = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    assert set(source[gallery(source, np.arange(8), 0.5, generator=2)].tolist()) == {0, 2}


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_wrong_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        gallery(np.array([0, 1]), np.array([0, 0]), ratio)


def test_a_missing_source_is_named() -> None:
    with pytest.raises(DataError, match="do not hold"):
        gallery(np.array([0, 0]), np.array([0, 1]), 0.5)
