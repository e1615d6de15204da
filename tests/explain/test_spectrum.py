from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bias_train.errors import RunError
from bias_train.explain.pictures import shard_spectra
from bias_train.explain.spectrum import log_power, radial_average, rings, spectra_of, spectral_differences
from bias_train.stats import Bootstrap
from datamodules.reencode import ImageFormat
from datamodules.sample import Sample, View
from datamodules.writer import ShardWriter

FEW = Bootstrap(resamples=300)


def scene(seed: int, side: int = 64) -> np.ndarray:
    """A picture with a falling spectrum, as photos have: [side, side, 3] uint8."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(30, 220, (side // 4, side // 4, 3), dtype=np.uint8))
    noise = 4.0 * rng.standard_normal((side, side, 3))
    return (np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)) + noise).clip(0, 255).astype(np.uint8)


def fingerprinted(picture: np.ndarray, across: float, down: float, strength: float = 4.0) -> np.ndarray:
    side = len(picture)
    y, x = np.mgrid[:side, :side]
    wave = strength * np.cos(2 * np.pi * (across * x + down * y))
    return (picture + wave[:, :, None]).clip(0, 255).round().astype(np.uint8)


def test_rings_hold_every_frequency_up_to_a_half_once() -> None:
    ring, frequency = rings(32)
    assert frequency[[0, -1]] == pytest.approx([1 / 32, 0.5])
    axis = np.fft.fftshift(np.fft.fftfreq(32))
    radius = np.hypot(axis[:, None], axis[None, :])
    for number, centre in enumerate(frequency):
        assert np.abs(radius[ring == number] - centre).max() <= 0.5 / 32 + 1e-12
    assert ring[16, 16] == -1
    assert (ring[(radius > 0) & (radius < 0.5)] >= 0).all()


def test_power_is_that_of_a_plain_transform() -> None:
    picture = scene(0, 33)[:, :48]  # an uneven size: the centre is cut
    grey = picture[0:32, 0:32].astype(float) @ [0.299, 0.587, 0.114]
    window = np.outer(np.hanning(33)[:32], np.hanning(33)[:32])
    direct = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2 / (window**2).sum()
    found = log_power(picture, 32)
    for down, across in ((0, 3), (5, 0), (31, 17)):
        assert found[(down + 16) % 32, (across + 16) % 32] == pytest.approx(np.log10(direct[down, across] + 1e-6))
    ring, _ = rings(32)
    shifted = np.fft.fftshift(direct)
    assert radial_average(found, ring)[4] == pytest.approx(np.log10(shifted[ring == 4].mean()), abs=1e-4)


@pytest.mark.parametrize("paired", [True, False])
def test_a_fingerprint_is_found_at_its_frequency(paired: bool) -> None:
    across, down = 12 / 64, 16 / 64
    pictures = [scene(seed) for seed in range(40)]
    pictures += [
        fingerprinted(picture if paired else scene(90 + n), across, down) for n, picture in enumerate(pictures)
    ]
    source, target = np.repeat([0, 1], 40), np.tile(np.arange(40), 2)
    spectra = spectra_of(80, lambda number: pictures[number], source, target, 64)
    [found] = spectral_differences(spectra, paired=paired, bootstrap=FEW)
    assert found.paired is paired
    assert found.peak == pytest.approx(np.hypot(across, down), abs=1 / 64)
    ring = int(np.argmin(np.abs(spectra.frequency - found.peak)))
    assert found.interval.low[ring] > 0.1
    assert found.interval.value == pytest.approx(
        spectra.radial[40:].mean(axis=0) - spectra.radial[:40].mean(axis=0), abs=1e-12
    )
    difference = spectra.plane[1] - spectra.plane[0]
    peak = np.unravel_index(np.argmax(difference), difference.shape)
    assert {(int(peak[0]) - 32, int(peak[1]) - 32)} <= {(16, 12), (-16, -12)}


def test_equal_sources_do_not_differ() -> None:
    pictures = [scene(seed) for seed in range(60)]
    spectra = spectra_of(60, lambda number: pictures[number], np.arange(60) % 2, np.arange(60), 64)
    [found] = spectral_differences(spectra, paired=True, bootstrap=FEW)
    assert not found.paired  # no two pictures of one target
    outside = (found.interval.low > 0) | (found.interval.high < 0)
    assert outside.mean() < 0.25


def test_what_is_too_small_or_broken_is_left_out_and_counted() -> None:
    pictures = [scene(0), scene(1, 40), None, scene(2)]

    def read(number: int) -> np.ndarray:
        picture = pictures[number]
        if picture is None:
            raise ValueError("no picture")
        return picture

    spectra = spectra_of(4, read, np.array([0, 0, 1, 1]), np.arange(4), 64)
    assert spectra.source.tolist() == [0, 1]
    assert dict(spectra.problems.counts) == {"picture smaller than 64 pixels": 1, "broken picture": 1}
    assert spectral_differences(spectra, paired=False, bootstrap=FEW) == []


def test_of_shards_with_twins(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "pairs", image_format=ImageFormat(quality=98)) as writer:
        for number in range(12):
            photo = scene(number, 48)
            twin = fingerprinted(scene(number, 80), 0.25, 0.0, 10.0)  # of another size
            writer.write(Sample(f"s-{number}", ("a",), views={"gen": View("gen")}), photo, {"gen": twin})
    spectra, sources, paired = shard_spectra([str(tmp_path / "pairs")], most=8)
    assert (spectra.side, sources, paired) == (48, ("real", "gen"), True)
    assert [(spectra.source == code).sum() for code in (0, 1)] == [8, 8]
    assert set(spectra.target[spectra.source == 0]) == set(spectra.target[spectra.source == 1])
    [found] = spectral_differences(spectra, paired=paired, bootstrap=FEW)
    assert found.peak == pytest.approx(0.25, abs=1 / 48)


def test_one_source_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "photos") as writer:
        writer.write(Sample("s", ("a",)), scene(0))
    with pytest.raises(RunError, match="spectra compare photos with generated pictures, and one of them is missing"):
        shard_spectra([str(tmp_path / "photos")])
