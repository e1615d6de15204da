from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from explain_worlds import class_world, pair_world, unit
from scipy.stats import kstest

from bias_train.explain.cross import cross_cosines, permuted_within
from bias_train.explain.direction import consistency, pairwise_cosine
from bias_train.explain.units import difference_weights, differences, kind_of, units_of


def test_pairwise_cosine_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((7, 5)))
    naive = np.mean([vectors[a] @ vectors[b] for a, b in combinations(range(7), 2)])
    assert pairwise_cosine(vectors) == pytest.approx(naive)
    signs = rng.choice([-1.0, 1.0], (3, 7))
    expected = [np.mean([s[a] * s[b] * vectors[a] @ vectors[b] for a, b in combinations(range(7), 2)]) for s in signs]
    assert pairwise_cosine(vectors, signs) == pytest.approx(expected)


def test_every_statistic_against_a_loop() -> None:
    displacement = np.random.default_rng(1).standard_normal((9, 4)) + 0.5
    found = consistency(displacement, resamples=100)
    assert found is not None
    mean = displacement.mean(axis=0)
    directions = [row / np.linalg.norm(row) for row in displacement]
    assert found.norm == pytest.approx(np.linalg.norm(mean))
    assert found.mean_norm == pytest.approx(np.mean([np.linalg.norm(row) for row in displacement]))
    assert found.mean_cosine == pytest.approx(np.mean([row @ mean for row in directions]) / np.linalg.norm(mean))
    assert found.pairwise_cosine == pytest.approx(np.mean([a @ b for a, b in combinations(directions, 2)]))


def test_a_common_direction_is_found_and_its_strength_known() -> None:
    width, n = 64, 300
    rng = np.random.default_rng(0)
    for noise in (0.01, 1.0, 3.0):
        displacement = np.eye(width)[3] + noise * rng.standard_normal((n, width)) / np.sqrt(width)
        found = consistency(displacement)
        assert found is not None
        assert found.p_norm == found.p_mean_cosine == found.p_pairwise_cosine == pytest.approx(1 / 1001)
        # For u + noise of norm s: cosine to the mean about 1 / sqrt(1 + s^2), between two about its square.
        assert found.mean_cosine == pytest.approx(1 / np.sqrt(1 + noise**2), abs=0.03)
        assert found.pairwise_cosine == pytest.approx(1 / (1 + noise**2), abs=0.03)


def test_without_a_common_direction_p_is_uniform() -> None:
    rng = np.random.default_rng(0)
    found = [consistency(rng.standard_normal((15, 8)), resamples=199, seed=seed) for seed in range(300)]
    for name in ("p_norm", "p_mean_cosine", "p_pairwise_cosine"):
        assert kstest([getattr(result, name) for result in found], "uniform").pvalue > 0.01, name
    # The null shows what the cosine to one's own mean is worth: about 1 / sqrt(n), not 0.
    assert np.mean([result.mean_cosine for result in found if result]) == pytest.approx(1 / np.sqrt(15), rel=0.1)
    assert np.mean([result.null_cosine for result in found if result]) == pytest.approx(1 / np.sqrt(15), rel=0.1)


def test_sign_flips_are_those_of_the_whole_enumeration() -> None:
    displacement = np.random.default_rng(4).standard_normal((6, 3)) + 0.4
    found = consistency(displacement, resamples=20_000)
    assert found is not None
    norms = [np.linalg.norm(np.array(signs) @ displacement / 6) for signs in product([-1, 1], repeat=6)]
    assert found.p_norm == pytest.approx(np.mean(np.array(norms) >= found.norm - 1e-12), abs=0.01)


def test_twins_like_their_photo_are_dropped_and_counted() -> None:
    displacement = np.concatenate([np.zeros((3, 4)), np.ones((5, 4))])
    found = consistency(displacement)
    assert found is not None
    assert (found.units, found.dropped, found.mean_cosine) == (5, 3, pytest.approx(1.0))
    assert consistency(displacement[:4]) is None


# units


