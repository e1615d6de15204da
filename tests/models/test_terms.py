from __future__ import annotations

import pytest

from losses import InfoNCE
from models import LossTerm, ModelError, WeightSchedule


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (5, 2.0), (10, 3.0), (11, 3.0)])
def test_schedule_is_linear_and_then_stays(step: int, expected: float) -> None:
    term = LossTerm(InfoNCE(), WeightSchedule(start=1.0, end=3.0, warmup_steps=10))
    assert term.weight_at(step) == pytest.approx(expected)


def test_schedule_without_warmup_is_its_end() -> None:
    assert WeightSchedule(start=0.0, end=0.5, warmup_steps=0).at(0) == 0.5


def test_plain_number_is_constant() -> None:
    assert [LossTerm(InfoNCE(), 0.3).weight_at(step) for step in (0, 1000)] == [0.3, 0.3]


def test_negative_warmup_is_refused() -> None:
    with pytest.raises(ModelError, match="warmup_steps is -1"):
        WeightSchedule(0.0, 1.0, -1)
