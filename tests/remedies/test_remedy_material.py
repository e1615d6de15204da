"""Remedies by name, and the split of what they are fitted to from what they are measured on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison_material import material

from bias_train.errors import RunError
from bias_train.remedies.config import load_remedies
from bias_train.remedies.material import Material, calibration_of, split
from datamodules.groups import grouping
from models.remedies import Equalisation, IterativeNullSpace, Remedy

HALF = np.array([0.5, 0.5])


def test_the_shipped_file_makes_every_remedy() -> None:
    found = load_remedies("configs/remedies/social.yaml")
    assert len(found) >= 5
    assert all(isinstance(remedy, Remedy) for remedy in found.values())
    equal = found["equalise_all"]
    assert isinstance(equal, Equalisation)
    assert equal.nearest is None
    assert list(load_remedies("configs/remedies/social.yaml", ["spd", "leace"])) == ["leace", "spd"]
    assert isinstance(found["inlp"], IterativeNullSpace)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as YAML"),
        ("remedies: {}", "must hold `remedies:`"),
        ("remedies: {a: {}}", "must have a class_path"),
        ("remedies: {a: {class_path: models.remedies.Leace, rounds: 3}}", "nothing else"),
        ("remedies: {a: {class_path: models.remedies.Nothing}}", "no class models.remedies.Nothing"),
        ("remedies: {a: {class_path: Leace}}", "no class Leace"),
        ("remedies: {a: {class_path: models.remedies.Calibration}}", "is no remedy"),
        ("remedies: {a: {class_path: models.remedies.Leace, init_args: {round: 3}}}", "unexpected keyword"),
        ("remedies: {a: {class_path: models.remedies.Leace, init_args: {rounds: 0}}}", "1 round or more"),
    ],
)
def test_what_the_file_gets_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(RunError, match=words) as caught:
        load_remedies(file)
    assert "r.yaml" in str(caught.value)
    with pytest.raises(RunError, match="has no remedy 'b'"):
        load_remedies("configs/remedies/social.yaml", ["b"])


def test_the_split_is_by_group_and_shares_nothing() -> None:
    whole = material()
    assert len(whole.people) == int((whole.grouping.code >= 0).sum()) < 400
    part = split(whole, 0.4, 0.5, seed=3)
    for code, count in enumerate(whole.grouping.counts.tolist()):
        assert int(part.pictures[whole.grouping.code == code].sum()) == round(0.4 * count)
    assert int(part.words.sum()) == 6 or part.words[0]  # 6 of 11 words, of which one stands twice
    assert part.words[0] == part.words[-1]
    assert len(part.targets) == 24
    again, other = split(whole, 0.4, 0.5, seed=3), split(whole, 0.4, 0.5, seed=4)
    assert np.array_equal(part.pictures, again.pictures)
    assert not np.array_equal(part.pictures, other.pictures)
    fitted = calibration_of(whole, HALF, part)
    held = {row.numpy().tobytes() for row in whole.people.image[torch.from_numpy(part.pictures)]}
    assert held.isdisjoint(row.numpy().tobytes() for row in fitted.image)
    assert len(fitted.image) + len(held) == len(whole.people)


def test_the_calibration_holds_what_it_says() -> None:
    whole = material()
    part = split(whole, 0.5, 0.5)
    found = calibration_of(whole, HALF, part, seed=9)
    rows = np.flatnonzero(~part.pictures)
    assert torch.equal(found.group, torch.from_numpy(whole.grouping.code[rows]))
    for vectors in (found.image, found.words, found.group_prompts, found.pair_image, found.pair_text, found.composed):
        assert vectors is not None
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))
    assert found.composed is not None
    assert found.composed.shape == (len(found.words), 2, 16)
    assert (found.labels, found.seed) == (("Female", "Male"), 9)
    assert found.prompt_group.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(found.pair_image) == 60
    # Each caption beside its own picture.
    assert whole.pairs is not None
    place = {row.numpy().tobytes(): number for number, row in enumerate(whole.pairs.image)}
    asked = [place[row.numpy().tobytes()] for row in found.pair_image]
    assert set(asked).isdisjoint(part.targets.tolist())
    assert np.array_equal(np.unique(asked, return_counts=True)[1], np.full(30, 2))
    everything = calibration_of(whole, HALF)
    assert (len(everything.image), len(everything.words)) == (len(whole.people), 12)
    assert len(everything.pair_image) == 120


def test_all_words_may_be_fitted_to_and_pairs_may_be_missing() -> None:
    whole = replace(material(), pairs=None, prompts=None, composed=None)
    part = split(whole, 0.5, 0.0)
    assert not part.words.any()
    found = calibration_of(whole, HALF, part)
    assert (len(found.words), len(found.pair_image), len(found.group_prompts)) == (12, 0, 0)
    assert found.composed is None


def test_copies_of_a_picture_go_to_one_side() -> None:
    whole = material()
    image = whole.people.image.clone()
    own = np.flatnonzero(whole.grouping.code == 0)
    image[torch.from_numpy(own[: len(own) // 2])] = image[own[0]].clone()
    copied = replace(whole, people=replace(whole.people, image=image))
    side = split(copied, 0.5).pictures[own[: len(own) // 2]]
    assert side.all() or not side.any()


def test_captions_without_a_picture_are_left_out() -> None:
    whole = material()
    assert whole.pairs is not None
    fewer = replace(whole, pairs=whole.pairs.pictures(np.arange(10, 60)))
    assert len(calibration_of(fewer, HALF).pair_image) == 100


def test_material_that_does_not_fit_is_named() -> None:
    whole = material()
    assert whole.pairs is not None
    people, words = whole.people, whole.words
    broken = people.image.clone()
    broken[7] = 0
    one = grouping("gender", ["Male"] * len(people))
    for make, named in (
        (lambda: split(whole, 0.0), "--held-out is 0"),
        (lambda: split(whole, 0.5, 1.0), "--held-out-words is 1"),
        (lambda: Material(people, one, words), "only Male has enough"),
        (lambda: Material(replace(people, image=broken), whole.grouping, words), "row 7 is all zeros"),
        (lambda: Material(people, whole.grouping, replace(words, text=words.text[:, :5])), "the words are 5 wide"),
        (lambda: replace(whole, pairs=replace(whole.pairs, text=None)), "no captions"),
        (lambda: split(material(pictures=6)), "too few to fit"),
    ):
        with pytest.raises(RunError, match=named):
            make()  # type: ignore[no-untyped-call]
