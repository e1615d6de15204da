"""Encoded bytes to a uint8 picture of the model's size, by the fastest decoder that fits."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from datamodules.errors import DataError, SampleError

Picture = npt.NDArray[np.uint8]

# A picture of more pixels than this is refused before it is decoded: a few kilobytes can claim gigabytes.
MAX_PIXELS = 200_000_000

_MILD = 1.3

# Others would be tried too, and PostScript is a program that Pillow hands to another program.
_OTHER_FORMATS = ("PNG", "WEBP")

_LARGE_PIXELS, _MOST_SCANS, _SCAN = 2**24, 100, b"\xff\xda"

# Workers are processes already; OpenCV's own threads would only compete with them.
cv2.setNumThreads(0)


@dataclass(frozen=True)
class Crop:
    """Part of a picture, in shares of its height and width, and whether to mirror it."""

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0
    mirror: bool = False


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop and mirroring for training.

    Attributes:
        scale: smallest and largest share of the (square) picture's area that a crop keeps; (1, 1) crops nothing.
        flip: probability of mirroring. Captions that speak of left and right want 0.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        low, high = self.scale
        if not 0.0 < low <= high <= 1.0:
            raise DataError(f"data.augment.scale must be two shares 0 < low <= high <= 1, got {self.scale}")
        if not 0.0 <= self.flip <= 1.0:
            raise DataError(f"data.augment.flip must lie in [0, 1], got {self.flip}")

    @property
    def is_identity(self) -> bool:
        """Whether pictures are left as they are."""
        return self.scale == (1.0, 1.0) and self.flip == 0.0

    def draw(self, u: npt.NDArray[np.float64]) -> Crop:
        """Make a crop of four uniform numbers in [0, 1)."""
        low, high = self.scale
        side = float(np.sqrt(low + (high - low) * u[0]))
        return Crop(float(u[1]) * (1 - side), float(u[2]) * (1 - side), side, side, bool(u[3] < self.flip))


def decode(data: bytes, name: str = "picture", *, min_side: int = 0) -> Picture:
    """Decode JPEG, PNG or WebP.

    Args:
        data: the encoded picture.
        name: what to call it in an error.
        min_side: for JPEG, decode at the smallest DCT scale whose sides are both at least this; 0 decodes in full.

    Returns:
        [H, W, 3] uint8, RGB.

    Raises:
        SampleError: where it is corrupt ("undecodable") or larger than ``MAX_PIXELS`` ("oversized").
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _decode_jpeg(data, name, min_side)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's of large pictures: ours is the limit
            with Image.open(io.BytesIO(data), formats=_OTHER_FORMATS) as image:
                _check_pixels(name, image.width, image.height)
                return _rgb(image)
    except SampleError:
        raise
    except Image.DecompressionBombError as error:
        raise SampleError("oversized", f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise SampleError("undecodable", f"{name}: is no JPEG, PNG or WebP") from error
    except Exception as error:  # decoders raise whatever they please on corrupt data
        raise SampleError("undecodable", f"{name}: cannot be decoded ({error})") from error


def _decode_jpeg(data: bytes, name: str, min_side: int) -> Picture:
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    _check_pixels(name, width, height)
    # Every scan is a pass over the whole picture, and an empty one takes a few bytes. Counting them takes a twentieth
    # of decoding, so it is done where a pass is long.
    if height * width > _LARGE_PIXELS and data.count(_SCAN) > _MOST_SCANS:
        raise SampleError("oversized", f"{name}: is a JPEG of more than {_MOST_SCANS} scans")
    return simplejpeg.decode_jpeg(
        data, "RGB", min_height=min_side, min_width=min_side, min_factor=1, fastdct=False, fastupsample=False
    )


def _rgb(image: Image.Image) -> Picture:
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would cut off what is above 255
        grey = (np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _check_pixels(name: str, width: int, height: int) -> None:
    if height * width > MAX_PIXELS:
        raise SampleError("oversized", f"{name}: {width} x {height} pixels is over the limit of {MAX_PIXELS}")


def fit(picture: Picture, size: tuple[int, int], crop: Crop | None = None, out: Picture | None = None) -> Picture:
    """Cut the centre to the aspect of ``size``, take the crop of it, and resize.

    Both sources go through the same path whatever their geometry, so that it does not betray them.

    Args:
        picture: [H, W, 3] uint8.
        size: height and width to come out.
        crop: part of the centre cut to keep, None for all of it.
        out: [size[0], size[1], 3] uint8, contiguous, to write to; None makes a new one.

    Returns:
        ``out``, or a new picture of that shape.
    """
    height, width = picture.shape[:2]
    out_height, out_width = size
    if out is None:
        out = np.empty((out_height, out_width, 3), dtype=np.uint8)
    scale = min(height / out_height, width / out_width)
    cut_height, cut_width = out_height * scale, out_width * scale
    top, left = (height - cut_height) / 2, (width - cut_width) / 2
    if crop is not None:
        top, left = top + crop.top * cut_height, left + crop.left * cut_width
        cut_height, cut_width = crop.height * cut_height, crop.width * cut_width
    y0, x0 = min(round(top), height - 1), min(round(left), width - 1)
    y1, x1 = max(round(top + cut_height), y0 + 1), max(round(left + cut_width), x0 + 1)
    part = picture[y0:y1, x0:x1]
    if part.shape[:2] == size:
        out[...] = part
    else:
        cv2.resize(part, (out_width, out_height), dst=out, interpolation=_interpolation(part.shape[0] / out_height))
    if crop is not None and crop.mirror:
        out[...] = out[:, ::-1].copy()
    return out


def _interpolation(shrinking: float) -> int:
    """Choose the filter for a scale.

    Antialiased bicubic, as trainers in Pillow use it, is the measure. Averaging areas is close to it, but takes six
    times as long as interpolating, which is as close where the picture hardly shrinks (root mean squared difference on
    COCO photos, in levels: at 1.14 times 1.9 against 2.0 of areas, at 1.3 times 2.0 against 1.8, at 2 times 4.2 against
    1.7).
    """
    if shrinking < 1:
        return cv2.INTER_CUBIC
    return cv2.INTER_LINEAR if shrinking < _MILD else cv2.INTER_AREA


def decode_and_fit(
    data: bytes, size: tuple[int, int], name: str = "picture", crop: Crop | None = None, out: Picture | None = None
) -> Picture:
    """Decode at the smallest sufficient DCT scale, then :func:`fit`."""
    share = min(crop.height, crop.width) if crop is not None else 1.0
    # The decoder's floor is on both sides, which holds for the centre cut and for the crop inside it.
    return fit(decode(data, name, min_side=math.ceil(max(size) / share)), size, crop, out)