def test_units_of_pairs_take_the_mean_of_several_twins_and_leave_out_what_has_none() -> None:
    embeddings, _ = pair_world(6, generators=2)
    drop = (embeddings.image_key[6 + 2], embeddings.image_key[12 + 2], embeddings.image_key[12 + 4])
    embeddings = embeddings.pictures(np.array([key not in drop for key in embeddings.image_key]))
    both = units_of(embeddings)
    assert both.kind == "pair"
    assert both.target.tolist() == [0, 1, 3, 4, 5]
    rows = {key: embeddings.image[row].numpy() for row, key in enumerate(embeddings.image_key)}
    expected = (rows["3-1"] + rows["3-2"]) / 2 - rows["3-0"]
    assert differences(both)[2] == pytest.approx(expected, abs=1e-6)
    assert differences(both)[3] == pytest.approx(rows["4-1"] - rows["4-0"], abs=1e-6)
    assert units_of(embeddings, (2,)).target.tolist() == [0, 1, 3, 5]
    assert units_of(embeddings, (1, 2)).target.tolist() == [0, 1, 3, 5]


def test_units_of_classes_are_differences_of_means() -> None:
    embeddings = class_world()
    units = units_of(embeddings)
    assert units.kind == kind_of(embeddings) == "class"
    image = embeddings.image.numpy()
    for label in range(5):
        of = [image[(embeddings.image_target == label) & (embeddings.image_source == code)] for code in (0, 1)]
        assert differences(units)[label] == pytest.approx(of[1].mean(axis=0) - of[0].mean(axis=0), abs=1e-6)


def test_without_common_targets_all_pictures_are_one_unit() -> None:
    embeddings, _ = pair_world(8)
    apart = replace(embeddings, image_target=np.where(embeddings.generated, embeddings.image_target, -1))
    assert kind_of(apart) == "whole"
    image, made = apart.image.numpy(), apart.generated
    expected = image[made].mean(axis=0) - image[~made].mean(axis=0)
    assert differences(units_of(apart))[0] == pytest.approx(expected, abs=1e-6)


def test_weights_of_many_labellings_at_once() -> None:
    unit_of = np.array([0, 0, 0, 1, 1])
    made = np.array([[False, True, True, True, False], [True, True, False, False, True]])
    assert difference_weights(unit_of, made)[1] == pytest.approx([0.5, 0.5, -1.0, -1.0, 1.0])
    assert difference_weights(unit_of, made)[0] == pytest.approx(difference_weights(unit_of, made[0]))


# generators


def test_permuted_within_keeps_each_units_labels() -> None:
    rng = np.random.default_rng(0)
    units = np.repeat([0, 1, 2], [3, 2, 4])
    code = np.array([0, 1, 2, 0, 1, 0, 0, 1, 1])
    drawn = permuted_within(code, units, 4000, rng)
    for which in range(3):
        assert (np.sort(drawn[:, units == which], axis=1) == np.sort(code[units == which])).all()
    assert (drawn[:, 0] == 1).mean() == pytest.approx(1 / 3, abs=0.03)
    assert (drawn[:, 8] == 1).mean() == pytest.approx(1 / 2, abs=0.03)


def test_generators_of_one_direction_and_of_opposite_ones() -> None:
    same, _ = pair_world(60, offset=np.array([1.0, 0.7]), generators=2)
    [pair] = cross_cosines(same, resamples=300)
    assert (pair.first, pair.second, pair.units) == ("gen-1", "gen-2", 60)
    assert pair.cosine > 0.99
    assert pair.p == pytest.approx(1 / 301)
    opposite, _ = pair_world(60, offset=np.array([1.0, -1.0]), generators=2)
    assert cross_cosines(opposite, resamples=100)[0].cosine < -0.95


def test_exchangeable_sources_share_their_photo_and_no_direction() -> None:
    found = [cross_cosines(pair_world(40, generators=2, seed=seed)[0], resamples=99)[0] for seed in range(40)]
    assert np.mean([pair.cosine for pair in found]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([pair.null_mean for pair in found]) == pytest.approx(0.5, abs=0.06)
    assert kstest([pair.p for pair in found], "uniform").pvalue > 0.01
