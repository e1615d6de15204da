from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from explain_worlds import class_world, pair_world

from bias_train.explain.decomposition import decompose, without_common
from bias_train.explain.outcome import measure_gallery
from bias_train.stats import Bootstrap, resample_counts

FEW = Bootstrap(resamples=210)


def test_parts_sum_to_the_gap_and_are_those_of_a_loop() -> None:
    embeddings, _ = pair_world(30, offset=0.4, captions=3)
    # Uneven captions, a photo without a twin, a twin without captions.
    embeddings = embeddings.queries(np.array([q not in (0, 1, 4, 60, 61, 62) for q in range(90)]))
    embeddings = embeddings.pictures(np.array([key != "7-1" for key in embeddings.image_key]))
    found = decompose(embeddings, bootstrap=FEW)
    assert found is not None
    rows = {key: embeddings.image[row].numpy().astype(float) for row, key in enumerate(embeddings.image_key)}
    delta = {target: rows[f"{target}-1"] - rows[f"{target}-0"] for target in range(30) if target != 7}
    mean = np.mean(list(delta.values()), axis=0)
    assert embeddings.text is not None
    asked = [
        (query.numpy(), target)
        for query, target in zip(embeddings.text.double(), embeddings.query_target, strict=True)
        if target != 7
    ]
    assert found.gap[0] == pytest.approx(np.mean([query @ delta[target] for query, target in asked]))
    assert found.common[0] == pytest.approx(np.mean([query @ mean for query, _ in asked]))
    assert found.specific[0] == pytest.approx(np.mean([query @ (delta[target] - mean) for query, target in asked]))
    assert found.common[0] + found.specific[0] == pytest.approx(found.gap[0], abs=1e-12)
    assert (found.queries, found.units) == (len(asked), 29)


def test_intervals_are_those_of_a_loop_over_resamples() -> None:
    embeddings, _ = pair_world(12, offset=0.3)
    found = decompose(embeddings, bootstrap=FEW)
    assert found is not None
    assert embeddings.text is not None
    text = embeddings.text.double().numpy()
    image = embeddings.image.double().numpy()
    draws = []
    for count in np.concatenate(list(resample_counts(12, FEW))):
        scenes = np.repeat(np.arange(12), count)
        delta = image[12:][scenes] - image[:12][scenes]
        query = np.stack([text[[2 * scene, 2 * scene + 1]].mean(axis=0) for scene in scenes])
        gap = (query * delta).sum(axis=1).mean()
        common = query.mean(axis=0) @ delta.mean(axis=0)
        draws.append((gap, common, gap - common))
    low, high = np.quantile(np.array(draws), (0.025, 0.975), axis=0, method="inverted_cdf")
    for part, a, b in zip((found.gap, found.common, found.specific), low, high, strict=True):
        assert part[1:] == pytest.approx((a, b))


def test_a_common_vector_is_all_common_and_a_captions_own_vector_all_specific() -> None:
    common, _ = pair_world(50, offset=0.5, noise=0.05, exact=True)
    found = decompose(common, bootstrap=FEW)
    assert found is not None
    assert found.gap[0] > 0.1
    assert found.share[0] == pytest.approx(1.0, abs=1e-6)
    # Twins moved towards their own scene, in all directions.
    specific, _ = pair_world(400, offset=0.0, noise=0.05, exact=True)
    photos = specific.image[:400]
    moved = replace(specific, image=torch.cat([photos, 1.5 * photos]))
    found = decompose(moved, bootstrap=FEW)
    assert found is not None
    assert found.gap[0] > 0.4
    assert abs(found.share[0]) < 0.05


def test_classes_against_a_loop() -> None:
    embeddings = class_world()
    found = decompose(embeddings, bootstrap=FEW)
    assert found is not None
    image = embeddings.image.double().numpy()
    assert embeddings.text is not None
    text = embeddings.text.double().numpy()

    def means(counts: np.ndarray) -> tuple[float, float]:
        delta = []
        for label in range(5):
            cells = [(embeddings.image_target == label) & (embeddings.image_source == code) for code in (0, 1)]
            real, made = (np.average(image[cell], axis=0, weights=counts[cell]) for cell in cells)
            delta.append(made - real)
        query = text.reshape(5, 2, -1).mean(axis=1)
        return float((query * delta).sum(axis=1).mean()), float(query.mean(axis=0) @ np.mean(delta, axis=0))

    gap, common = means(np.ones(len(image)))
    assert (found.gap[0], found.common[0]) == (pytest.approx(gap), pytest.approx(common))
    assert found.specific[0] == pytest.approx(gap - common)
    strata = embeddings.image_target * 2 + embeddings.image_source
    draws = [means(row.astype(float)) for block in resample_counts(len(image), FEW, strata) for row in block]
    low, high = np.quantile(np.array(draws), (0.025, 0.975), axis=0, method="inverted_cdf")
    assert found.gap[1:] == pytest.approx((low[0], high[0]))
    assert found.common[1:] == pytest.approx((low[1], high[1]))


def test_without_the_common_displacement_a_common_bias_is_gone_and_another_stays() -> None:
    common, axis = pair_world(60, offset=np.array([0.5, 0.8]), generators=2, noise=0.05, exact=True)
    photos = common.image[:60]
    image = without_common(common)
    assert torch.allclose(image[60:120], photos, atol=1e-6)
    assert torch.allclose(image[120:], photos, atol=1e-6)
    assert torch.equal(image[:60], photos)
    assert axis[0] == 1
    [delta, win] = measure_gallery(common, image, FEW).outcomes
    assert delta.low <= 0.0 <= delta.high
    assert win.value == pytest.approx(0.5, abs=0.2)  # twins and photos are equal to the last bits
    # A twin's own part of the displacement is not in what is taken from it.
    own = replace(common, image=common.image.clone())
    own.image[60] += 5.0
    moved = without_common(own) - own.image
    assert torch.allclose(moved[60], torch.from_numpy(-0.5 * axis).float(), atol=1e-5)


def test_nothing_to_split_without_queries() -> None:
    embeddings, _ = pair_world(5)
    assert decompose(replace(embeddings, text=None)) is None
    assert decompose(replace(embeddings, query_target=embeddings.query_target + 100)) is None
