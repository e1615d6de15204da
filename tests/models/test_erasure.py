"""Erasers on Gaussians whose source direction is known, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from models import ModelError
from models.erasure import (
    Displacements,
    LinearEraser,
    displacements,
    fit_correction,
    fit_leace,
    fit_projection,
)

WIDTH = 12


def gaussians(count: int, seed: int = 0, shift: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors [2n, D] with correlated coordinates, real ones first; their source; the direction of the shift."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / 3
    x = torch.randn(2 * count, WIDTH, generator=generator, dtype=torch.float64) @ mixing + 1.0
    direction = normalize(torch.arange(1.0, WIDTH + 1, dtype=torch.float64) - 5, dim=0)
    source = torch.arange(2 * count) // count
    x[source == 1] += shift * direction
    return x, source, direction


def mean_difference(x: Tensor, source: Tensor) -> Tensor:
    return x[source > 0].mean(dim=0) - x[source == 0].mean(dim=0)


def pairs(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Photos and their twins, which lie elsewhere by a common vector and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    photo = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    offset = torch.linspace(-1, 1, WIDTH, dtype=torch.float64)
    twin = photo + offset + 0.1 * torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return torch.cat([photo, twin]), torch.arange(count).repeat(2), torch.arange(2 * count) // count


def test_the_projection_takes_the_mean_displacement_out_exactly() -> None:
    x, target, source = pairs(40)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    x, target, source = x[order], target[order], source[order]
    found = displacements(x, target, source, "pair")
    by_hand = torch.stack(
        [x[(target == t) & (source == 1)][0] - x[(target == t) & (source == 0)][0] for t in range(40)]
    )
    assert found.kind == "pair"
    torch.testing.assert_close(found.rows.sum(dim=0), by_hand.sum(dim=0))
    for rank in (1, 3):
        eraser = fit_projection(found, rank)
        erased = eraser.apply(x, renormalise=False)
        assert mean_difference(erased, source).norm() < 1e-12
        # An orthogonal projection of that rank.
        torch.testing.assert_close(eraser.matrix @ eraser.matrix, eraser.matrix)
        torch.testing.assert_close(eraser.matrix, eraser.matrix.T)
        assert torch.linalg.matrix_rank(eraser.matrix) == WIDTH - rank


def test_more_directions_are_those_that_displacements_vary_in_most() -> None:
    rows = torch.zeros(4, 5, dtype=torch.float64)
    rows[:, 0] = 1.0
    rows[:, 1] = torch.tensor([2.0, -2.0, 2.0, -2.0])
    rows[:, 2] = torch.tensor([1.0, 1.0, -1.0, -1.0])
    erased = [fit_projection(Displacements(rows, "pair"), rank).matrix.diagonal() for rank in (1, 2, 3)]
    assert [d.round(decimals=9).tolist() for d in erased] == [[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
    with pytest.raises(ModelError, match="rank is 4"):
        fit_projection(Displacements(rows, "pair"), 4)
    with pytest.raises(ModelError, match="cancel"):
        fit_projection(Displacements(torch.cat([rows, -rows]), "pair"))


def test_without_pairs_each_class_counts_alike() -> None:
    x = torch.tensor([[0, 0], [2, 0], [5, 0], [5, 1], [5, 2], [5, 3], [9, 9]], dtype=torch.float64)
    target = torch.tensor([0, 0, 1, 1, 1, 1, 2])
    source = torch.tensor([0, 1, 0, 2, 2, 1, 1])
    found = displacements(x, target, source, "label")
    # Source 1: class 0 (2, 0), class 1 (0, 3). Source 2: class 1 (0, 1.5). Class 2 has no photo.
    assert found.kind == "class"
    assert sorted(found.rows.tolist()) == [[0.0, 1.5], [0.0, 3.0], [2.0, 0.0]]
    apart = displacements(x, torch.tensor([0, 1, 0, 2, 2, 1, 1]), source, "label")
    assert apart.kind == "mean"
    torch.testing.assert_close(apart.rows[0], x[source == 1].mean(0) - x[source == 0].mean(0))
    with pytest.raises(ModelError, match="one source"):
        displacements(x, target, torch.zeros(7, dtype=torch.int64), "label")


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shrinkage", [False, True])
def test_leace_leaves_no_difference_of_means_where_it_was_fitted(affine: bool, shrinkage: bool) -> None:
    x, source, _ = gaussians(300)
    eraser = fit_leace(x, source, affine=affine, shrinkage=shrinkage)
    erased = eraser.apply(x, renormalise=False)
    assert mean_difference(x, source).norm() > 0.9
    assert mean_difference(erased, source).norm() < 1e-9
    assert torch.linalg.matrix_rank(torch.eye(WIDTH) - eraser.matrix.float(), atol=1e-5) == 1
    if affine:  # the mean stays where it was
        torch.testing.assert_close(erased.mean(dim=0), x.mean(dim=0))
    else:
        assert eraser.bias is None


def test_leace_is_the_closed_form_of_the_paper() -> None:
    x, source, _ = gaussians(300)
    centred = x - x.mean(dim=0)
    covariance = centred.T @ centred / (len(x) - 1)
    difference = mean_difference(x, source)
    # For two sources W u u^T W^-1 is the oblique projection along the difference, by its covariance's inverse.
    weights = torch.linalg.solve(covariance, difference)
    expected = torch.eye(WIDTH, dtype=torch.float64) - torch.outer(difference, weights) / (difference @ weights)
    torch.testing.assert_close(fit_leace(x, source, shrinkage=False).matrix, expected)


def test_leace_moves_less_than_the_projection() -> None:
    x, source, _ = gaussians(400)
    target = torch.zeros(len(x), dtype=torch.int64)
    leace = fit_leace(x, source, affine=True, shrinkage=False)
    projection = fit_projection(displacements(x, target, source, "label"))
    moved = [float((e.apply(x, renormalise=False) - x).square().mean()) for e in (leace, projection)]
    assert moved[0] < moved[1]


def test_a_label_for_each_generator_makes_all_means_equal() -> None:
    x, source, _ = gaussians(300)
    source[500:] = 2
    x[500:] += torch.linspace(1, 0, WIDTH, dtype=torch.float64)
    both = fit_leace(x, source).apply(x, renormalise=False)
    each = fit_leace(x, source, per_generator=True).apply(x, renormalise=False)
    apart = [float((part[source == 1].mean(0) - part[source == 2].mean(0)).norm()) for part in (both, each)]
    assert apart[0] > 0.1
    assert apart[1] < 1e-9
    assert fit_leace(x, source, per_generator=True).metadata["rank"] == 2


def test_rounds_take_out_what_renormalising_brings_back() -> None:
    x, source, _ = gaussians(400)
    x = normalize(x, dim=1)
    left = [float(mean_difference(fit_leace(x, source, rounds=r).apply(x), source).norm()) for r in (1, 2, 3)]
    assert left[0] > 2 * left[1] > 0
    assert left[2] <= left[1]
    # Still one linear map.
    assert fit_leace(x, source, rounds=3).bias is None
    with pytest.raises(ModelError, match="affine"):
        fit_leace(x, source, rounds=2, affine=True)


def test_leace_refuses_what_it_cannot_learn_from() -> None:
    x, source, _ = gaussians(50)
    for one in (torch.zeros_like(source), torch.ones_like(source)):
        with pytest.raises(ModelError, match="one source"):
            fit_leace(x, one)
    with pytest.raises(ModelError, match="nothing to erase"):
        fit_leace(torch.cat([x[:50], x[:50]]), source)


def test_the_correction_makes_mean_scores_equal_and_keeps_the_order_of_classes() -> None:
    generator = torch.Generator().manual_seed(3)
    text = normalize(torch.randn(4, WIDTH, generator=generator, dtype=torch.float64), dim=1)
    target = torch.arange(400) % 4
    source = (torch.arange(400) // 4) % 2
    # Generated pictures lie nearer to their own class's query, each class in a direction of its own.
    x = 0.3 * torch.randn(400, WIDTH, generator=generator, dtype=torch.float64) + 0.5 * text[target]
    x[:, 0] += source
    x = normalize(x + 0.4 * source[:, None] * text[target], dim=1)
    eraser = fit_correction(x, target, source, text, torch.arange(4))
    corrected = eraser.apply(x, renormalise=False)

    def gap(rows: Tensor) -> float:
        own = (rows * text[target]).sum(dim=1)
        return float(own[source == 1].mean() - own[source == 0].mean())

    assert gap(x) > 0.1
    assert abs(gap(corrected)) < 1e-9
    before, after = x @ text.T, corrected @ text.T
    # Every query's score of a picture moves by the same amount, so its order of classes stays; renormalised as well.
    torch.testing.assert_close((after - before).std(dim=1), torch.zeros(400, dtype=torch.float64), atol=1e-9, rtol=0)
    assert torch.equal((eraser.apply(x) @ text.T).argsort(dim=1), before.argsort(dim=1))
    # Pictures of neither kind are not moved on average.
    middle = (x[source == 0].mean(0) + x[source == 1].mean(0)) / 2
    torch.testing.assert_close(eraser.matrix @ middle, middle)
    with pytest.raises(ModelError, match="both sources"):
        fit_correction(x, target, source, text[:1], torch.tensor([7]))


def test_strength_is_a_share_of_the_way() -> None:
    x, source, _ = gaussians(100)
    for affine in (False, True):
        eraser = fit_leace(x, source, affine=affine)
        erased = eraser.apply(x, renormalise=False)
        for strength in (0.0, 0.3, 1.0, 1.7):
            expected = x - strength * (x - erased)
            torch.testing.assert_close(eraser.at(strength).apply(x, renormalise=False), expected)
        torch.testing.assert_close(eraser.at(0.3).at(1.0).matrix, eraser.matrix)
        unit = normalize(x, dim=1)
        torch.testing.assert_close(eraser.at(0.0).apply(unit), unit)
    with pytest.raises(ModelError, match="strength 0"):
        eraser.at(0.0).at(1.0)


def test_files_hold_a_linear_layer_and_its_history(tmp_path: Path) -> None:
    x, source, _ = gaussians(100)
    eraser = fit_leace(x, source, affine=True).at(0.5)
    path = tmp_path / "new" / "eraser.safetensors"
    eraser.save(path)
    again = LinearEraser.load(path)
    assert again.strength == 0.5
    assert again.metadata == eraser.metadata
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    layer = torch.nn.Linear(WIDTH, WIDTH)
    layer.load_state_dict(load_file(path))
    expected = eraser.apply(x, renormalise=False)
    torch.testing.assert_close(layer(x.float()).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.apply(x, renormalise=False), expected, rtol=1e-5, atol=1e-5)


def test_files_that_hold_something_else_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such eraser"):
        LinearEraser.load(tmp_path / "absent.safetensors")
    text, other = tmp_path / "text.safetensors", tmp_path / "other.safetensors"
    text.write_text("no tensors")
    save_file({"weight": torch.eye(2)}, other)
    with pytest.raises(ModelError, match="cannot be read"):
        LinearEraser.load(text)
    with pytest.raises(ModelError, match="holds no eraser"):
        LinearEraser.load(other)


def test_vectors_that_cannot_be_erased_are_named() -> None:
    eraser = LinearEraser(torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64)))
    with pytest.raises(ModelError, match="2 wide"):
        eraser.apply(torch.ones(1, 3))
    with pytest.raises(ModelError, match="row 1"):
        eraser.apply(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    assert eraser.apply(torch.zeros(0, 2)).shape == (0, 2)
    half = eraser.apply(torch.tensor([[0.6, 0.8]], dtype=torch.float16))
    assert half.dtype == torch.float16
    assert np.allclose(half.numpy(), [[0, 1]])
    with pytest.raises(ModelError, match=r"\[D, D\]"):
        LinearEraser(torch.ones(2, 3))
    with pytest.raises(ModelError, match="strength"):
        eraser.at(-1.0)
