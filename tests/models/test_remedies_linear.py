"""Remedies that are linear or weigh one subspace, against closed forms, other solvers and other packages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_people import WIDTH, calibration, directions, group_means, pictures, queries
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import normalize

from models import ModelError
from models.erasure import LinearEraser
from models.remedies import (
    AttributeSubspace,
    FittedLinear,
    IterativeNullSpace,
    Leace,
    LeastChange,
    OrthogonalCalibration,
    OrthogonalProjection,
    Remedy,
)
from models.remedies.classifier import fit_softmax, out_of_fold
from models.remedies.subspace import kept_part


def matrix_of(fitted: object, side: str = "text") -> Tensor:
    assert isinstance(fitted, FittedLinear)
    one = fitted.text_map if side == "text" else fitted.image_map
    assert one is not None
    return one.matrix


@pytest.mark.parametrize("side", ["text", "image", "both"])
def test_the_projection_is_the_papers_formula(side: str) -> None:
    data = calibration()
    prompts = data.group_prompts.double()
    fitted = OrthogonalProjection(side).fit(data)  # type: ignore[arg-type]
    v = prompts.T
    by_hand = torch.eye(WIDTH, dtype=torch.float64) - v @ torch.linalg.inv(v.T @ v) @ v.T
    x = queries(5, 3, 9)
    expected = normalize(x.double() @ by_hand.T, dim=1).float()
    for name, mapped in (("text", fitted.text(x)), ("image", fitted.image(x))):
        torch.testing.assert_close(mapped, expected if side in (name, "both") else x, rtol=0, atol=1e-6)
    assert fitted.text(prompts.float()[:0]).shape == (0, WIDTH)
    assert (fitted.linear() is not None) == (side == "image")
    matrix = matrix_of(fitted, "image" if side == "image" else "text")
    torch.testing.assert_close(matrix @ matrix, matrix)
    assert (matrix @ v).abs().max() < 1e-9


def test_prompts_that_repeat_themselves_are_no_trouble() -> None:
    data = calibration()
    double = replace(data, group_prompts=data.group_prompts.repeat(2, 1), prompt_group=data.prompt_group.repeat(2))
    torch.testing.assert_close(
        matrix_of(OrthogonalProjection().fit(double)), matrix_of(OrthogonalProjection().fit(data)), rtol=0, atol=1e-6
    )


def test_the_calibration_is_the_papers_formula_pair_by_pair() -> None:
    data = calibration()
    assert data.composed is not None
    products = [
        torch.outer(row[i] - row[j], row[i] - row[j])
        for row in data.composed.double()
        for i in range(3)
        for j in range(i + 1, 3)
    ]
    between = torch.stack(products).mean(dim=0)
    eye = torch.eye(WIDTH, dtype=torch.float64)
    for strength in (0.0, 10.0, 1000.0):
        expected = matrix_of(OrthogonalProjection().fit(data)) @ torch.linalg.inv(eye + strength * between)
        found = matrix_of(OrthogonalCalibration(strength).fit(data))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    # What differs between the groups of a word shrinks.
    fitted = OrthogonalCalibration(1000.0).fit(data)
    spread = [fitted.text(row).std(dim=0).norm() for row in data.composed]
    plain = [OrthogonalProjection().fit(data).text(row).std(dim=0).norm() for row in data.composed]
    assert sum(spread) < sum(plain)


def test_the_kept_part_is_where_both_shares_are_equal() -> None:
    for n_par in (0.05, 0.3, 0.7, 0.95):
        n_perp = float(np.sqrt(1 - n_par**2))

        def worse(a: float, n_par: float = n_par, n_perp: float = n_perp) -> float:
            kept = a / n_par
            lost = (1 - n_perp * np.sqrt(1 - a**2) - n_par * a) / (1 - n_perp)
            return float(max(kept, lost))

        best = minimize_scalar(worse, bounds=(0, n_par), method="bounded", options={"xatol": 1e-12})
        found = kept_part(torch.tensor(n_par, dtype=torch.float64), torch.tensor(n_perp, dtype=torch.float64))
        assert float(found) == pytest.approx(best.x, abs=1e-7)


@pytest.mark.parametrize("prototypes", ["prompts", "pictures"])
def test_the_subspace_is_weakened_and_all_else_kept(prototypes: str) -> None:
    data = calibration()
    prototype = data.means()
    if prototypes == "prompts":
        prototype = normalize(group_means(data.group_prompts, data.prompt_group), dim=1)
    between, _ = torch.linalg.qr((prototype[1:] - prototype[:1]).T)
    x = torch.cat([data.words, data.image])
    fitted = AttributeSubspace(prototypes).fit(data)  # type: ignore[arg-type]
    for mapped in (fitted.text(x), fitted.image(x)):
        torch.testing.assert_close(mapped.norm(dim=1), torch.ones(len(x)))
        before, after = (rows.double() @ between for rows in (x, mapped))
        assert (after.norm(dim=1) < before.norm(dim=1)).all()
        torch.testing.assert_close(normalize(after, dim=1), normalize(before, dim=1), rtol=0, atol=1e-4)
        outside = [rows.double() - rows.double() @ between @ between.T for rows in (x, mapped)]
        torch.testing.assert_close(normalize(outside[1], dim=1), normalize(outside[0], dim=1), rtol=0, atol=1e-5)
    full = AttributeSubspace(prototypes, full=True).fit(data)  # type: ignore[arg-type]
    assert (full.text(x).double() @ between).abs().max() < 1e-6
    scores = full.text(data.words) @ full.image(prototype.float()).T
    assert (scores.std(dim=1) < (data.words @ prototype.float().T).std(dim=1)).all()


def test_a_vector_without_one_of_the_parts_stays_as_it_is() -> None:
    data = calibration(groups=2)
    line = normalize(group_means(data.group_prompts, data.prompt_group), dim=1)
    line = normalize(line[1] - line[0], dim=0)
    other = torch.randn(WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = normalize(other - (other @ line) * line, dim=0)
    x = torch.stack([line, other])
    fitted = AttributeSubspace().fit(data)
    torch.testing.assert_close(fitted.text(x), x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("groups", [2, 4])
def test_least_change_equalises_and_changes_ordinary_scores_least(groups: int) -> None:
    data = calibration(groups)
    means = data.means()
    matrix = matrix_of(LeastChange(ridge=0.1).fit(data))
    x = queries(20, groups, 5).double()
    moved = x @ matrix.T
    assert (moved @ means.T).std(dim=1).max() < 1e-12
    # Lagrange's conditions, solved at once for one query, with the covariance by numpy.
    covariance = torch.from_numpy(np.cov(data.pair_image.double().numpy(), rowvar=False, bias=True))
    covariance += 0.1 * covariance.diagonal().mean() * torch.eye(WIDTH, dtype=torch.float64)
    a = (means[1:] - means[0]).T
    rank = a.shape[1]
    system = torch.zeros(WIDTH + rank, WIDTH + rank, dtype=torch.float64)
    system[:WIDTH, :WIDTH], system[:WIDTH, WIDTH:], system[WIDTH:, :WIDTH] = 2 * covariance, a, a.T
    right = torch.cat([torch.zeros(20, WIDTH, dtype=torch.float64), -x @ a], dim=1)
    change = torch.linalg.solve(system, right.T).T[:, :WIDTH]
    torch.testing.assert_close(moved - x, change, rtol=0, atol=1e-9)
    # A large ridge is the orthogonal projection off the differences.
    q, _ = torch.linalg.qr(a)
    wide = matrix_of(LeastChange(ridge=1e9).fit(data))
    torch.testing.assert_close(wide, torch.eye(WIDTH, dtype=torch.float64) - q @ q.T, rtol=0, atol=1e-6)


def test_leace_is_the_packages() -> None:
    from concept_erasure import LeaceEraser

    data = calibration()
    z = torch.nn.functional.one_hot(data.group).double()
    theirs = LeaceEraser.fit(data.image.double(), z, affine=False)
    fitted = Leace(rounds=1).fit(data)
    linear = fitted.linear()
    assert linear is not None
    torch.testing.assert_close(linear.matrix, theirs.P, rtol=0, atol=1e-7)
    erased = linear.apply(data.image.double(), renormalise=False)
    assert group_means(erased, data.group).std(dim=0).max() < 1e-9
    assert fitted.text(data.words) is data.words
    affine = Leace(rounds=1, affine=True).fit(data)
    linear = affine.linear()
    assert linear is not None
    kept = linear.apply(data.image.double(), renormalise=False)
    torch.testing.assert_close(kept.mean(dim=0), data.image.double().mean(dim=0))


def test_the_classifier_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    image, group = pictures(3, 40)
    unequal = torch.cat([torch.arange(100), torch.arange(100, 120)[group[100:120] > 0]])
    image, group = image[unequal], group[unequal]
    penalty = 1e-3
    # scikit-learn sums over pictures where ours is a mean over groups: the same after scaling.
    theirs = LogisticRegression(C=1 / (penalty * len(group)), class_weight="balanced", tol=1e-10, max_iter=5000)
    theirs.fit(image.double().numpy(), group.numpy())
    ours = fit_softmax(image, group, 3, penalty).probabilities(image)
    np.testing.assert_allclose(ours.numpy(), theirs.predict_proba(image.double().numpy()), atol=1e-4)


def test_out_of_fold_does_not_know_what_it_judges() -> None:
    image, _ = pictures(2, 60, apart=0.0)
    group = torch.arange(120) % 2  # nothing to learn
    inside = fit_softmax(image, group, 2, 1e-6).probabilities(image)
    outside = out_of_fold(image, group, 2, seed=3)
    torch.testing.assert_close(outside.sum(dim=1), torch.ones(120, dtype=torch.float64))
    right = [(p.argmax(dim=1) == group).double().mean() for p in (inside, outside)]
    assert right[0] > 0.6 > right[1]
    assert torch.equal(outside, out_of_fold(image, group, 2, seed=3))


@pytest.mark.parametrize("groups", [2, 3])
def test_the_null_space_leaves_no_linear_classifier_anything(groups: int) -> None:
    from sklearn.linear_model import LogisticRegression

    data = calibration(groups, each=300)
    image, group = pictures(groups, 300, seed=7)
    plain = IterativeNullSpace(rounds=3, reinject=False).fit(data)
    matrix = matrix_of(plain)
    assert int(torch.linalg.matrix_rank(matrix)) == WIDTH - 3 * (groups - 1)
    torch.testing.assert_close(matrix @ matrix, matrix)

    def accuracy(train: Tensor, test: Tensor) -> float:
        probe = LogisticRegression(max_iter=2000, C=100).fit(train.numpy(), data.group.numpy())
        return float(probe.score(test.numpy(), group.numpy()))

    assert accuracy(data.image, image) > 0.8
    assert accuracy(plain.image(data.image), plain.image(image)) < 1 / groups + 0.1


def test_the_null_space_puts_the_mean_of_undecided_pictures_back() -> None:
    data = calibration(2, each=100)
    fitted = IterativeNullSpace(rounds=2, confidence=0.8).fit(data)
    assert isinstance(fitted, FittedLinear)
    assert fitted.image_map is not None
    assert fitted.image_map.bias is not None
    removed = torch.eye(WIDTH, dtype=torch.float64) - fitted.image_map.matrix
    mapped = fitted.image_map.apply(data.image.double(), renormalise=False)
    inside = mapped @ removed
    torch.testing.assert_close(inside, inside[:1].expand_as(inside), rtol=0, atol=1e-12)
    sure = out_of_fold(data.image, data.group, 2, seed=data.seed).amax(dim=1)
    expected = data.image[sure < 0.8].double().mean(dim=0) @ removed
    torch.testing.assert_close(inside[0], expected, rtol=0, atol=1e-12)
    assert fitted.text_map is not None
    words = fitted.text_map.apply(data.words.double(), renormalise=False) @ removed
    torch.testing.assert_close(words[0], data.words.double().mean(dim=0) @ removed, rtol=0, atol=1e-12)
    with pytest.raises(ModelError, match="raise confidence"):
        IterativeNullSpace(confidence=0.01).fit(data)


def without(**changes: object) -> object:
    return replace(calibration(), **changes)  # type: ignore[arg-type]


NOTHING = torch.empty(0, WIDTH)


@pytest.mark.parametrize(
    ("remedy", "changes", "words"),
    [
        (OrthogonalProjection(), {"group_prompts": NOTHING}, "fitted to group_prompts"),
        (OrthogonalCalibration(), {"composed": None}, "fitted to composed"),
        (LeastChange(), {"pair_image": NOTHING}, "fitted to pairs"),
        (IterativeNullSpace(), {"words": NOTHING}, "fitted to words"),
        (Leace(), {"labels": ("a", "b", "c", "d")}, "group 'd' has no picture"),
        (LeastChange(), {"labels": ("a", "b", "c", "d")}, "group 'd' has no picture"),
        (AttributeSubspace(), {"prompt_group": torch.zeros(9, dtype=torch.int64)}, "group 'b' has no prompt"),
        (AttributeSubspace(), {"group_prompts": torch.ones(9, WIDTH) / WIDTH**0.5}, "all groups have one prototype"),
        (LeastChange(), {"image": torch.ones(180, WIDTH) / WIDTH**0.5}, "one mean picture"),
        (IterativeNullSpace(rounds=12), {}, "take 11 rounds or fewer"),
        (OrthogonalProjection(), {"group_prompts": torch.eye(WIDTH)}, "span all 24 dimensions"),
    ],
)
def test_what_cannot_be_fitted_is_named(remedy: Remedy, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        remedy.fit(without(**changes))  # type: ignore[arg-type]


def test_options_out_of_range_are_named() -> None:
    for make, words in (
        (lambda: OrthogonalProjection("query"), "side is 'query'"),  # type: ignore[arg-type]
        (lambda: OrthogonalCalibration(-1.0), "strength is -1"),
        (lambda: AttributeSubspace("words"), "prototypes is 'words'"),  # type: ignore[arg-type]
        (lambda: LeastChange(0.0), "ridge is 0"),
        (lambda: IterativeNullSpace(0), "rounds is 0"),
        (lambda: IterativeNullSpace(confidence=0.0), "confidence is 0"),
        (lambda: Leace(2, affine=True), "one alone where it is affine"),
    ):
        with pytest.raises(ModelError, match=words):
            make()


def test_a_group_direction_is_gone_from_what_is_planted() -> None:
    # The planted directions are known: every remedy of pictures leaves new pictures closer together.
    data = calibration(3, each=200)
    image, group = pictures(3, 200, seed=8)
    plain = group_means(image, group)
    for remedy in (AttributeSubspace("pictures", full=True), Leace(), IterativeNullSpace(3, side="image")):
        mapped = group_means(remedy.fit(data).image(image), group)
        assert (mapped @ directions(3).T).std(dim=0).max() < 0.3 * (plain @ directions(3).T).std(dim=0).max()


def test_half_precision_comes_back_as_it_came() -> None:
    data = calibration()
    for remedy in (OrthogonalProjection("both"), AttributeSubspace()):
        fitted = remedy.fit(data)
        mapped = fitted.text(data.words.half())
        assert mapped.dtype == torch.float16
        torch.testing.assert_close(mapped.float(), fitted.text(data.words), rtol=0, atol=2e-3)
    assert isinstance(OrthogonalProjection("image").fit(data).linear(), LinearEraser)
