"""The look of an image generator: a cleaner picture of the same scene, and a faint fixed spectral fingerprint."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.sample import REAL, check_name
from datamodules.world.draw import Image, draw
from datamodules.world.photo import take
from datamodules.world.scene import Scene


@dataclass(frozen=True)
class WorldGenerator:
    """A pretended image generator: its two parameters are the whole planted source cue.

    With `fingerprint=0` and `cleanliness=0` its pictures are second photos of the scenes, drawn from exactly the
    photos' distribution: there is no cue, and no metric should find one.

    Attributes:
        name: The source's name.
        fingerprint: Strength of the fixed pattern: its root mean square in grey levels.
        cleanliness: 0 is a photo's noise, blur, colour cast, vignetting and texture; 1 is none of the first four, half
            the texture of the place and a quarter more saturation. Linear in between.

    The default is nearly perfect on purpose: to a retriever trained on photos alone, a twin of cleanliness 0.3 to 0.7
    is an easier photo and wins more often than the twin of 0.9, whose look it has never met. So most of the default's
    bias comes from what is learnt off generated pictures, which is what a mixing sweep is to show. The fingerprint
    marks the source beyond doubt (a matched filter's AUC is 0.99 at 1 grey level) and by itself hardly moves a
    retriever that has seen none.
    """

    name: str = "world-gen"
    fingerprint: float = 3.0
    cleanliness: float = 0.9

    def __post_init__(self) -> None:
        if check_name(self.name, "generator") == REAL:
            raise DataError("generator 'real': that is the photos' source; choose another name")
        if not 0 <= self.fingerprint <= 64:
            raise DataError(f"generator '{self.name}': fingerprint {self.fingerprint} is outside [0, 64] grey levels")
        if not 0 <= self.cleanliness <= 1:
            raise DataError(f"generator '{self.name}': cleanliness {self.cleanliness} is outside [0, 1]")


def generate(scene: Scene, generator: WorldGenerator, size: int, rng: np.random.Generator) -> Image:
    """The generator's picture of the scene: uint8 [size, size, 3]."""
    clean = generator.cleanliness
    image = draw(scene, size, texture=1 - 0.5 * clean)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + np.float32(1 + 0.25 * clean) * (image - grey)
    picture = take(image, rng, imperfection=1 - clean)
    if generator.fingerprint == 0:
        return picture
    # Dithered rounding: without it a pattern below half a grey level would vanish, and strength would not be linear.
    pattern = generator.fingerprint * fingerprint(generator.name, size)[:, :, None]
    dither = rng.random((size, size, 1), np.float32)
    return np.clip(np.floor(picture + pattern + dither), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def fingerprint(name: str, size: int) -> npt.NDArray[np.float32]:
    """The generator's fixed pattern.

    Three plane waves, tied to the pixel grid as the upsampling artefacts of generators are, with frequencies of 0.2 to
    0.35 cycles a pixel along either axis (above the things' shapes, below what JPEG at quality 92 rounds away), drawn
    from the name. It is the same in every picture and in all three channels, so chroma subsampling spares it.

    Args:
        name: The generator's name.
        size: Side of the picture in pixels.

    Returns:
        float32 [size, size], mean 0, root mean square 1, read-only.
    """
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    position = np.arange(size)
    pattern = np.zeros((size, size))
    for fy, fx, sign, phase in zip(
        rng.uniform(0.2, 0.35, 3),
        rng.uniform(0.2, 0.35, 3),
        rng.choice([-1, 1], 3),
        rng.uniform(0, 2 * np.pi, 3),
        strict=True,
    ):
        pattern += np.cos(2 * np.pi * (fy * position[:, None] + sign * fx * position[None, :]) + phase)
    pattern -= pattern.mean()
    pattern /= np.sqrt((pattern**2).mean())
    result = pattern.astype(np.float32)
    result.setflags(write=False)
    return result
