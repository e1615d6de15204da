"""Splits, balance and the strength on vectors whose bias is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from vectors import biased

from bias_train.embeddings import Embeddings
from bias_train.erasure.calibration import balanced_rows, check_disjoint, split_by_target, unit, without_copies
from bias_train.erasure.evaluation import before_and_after, bias_change
from bias_train.erasure.fitting import ErasureSpec, fit_eraser
from bias_train.erasure.strength import FigureChoice, relative_delta, tune
from bias_train.errors import RunError
from bias_train.stats import Bootstrap

R1, P20 = FigureChoice("R", 1), FigureChoice("P", 20)


@pytest.mark.parametrize("relevance", ["pair", "label"])
def test_a_split_shares_nothing_and_loses_nothing(relevance: str) -> None:
    whole = biased(relevance)  # type: ignore[arg-type]
    calibration, test = split_by_target(whole, 0.25, seed=3)
    check_disjoint(calibration, test, same_targets=True)
    assert sorted(calibration.image_key + test.image_key) == sorted(whole.image_key)
    assert sorted(calibration.query + test.query) == sorted(whole.query)
    for part in (calibration, test):
        assert set(part.query_target) == set(part.image_target)
        assert part.text is not None
        assert len(part.text) == len(part.query)
    assert len(set(test.image_target)) == round(0.25 * len(set(whole.image_target)))
    again = split_by_target(whole, 0.25, seed=3)[1]
    assert again.image_key == test.image_key
    assert split_by_target(whole, 0.25, seed=4)[1].image_key != test.image_key


def test_pictures_of_no_known_target_are_split_by_source() -> None:
    whole = biased("pair", count=60)
    target = np.where(whole.image_source == 0, -1, whole.image_target)
    calibration, test = split_by_target(replace(whole, image_target=target), 0.5)
    assert [int((~part.generated).sum()) for part in (calibration, test)] == [30, 30]
    with pytest.raises(RunError, match="--holdout is 1"):
        split_by_target(whole, 1.0)
    with pytest.raises(RunError, match="0 generated"):
        split_by_target(whole.pictures(~whole.generated), 0.5)


def test_a_test_on_calibrated_pictures_is_refused() -> None:
    whole = biased("pair", count=60)
    half = whole.targets(range(30))
    with pytest.raises(RunError, match="share 30 targets, the first being 0"):
        check_disjoint(whole, half, same_targets=True)
    with pytest.raises(RunError, match="share the picture 'r0-0'"):
        check_disjoint(whole, half, same_targets=False)
    # Row numbers are no names: other sets have them too.
    numbered = replace(whole, image_key=tuple(map(str, range(len(whole)))))
    check_disjoint(numbered, numbered, same_targets=False)
    with pytest.raises(RunError, match="same set under other names"):
        without_copies(numbered, whole)
    other = biased("pair", count=60, seed=1)
    assert without_copies(other, whole) is other
    few = replace(other, image=torch.cat([whole.image[:2], other.image[2:]]))
    assert without_copies(few, whole).image_key == other.image_key[2:]


def test_classes_are_balanced_and_scenes_complete() -> None:
    whole = biased("label", count=80, classes=4)
    odd = whole.pictures(np.r_[0:50, 80:97, 140:160])
    rows = balanced_rows(odd)
    for class_id in range(4):
        mine = odd.image_source[rows][odd.image_target[rows] == class_id]
        both = odd.image_source[odd.image_target == class_id]
        assert (mine == 0).sum() == (mine == 1).sum() == min((both == 0).sum(), (both == 1).sum())
    scenes = biased("pair", count=20).pictures(np.r_[0:20, 25:40])
    assert set(scenes.image_target[balanced_rows(scenes)]) == set(range(5, 20))
    apart = replace(scenes, image_target=np.where(scenes.generated, -1, scenes.image_target))
    assert len(balanced_rows(apart)) == len(apart)


@pytest.mark.parametrize("relevance", ["pair", "label"])
@pytest.mark.parametrize("spec", [ErasureSpec("leace"), ErasureSpec("projection")], ids=lambda spec: spec.method)
def test_a_shared_bias_is_removed_from_targets_that_were_not_seen(relevance: str, spec: ErasureSpec) -> None:
    calibration, test = split_by_target(biased(relevance), 0.5)  # type: ignore[arg-type]
    figure = R1 if relevance == "pair" else P20
    eraser, found = tune(fit_eraser(calibration, spec), calibration, figure)
    assert found.reached
    assert abs(found.delta) < 5
    assert eraser.strength == found.strength
    assert eraser.metadata["tuned"]["figure"] == figure.key
    assert eraser.metadata["fitted_on"]["pictures"] == {"real": 200, "sd": 200}
    before, after = before_and_after(test, eraser, (figure,), Bootstrap(resamples=200))
    assert before.bias[0].high < -20
    assert after.bias[0].low < 0 < after.bias[0].high
    assert before.probe.low > 0.85
    assert bias_change(test, eraser, (figure,), Bootstrap(resamples=200))[0].low > 20
    photos = [{f.name: f.value for f in p.quality} for p in (before, after)]
    name = "t2i_R_photos" if relevance == "pair" else "class_accuracy_photos"
    assert photos[1][name] > photos[0][name] - 0.05
    assert after.record()["bias"][0]["name"].startswith("relative_delta")


def typical(seed: int) -> Embeddings:
    """Generated pictures are nearer to their own class, and have a mark that no query asks for."""
    whole = biased("label", count=600, classes=6)
    assert whole.text is not None
    text = whole.text.clone()
    text[:, :2] = 0.0  # nothing that all queries share, nor the mark
    whole = unit(replace(whole, text=text))
    assert whole.text is not None
    noise = 0.2 * torch.randn(1200, 24, generator=torch.Generator().manual_seed(seed))
    nearer = torch.from_numpy(np.where(whole.generated, 1.3, 1.0)).float()[:, None]
    image = nearer * whole.text[whole.image_target] + noise
    image[:, 1] += torch.from_numpy(np.where(whole.generated, 0.5, -0.5)).float()
    return unit(replace(whole, image=image))


def test_typical_pictures_are_no_matter_of_a_direction_but_of_a_correction() -> None:
    calibration, test = typical(3), typical(4)
    figure = FigureChoice("P", 50)
    for method in ("leace", "projection"):
        eraser = fit_eraser(calibration, ErasureSpec(method))  # type: ignore[arg-type]
        before, after = before_and_after(test, eraser, (figure,), None)
        assert before.bias[0].value < -100
        assert after.probe.auc < 0.6 < before.probe.auc
        assert after.bias[0].value < -80
    eraser, found = tune(fit_eraser(calibration, ErasureSpec("correction")), calibration, figure)
    before, after = before_and_after(test, eraser, (figure,), None)
    assert found.reached
    assert abs(after.bias[0].value) < 30
    assert [f.value for f in after.quality] == pytest.approx([f.value for f in before.quality], abs=0.005)


def test_a_correction_may_know_the_prompts_of_classes_without_pictures() -> None:
    whole = typical(1)
    calibration, _ = split_by_target(whole, 0.5)
    assert calibration.text is not None
    assert whole.text is not None
    spread = []
    for prompts in (None, whole.text):
        matrix = fit_eraser(calibration, ErasureSpec("correction"), prompts).matrix
        # Each query's scores change by a multiple of one and the same function of the picture: how unlike are they?
        moved = whole.text.double() @ (torch.eye(24) - matrix)
        spread.append(float(moved.std(dim=0).norm() / moved.mean(dim=0).norm()))
    assert spread[0] > 0.1
    assert spread[1] < 1e-6


def test_tuning_aims_where_it_is_told_and_says_where_it_cannot() -> None:
    calibration = biased("label")
    eraser = fit_eraser(calibration, ErasureSpec("projection"))
    start = relative_delta(calibration, P20)
    aimed, found = tune(eraser, calibration, P20, wanted=start / 2)
    assert found.reached
    assert found.delta == pytest.approx(start / 2, abs=10)
    none, other = tune(eraser, calibration, P20, wanted=0.0)
    assert 0 < found.strength < other.strength
    stayed, same = tune(eraser, calibration, P20, wanted=start)
    assert (same.strength, stayed.strength) == (0.0, 0.0)
    # What is preferred for no common direction cannot be erased with one: generated pictures are sharper here.
    sharper = replace(calibration, image=torch.cat([calibration.image[:400], calibration.image[:400]]))
    _, lost = tune(eraser, sharper, P20, wanted=-150.0)
    assert not lost.reached
    with pytest.raises(RunError, match="needs queries"):
        tune(eraser, replace(calibration, text=None), P20)
    assert aimed.width == none.width


def test_options_that_do_not_belong_together_are_refused() -> None:
    for wrong, words in (
        ({"method": "orth"}, "choose leace"),
        ({"method": "leace", "rank": 2}, "rank belongs"),
        ({"method": "projection", "affine": True}, "belong to LEACE"),
        ({"method": "correction", "rounds": 2}, "belong to LEACE"),
        ({"rank": 0}, "1 or more"),
        ({"affine": True, "rounds": 2}, "affine"),
    ):
        with pytest.raises(RunError, match=words):
            ErasureSpec(**wrong)  # type: ignore[arg-type]
    for text in ("R", "R@0", "X@1", "R@x"):
        with pytest.raises(RunError, match="is none of"):
            FigureChoice.parse(text)
    photos = biased("label").pictures(np.arange(10))
    with pytest.raises(RunError, match="one source"):
        fit_eraser(photos, ErasureSpec())
    with pytest.raises(RunError, match="needs queries"):
        fit_eraser(replace(biased(), text=None), ErasureSpec("correction"))


def test_vectors_come_to_unit_length_or_are_named() -> None:
    whole = biased("label", count=20)
    longer = replace(whole, image=whole.image * torch.arange(1, 41)[:, None])
    torch.testing.assert_close(unit(longer).image, whole.image)
    with pytest.raises(RunError, match="image row 3"):
        unit(replace(whole, image=whole.image.index_fill(0, torch.tensor([3]), 0.0)))
