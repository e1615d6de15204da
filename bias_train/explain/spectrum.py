"""Power spectra of the pictures themselves: what a source leaves in them beside what they show.

Generators leave periodic traces of their upsampling (Durall et al. 2020, "Watch your Up-Convolution"), and cameras
leave noise. A picture is turned to luminance, its centre cut out without resizing (which would be a filter
of its own), its mean taken off, and multiplied by a Hann window before its Fourier transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bias_train.stats import Bootstrap, Floats, Interval, clustered_bootstrap, interval, resample_counts
from datamodules.problems import Problems

# Rec. 601, as in JPEG.
_LUMINANCE = np.array([0.299, 0.587, 0.114])

MOST_SIDE = 256
_FLOOR = 1e-6


@dataclass(frozen=True)
class Spectra:
    """Spectra of pictures by source.

    Attributes:
        frequency: [F] cycles per pixel, from above 0 to 0.5.
        radial: [n, F] log10 of each picture's power, averaged over the ring of a frequency.
        source: [n] codes.
        target: [n] what the pictures show; -1 unknown.
        plane: by source code, [side, side] mean log10 power of its pictures, zero frequency in the middle.
        side: of the squares that were cut, in pixels.
        problems: pictures that were left out.
    """

    frequency: Floats
    radial: Floats
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    plane: dict[int, Floats]
    side: int
    problems: Problems = field(default_factory=Problems)


@dataclass(frozen=True)
class SpectralDifference:
    """Generated minus real spectrum of one generator.

    Attributes:
        generator: source code.
        paired: whether pictures were compared with their own photos.
        interval: [F] mean difference of log10 power, with intervals at each frequency (not jointly).
        peak: frequency of the largest absolute difference over its standard error.
    """

    generator: int
    paired: bool
    interval: Interval
    peak: float


def log_power(picture: NDArray[np.uint8], side: int) -> Floats:
    """[side, side] log10 power of the centre of a picture, zero frequency in the middle.

    Args:
        picture: [H, W, 3] uint8, both sides at least ``side``.
        side: pixels to cut out.
    """
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    grey = picture[top : top + side, left : left + side].astype(np.float64) @ _LUMINANCE
    window = np.hanning(side + 1)[:side]
    window = window[:, None] * window[None, :]
    power = np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * window))) ** 2 / (window**2).sum()
    return np.asarray(np.log10(power + _FLOOR))


def rings(side: int) -> tuple[NDArray[np.int64], Floats]:
    """Number of the ring that each frequency of a square spectrum is in, and the rings' frequencies.

    Returns:
        [side, side] from 0 for the lowest ring, -1 for the zero frequency and the corners beyond 0.5 cycles per pixel;
        and [F] cycles per pixel.
    """
    axis = np.arange(side) - side // 2
    radius = np.rint(np.hypot(axis[:, None], axis[None, :])).astype(np.int64)
    count = side // 2
    return np.where((radius >= 1) & (radius <= count), radius - 1, -1), np.arange(1, count + 1) / side


def radial_average(plane: Floats, ring: NDArray[np.int64]) -> Floats:
    """[F] log10 of the mean power on each ring of a [side, side] log10 spectrum."""
    inside = ring >= 0
    size = np.bincount(ring[inside])
    return np.asarray(np.log10(np.bincount(ring[inside], weights=10.0 ** plane[inside]) / size))


def spectra_of(
    count: int,
    read: Callable[[int], NDArray[np.uint8]],
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    side: int,
) -> Spectra:
    """Compute pictures' spectra, one picture in memory at a time.

    Args:
        count: n pictures.
        read: decodes one: [H, W, 3] uint8. A ValueError leaves it out and counts it.
        source: [n] codes.
        target: [n].
        side: of the square that is cut from every picture; smaller ones are left out and counted.
    """
    ring, frequency = rings(side)
    problems, kept, radial = Problems(), [], []
    plane: dict[int, Floats] = {}
    for number in range(count):
        try:
            picture = read(number)
        except ValueError as error:
            problems.add("broken picture", str(error))
            continue
        if min(picture.shape[:2]) < side:
            problems.add(f"picture smaller than {side} pixels", f"{picture.shape[1]} x {picture.shape[0]}")
            continue
        power = log_power(picture, side)
        code = int(source[number])
        plane[code] = plane.get(code, np.zeros((side, side))) + power
        radial.append(radial_average(power, ring))
        kept.append(number)
    codes = source[kept]
    return Spectra(
        frequency,
        np.array(radial).reshape(len(kept), len(frequency)),
        codes,
        target[kept],
        {code: total / int((codes == code).sum()) for code, total in plane.items()},
        side,
        problems,
    )


def spectral_differences(spectra: Spectra, *, paired: bool, bootstrap: Bootstrap) -> list[SpectralDifference]:
    """Compare each generator's spectrum with the photos'.

    Args:
        spectra: of all sources.
        paired: compare each target's generated pictures with its photos, and resample targets; else the sources' means,
            resampling pictures within each source.
        bootstrap: of the intervals.
    """
    found = []
    for code in np.unique(spectra.source[spectra.source > 0]).tolist():
        both = np.intersect1d(spectra.target[spectra.source == code], spectra.target[spectra.source == 0])
        both = both[both >= 0]
        rows = paired and len(both) > 1
        result = _paired(spectra, code, both, bootstrap) if rows else _unpaired(spectra, code, bootstrap)
        if result is not None:
            width = np.maximum(result.high - result.low, 1e-12)
            peak = float(spectra.frequency[int(np.argmax(np.abs(result.value) / width))])
            found.append(SpectralDifference(code, rows, result, peak))
    return found


def _paired(spectra: Spectra, code: int, both: NDArray[np.int64], bootstrap: Bootstrap) -> Interval:
    rows = np.empty((len(both), len(spectra.frequency) + 1))
    for place, target in enumerate(both.tolist()):
        made, real = (spectra.radial[(spectra.target == target) & (spectra.source == c)] for c in (code, 0))
        rows[place, :-1], rows[place, -1] = made.mean(axis=0) - real.mean(axis=0), 1.0
    return clustered_bootstrap(rows, lambda sums: sums[..., :-1] / sums[..., -1:], bootstrap)


def _unpaired(spectra: Spectra, code: int, bootstrap: Bootstrap) -> Interval | None:
    chosen = np.isin(spectra.source, (0, code))
    made, radial = spectra.source[chosen] == code, spectra.radial[chosen]
    if made.all() or made.sum() < 2 or (~made).sum() < 2:
        return None
    weight = np.where(made, 1.0 / made.sum(), -1.0 / (~made).sum())
    blocks: Sequence[NDArray[np.int64]] = list(resample_counts(len(made), bootstrap, made))
    draws = np.concatenate([(counts * weight) @ radial for counts in blocks])
    return interval(weight @ radial, draws, bootstrap)
