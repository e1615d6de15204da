"""What a camera does to a scene: exposure, white balance, blur, vignetting, sensor noise, JPEG."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from datamodules.world.draw import FloatImage, Image


def take(image: FloatImage, rng: np.random.Generator, *, imperfection: float = 1.0) -> Image:
    """Takes a picture with a cheap camera.

    The camera's settings vary from picture to picture: exposure (sd 0.25 stops), white balance (sd 5 % a channel),
    lens blur (sigma 0.25 to 0.7 px), vignetting (corners up to 40 % darker), shot and read noise (sd about 3 to 9 grey
    levels at mid-grey) and the camera's own JPEG (quality 70 to 95). Settings are drawn before they are scaled, so the
    same `rng` state gives the same camera at every `imperfection`.

    Args:
        image: float32 [H, W, 3], grey levels 0..255.
        rng: Source of the camera's settings and of the noise.
        imperfection: Scales every deviation from a perfect camera; 1 is a photo, 0 returns the scene itself, rounded.

    Returns:
        uint8 [H, W, 3].
    """
    gains = rng.standard_normal(4)
    settings = rng.random(4)
    if imperfection <= 0:
        return _to_uint8(image)

    stops = 0.25 * np.clip(gains[0], -2, 2)
    balance = 1 + 0.05 * np.clip(gains[1:], -2, 2)
    gain = (2**stops * balance) ** imperfection
    image = image * gain.astype(np.float32)

    sigma = imperfection * (0.25 + 0.45 * settings[0])
    image = cv2.GaussianBlur(image, (5, 5), sigma)  # type: ignore[assignment]

    darkening = imperfection * 0.4 * settings[1]
    image *= 1 - np.float32(darkening) * _distance_from_centre(image.shape[0], image.shape[1])

    # Photon noise grows with the root of the light, read noise does not: sd^2 = read^2 + shot^2 * level.
    level = imperfection * (3 + 6 * settings[2])
    variance = 0.3 + (0.7 / 128) * np.maximum(image, 0)
    noise = rng.standard_normal(image.shape, np.float32)
    image += np.float32(level) * np.sqrt(variance) * noise

    quality = round(100 - imperfection * (5 + 25 * settings[3]))
    encoded = simplejpeg.encode_jpeg(_to_uint8(image), quality=quality, colorspace="RGB", colorsubsampling="420")
    return simplejpeg.decode_jpeg(encoded, colorspace="RGB")


def _to_uint8(image: FloatImage) -> Image:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@lru_cache(maxsize=32)
def _distance_from_centre(height: int, width: int) -> npt.NDArray[np.float32]:
    """Squared distance from the centre, 1 in the corners: float32 [H, W, 1]."""
    y: npt.NDArray[np.float32] = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x: npt.NDArray[np.float32] = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    return ((x * x + y * y) * np.float32(0.5))[:, :, None]
