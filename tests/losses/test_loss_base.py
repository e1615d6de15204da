"""What the base promises: reductions over ranks, the order of a pair, and terms that are finite or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_features import random_features
from torch import Tensor

from losses import Features, InfoNCE, Loss, LossError, RankHinge, TwinConsistency


def test_parts_of_a_mean_and_a_sum_average_to_the_whole() -> None:
    features = random_features()
    values = torch.randn(12, dtype=torch.float64)
    mask = torch.tensor([True, True, True, False] + [False] * 4 + [True] + [False] * 3)
    parts = [replace(features, rows=slice(start, start + 4)) for start in (0, 4, 8)]
    means = torch.stack([part.mean_over(values[part.local], mask) for part in parts])
    torch.testing.assert_close(means.mean(), values[mask].mean())
    sums = torch.stack([part.sum_over(values[part.local], mask) for part in parts])
    torch.testing.assert_close(sums.mean(), values[mask].sum())
    assert features.mean_over(values, torch.zeros(12, dtype=torch.bool)) == 0


def test_a_pair_is_put_in_order() -> None:
    features = random_features(rows=4, source=torch.tensor([0, 0, 3, 3]), has_twin=torch.tensor([True, False] * 2))
    assert features.twin is not None
    real, generated, paired = features.sources_of_pairs()
    assert paired.tolist() == [True, False, True, False]
    assert torch.equal(real, torch.stack([features.image[0], features.image[1], features.twin[2], features.image[3]]))
    expected = torch.stack([features.twin[0], features.image[1], features.image[2], features.image[3]])
    assert torch.equal(generated, expected)


@pytest.mark.parametrize(
    ("loss", "name"), [(InfoNCE(), "image"), (InfoNCE(), "text"), (RankHinge(), "twin"), (TwinConsistency(), "twin")]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_input_is_named(loss: Loss, name: str, value: float) -> None:
    features = random_features()
    broken = getattr(features, name).clone()
    broken[[2, 6]] = value
    message = rf"{type(loss).__name__}, step 3: .*features\.{name} \(2 of 12 rows, first: 2\) came in NaN or infinite"
    with pytest.raises(LossError, match=message):
        loss(replace(features, **{name: broken}))


def test_a_broken_logit_scale_is_named() -> None:
    with pytest.raises(LossError, match=r"features\.logit_scale"):
        InfoNCE()(random_features(logit_scale=torch.tensor(float("nan"))))


def test_a_loss_of_ones_own_is_checked_too() -> None:
    class Overflow(Loss):
        def forward(self, features: Features) -> dict[str, Tensor]:
            return {"fine": features.image.sum(), "huge": torch.exp(features.image.sum() * 0 + 1e4)}

    with pytest.raises(LossError, match="Overflow, step 3: term 'huge' is NaN or infinite; its inputs are finite"):
        Overflow()(random_features())


def test_every_rank_refuses_a_row_of_one_rank() -> None:
    """Else the rank that holds the broken row stops, and the others wait for it until the collective times out."""
    features = random_features()
    image = features.image.clone()
    image[11] = float("nan")
    for start in (0, 4, 8):
        part = replace(features, image=image, rows=slice(start, start + 4))
        with pytest.raises(LossError, match=r"features\.image \(1 of 12 rows, first: 11\)"):
            RankHinge()(part)


def test_an_overflow_on_one_rank_is_left_to_the_average_over_ranks() -> None:
    class Overflow(Loss):
        def forward(self, features: Features) -> dict[str, Tensor]:
            return {"huge": features.image.sum() * float("inf")}

    assert not torch.isfinite(Overflow()(replace(random_features(), rows=slice(0, 6)))["huge"]).all()


def test_a_row_without_twin_may_hold_anything_finite() -> None:
    features = random_features()
    assert features.twin is not None
    assert features.has_twin is not None
    other = torch.where(features.has_twin.unsqueeze(1), features.twin, torch.full_like(features.twin, 9.0))
    for loss in (RankHinge(), TwinConsistency()):
        (value,), (expected,) = loss(replace(features, twin=other)).values(), loss(features).values()
        torch.testing.assert_close(value, expected)
