from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from explain_worlds import class_world, pair_world

from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.explain.outcome import change, measure_gallery
from bias_train.explain.reversal import cross_fitted_mean, matched, reverse
from bias_train.metrics.functional.source import source_bias
from bias_train.stats import Bootstrap

FEW = Bootstrap(resamples=210)


def figures(embeddings: Embeddings, relevance: str, k: int) -> dict[str, tuple[float, float, float]]:
    assert embeddings.text is not None
    found = source_bias(
        embeddings.text,
        embeddings.image,
        *(torch.from_numpy(ids) for ids in (embeddings.query_target, embeddings.image_target, embeddings.image_source)),
        ks=(k,),
        relevance=relevance,  # type: ignore[arg-type]
        bootstrap=FEW,
    )
    return {figure.key: (figure.value, figure.low, figure.high) for figure in found}


def test_outcomes_of_pairs_are_those_of_the_metric() -> None:
    embeddings, _ = pair_world(25, offset=np.array([0.3, -0.1]), generators=2, noise=0.3)
    rounded = torch.round(embeddings.image * 2) / 2  # many ties
    keep = np.array([key not in ("3-1", "3-2", "5-2", "9-0") for key in embeddings.image_key])
    embeddings = replace(embeddings, image=rounded, text=torch.round(embeddings.text * 2) / 2).pictures(keep)  # type: ignore[operator]
    expected = figures(embeddings, "pair", 1)
    for entry in measure_gallery(embeddings, embeddings.image, FEW).outcomes:
        assert (entry.value, entry.low, entry.high) == pytest.approx(expected[entry.name])


def test_outcomes_of_classes_are_the_metrics() -> None:
    embeddings = class_world()
    expected = figures(embeddings, "label", len(embeddings) // 10)
    found = measure_gallery(embeddings, embeddings.image, FEW).outcomes
    assert [entry.name for entry in found] == [f"relative_delta_R@{len(embeddings) // 10}", "win_rate"]
    for entry in found:
        assert (entry.value, entry.low, entry.high) == pytest.approx(expected[entry.name])


def test_no_change_has_no_interval_but_zero() -> None:
    embeddings, _ = pair_world(20, offset=0.2)
    gallery = measure_gallery(embeddings, embeddings.image, FEW)
    for entry in change(gallery, gallery, FEW):
        assert (entry.value, entry.low, entry.high) == (0.0, 0.0, 0.0)


def biased(strength: float) -> tuple[Embeddings, Embeddings]:
    """A world whose bias is a common vector, and a retriever that takes ``strength`` times that vector away."""
    embeddings, axis = pair_world(80, width=400, offset=0.5, noise=0.02)
    image = embeddings.image.clone()
    image[torch.from_numpy(embeddings.generated)] -= strength * 0.5 * torch.from_numpy(axis).float()
    order = np.random.default_rng(0).permutation(len(image))
    debiased = replace(embeddings, image=image).pictures(order)  # another order: pictures are matched by name
    return embeddings, replace(debiased, text=None)


def test_reversal_turns_the_bias_round_and_controls_do_not() -> None:
    found = reverse(*biased(2.0), FEW)
    assert found is not None
    arms = {arm.name: arm for arm in found.arms}
    delta = {name: arm.outcomes[0] for name, arm in arms.items()}
    assert delta["original"].high < -80
    assert delta["reversed"].low > 80  # photos now stand where generated pictures stood
    assert arms["reversed"].change[0].low > 160
    assert arms["photos"].change[0].value == 0.0  # photos were not changed by debiasing
    # Random vectors are nearly orthogonal to what moves the captions' scores.
    assert abs(delta["random"].value - delta["original"].value) < 20
    assert delta["random"].high < 0
    assert (found.norm, found.photo_norm) == (pytest.approx(1.0, abs=1e-5), pytest.approx(0.0, abs=1e-6))


def test_the_exact_bias_taken_away_leaves_none() -> None:
    found = reverse(*biased(1.0), FEW)
    assert found is not None
    left = next(arm for arm in found.arms if arm.name == "reversed").outcomes[0]
    assert left.low <= 0.0 <= left.high


def test_a_change_that_is_not_the_bias_reverses_nothing() -> None:
    embeddings, axis = pair_world(80, width=400, offset=0.5, noise=0.02)
    aside = torch.zeros(400)
    aside[5] = 1.0
    image = embeddings.image + torch.from_numpy(embeddings.generated)[:, None] * aside
    found = reverse(embeddings, replace(embeddings, image=image), FEW)
    assert found is not None
    delta = {arm.name: arm.outcomes[0].value for arm in found.arms}
    assert abs(delta["reversed"] - delta["original"]) < 20
    assert axis[5] == 0


def test_a_photos_shift_does_not_know_its_own_twin() -> None:
    moved = np.arange(8.0)[:, None] * np.array([[1.0, 0.0]])
    target, made = np.array([0, 1, 2, 3, 0, 1, 2, 3]), np.arange(8) >= 4
    shift = cross_fitted_mean(moved, target, made, 0)
    for row in range(8):
        values = [moved[other, 0] for other in range(4, 8) if target[other] != target[row]]
        assert shift[row, 0] in [pytest.approx((a + b) / 2) for a in values for b in values if a != b]
    assert (shift[:4] == shift[4:]).all()


def test_sets_that_do_not_fit() -> None:
    embeddings, _ = pair_world(6)
    narrow = replace(embeddings, image=embeddings.image[:, :5])
    with pytest.raises(RunError, match="--debiased: its vectors have 5 dimensions, the original ones 24"):
        matched(embeddings, narrow)
    with pytest.raises(RunError, match="--debiased: lacks 2 pictures of the original set, such as '0-0'"):
        matched(embeddings, embeddings.pictures(np.arange(2, 12)))
    twice = replace(embeddings, image_key=("0-0", *embeddings.image_key[:-1]))
    with pytest.raises(RunError, match="several pictures have one name"):
        matched(embeddings, twice)
